const byId = id => document.getElementById(id);
const shown = v => v === null ? "undefined" : String(Number(v.toPrecision(4)));
const narrow = () => window.innerWidth < 700;
const diverging = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]];
const still = {displayModeBar: false, responsive: true};

function scaleOf(z, signed, least) {
  const most = Math.max(least, ...z.flat().filter(v => v !== null).map(Math.abs));
  return {zmin: signed ? -most : 0, zmax: most, colorscale: signed ? diverging : "Viridis"};
}

// An axis that goes as far as what is too small to matter at least.
function reach(title, values, least) {
  const known = values.flat().filter(v => v !== null);
  const low = Math.min(-0.1 * least, ...known), high = Math.max(least, ...known), spare = 0.04 * (high - low);
  return {title: {text: title}, fixedrange: true, automargin: true, range: [low - spare, high + spare]};
}

// A map of layers and columns; every number on hover, framed cells drawn as shapes.
function drawMap(id, arm, z, title, signed, limits, frames) {
  const text = arm.names.map((row, i) => row.map((name, j) => `${name}<br>${title} ${shown(z[i][j])}`
    + (arm.structural[i][j] ? "<br>zero by construction" : "")));
  const trace = {type: "heatmap", z, text, x: arm.columns, y: arm.layers, hoverongaps: false,
    hovertemplate: "%{text}<extra></extra>", xgap: 1, ygap: 1, ...limits,
    colorbar: narrow() ? {orientation: "h", y: -0.18, yanchor: "top", thickness: 12} : {thickness: 14}};
  const shapes = (frames || []).map(([i, j]) => ({type: "rect", x0: j - 0.46, x1: j + 0.46, y0: i - 0.44, y1: i + 0.44,
    line: {color: "#e69f00", width: 2.5}}));
  Plotly.react(id, [trace], {title: {text: title, font: {size: 13}}, margin: {l: 45, r: 10, t: 34, b: 42},
    plot_bgcolor: "#bdbdbd", shapes, xaxis: {title: {text: arm.column}, type: "category", fixedrange: true},
    yaxis: {title: {text: "layer"}, type: "category", fixedrange: true}}, still);
}

// A line for each layer from the unpatched run on, coloured by depth.
function drawChain(id, arm, z, title, least) {
  const depth = i => `hsl(${260 - 200 * i / Math.max(1, arm.layers.length - 1)}, 60%, 42%)`;
  const lines = arm.layers.map((layer, i) => ({type: "scatter", mode: "lines+markers", name: `layer ${layer}`,
    x: ["none", ...arm.columns], y: [0, ...z[i]], marker: {size: 4}, line: {color: depth(i), width: 1.5}}));
  Plotly.react(id, lines, {margin: {l: 50, r: 10, t: 10, b: 42}, showlegend: !narrow(),
    xaxis: {title: {text: "last iteration (none: unpatched)"}, type: "category", fixedrange: true},
    yaxis: reach(title, z, least)}, still);
}

data.arms.forEach((arm, index) => {
  const content = arm.means.content_effect;
  drawMap(`content-${index}`, arm, content, "rise of P(source answer)", true,
    scaleOf(content, true, arm.least.content_effect), arm.passing);
  const select = byId(`measure-${index}`);
  arm.measures.forEach(([name, label]) => select.add(new Option(label, name)));
  select.value = "kl_divergence";
  const draw = () => {
    const [name, label, signed] = arm.measures.find(([other]) => other === select.value);
    const z = arm.means[name].map((row, i) => row.map((v, j) => arm.structural[i][j] ? null : v));
    drawMap(`map-${index}`, arm, z, `mean ${label}`, signed, scaleOf(z, signed, arm.least[name] || 1e-12));
  };
  select.addEventListener("change", draw);
  draw();
  if (arm.chain) {
    drawChain(`chain-content-${index}`, arm, content, "rise of P(source answer)", arm.least.content_effect);
    drawChain(`chain-kl-${index}`, arm, arm.means.kl_divergence, "KL (nats)", arm.least.kl_divergence);
  }
});

// The lens beside the patching map of the same cells.
if (data.lens) {
  const lens = data.lens, share = {zmin: 0, zmax: 1, colorscale: "Viridis"};
  lens.steps.forEach((step, i) => byId("lens-step").add(new Option(step.name, i)));
  const drawStep = () => {
    const step = lens.steps[byId("lens-step").value];
    drawMap("lens-own", lens, step.own, `share of pairs, among the ${lens.top} most probable`, false, share, step.passing);
    drawMap("lens-chance", lens, step.chance, "share of pairs, another pair's result", false, share);
  };
  byId("lens-step").addEventListener("change", drawStep);
  drawStep();
  if (lens.arms.length) {
    lens.arms.forEach(([label, i]) => byId("lens-arm").add(new Option(label, i)));
    const drawArm = () => {
      const arm = data.arms[byId("lens-arm").value], content = arm.means.content_effect;
      drawMap("lens-content", arm, content, "content effect, rise of P(source answer)", true,
        scaleOf(content, true, arm.least.content_effect), arm.passing);
    };
    byId("lens-arm").addEventListener("change", drawArm);
    drawArm();
  }
}

if (data.byLayer.length) {
  const series = data.byLayer.map(e => ({type: "scatter", mode: "markers+lines", name: e.label, x: e.layers, y: e.mean, line: {width: 1},
    error_y: {type: "data", symmetric: false, array: e.up, arrayminus: e.down, thickness: 1}}));
  Plotly.newPlot("by-layer", series, {margin: {l: 50, r: 10, t: 10, b: 42}, legend: {orientation: "h", y: -0.15},
    xaxis: {title: {text: "layer"}, type: "category", fixedrange: true},
    yaxis: reach("rise of P(source answer)", data.byLayer.map(e => e.mean.flatMap((m, i) => [m - e.down[i], m + e.up[i]])),
      data.arms[0].least.content_effect)}, still);
}

function question(id, parts) {
  byId(id).replaceChildren(...parts.map(([text, changed]) => {
    if (!changed) return document.createTextNode(text);
    const mark = document.createElement("mark");
    mark.textContent = text;
    return mark;
  }));
}

data.pairs.forEach(pair => byId("pair").add(new Option(`${pair.id}: ${pair.sourceAnswer} into ${pair.baseAnswer}`, pair.id)));
data.arms.forEach((arm, i) => byId("arm").add(new Option(arm.label, i)));

function drawPair() {
  const pair = data.pairs[byId("pair").selectedIndex], arm = data.arms[byId("arm").value];
  question("source", pair.source);
  question("base", pair.base);
  byId("source-answer").textContent = pair.sourceAnswer;
  byId("base-answer").textContent = pair.baseAnswer;
  byId("control-head").textContent = pair.control
    ? `Control, a ${pair.control.kind} (answer ${pair.control.answer})` : "This pair has no control.";
  byId("control").hidden = !pair.control;
  byId("control").textContent = pair.control ? pair.control.question : "";
  byId("unknown").textContent = pair.unknown.length ? `Words that the model does not know: ${pair.unknown.join(", ")}` : "";
  const table = byId("runs");
  table.replaceChildren();
  [["without patches of single cells", "P(source answer)"], ...pair.runs.map(([name, p]) => [name, shown(p)])]
    .forEach(row => row.reduce((line, cell) => (line.insertCell().textContent = cell, line), table.insertRow()));
  const maps = arm.pairs.find(other => other.id === pair.id);
  byId("pair-control").hidden = !maps || !maps.control;
  if (!maps) return;
  const probability = {zmin: -1, zmax: 1, colorscale: diverging};
  drawMap("pair-content", arm, maps.unpatched, "P(source answer), rise over the unpatched run", true, probability);
  if (maps.control) drawMap("pair-control", arm, maps.control, "P(source answer), rise over the control", true, probability);
  drawMap("pair-kl", arm, maps.kl, "KL(patched ‖ unpatched), nats", false, {zmin: 0, zmax: arm.klTop, colorscale: "Viridis"});
}
byId("pair").addEventListener("change", drawPair);
byId("arm").addEventListener("change", drawPair);
drawPair();
