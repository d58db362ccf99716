// Draws the picture and what a click opens. All text enters as text, never as HTML. What is chosen
// stands in the address: #run=…&measure=…&layer=…&position=…&pair=…
const byId = id => document.getElementById(id);
const runs = new Map(data.runs.map(run => [run.id, run]));
const shown = v => v === null || v === undefined ? "–" : String(Number(v.toPrecision(3)));
const AGREE = 0.015;

// An element with attributes and children; texts become text nodes.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "click") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null).flat());
  return element;
}

const pairsOf = run => data.pairs[run.side] || [];

// -- what is chosen, read from the address and written to it
function state() {
  const given = new URLSearchParams(location.hash.slice(1));
  const run = runs.get(given.get("run")) || runs.get(data.first);
  const measure = run.measures.find(([name]) => name === given.get("measure")) || run.measures[0];
  const row = run.layers.indexOf(given.get("layer")), column = run.columns.indexOf(given.get("position"));
  const pair = pairsOf(run).find(other => other.id === given.get("pair")) || null;
  return {run, measure, row, column, pair};
}
function choose(changes) {
  const now = state(), given = new URLSearchParams();
  const next = {run: now.run.id, measure: now.measure[0], layer: now.run.layers[now.row] ?? null,
    position: now.run.columns[now.column] ?? null, pair: now.pair && now.pair.id, ...changes};
  for (const [key, value] of Object.entries(next)) if (value !== null) given.set(key, value);
  location.hash = given.toString();
}

// -- colours: white at 0, blue above, orange below
const mix = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
const BLUES = [[255, 255, 255], [158, 202, 225], [66, 146, 198], [8, 69, 148]];
const ORANGES = [[255, 255, 255], [253, 190, 133], [230, 120, 30], [140, 45, 4]];
function colour(value, end) {
  const stops = value < 0 ? ORANGES : BLUES, t = Math.min(1, Math.abs(value) / end) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(t));
  return mix(stops[low], stops[low + 1], t - low);
}
const css = rgb => `rgb(${rgb.join(",")})`;
const linear = x => x <= 10.3 ? x / 3294.6 : ((x / 255 + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.05 + 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const textOn = rgb => 1.05 / light(rgb) > light(rgb) / 0.05 ? "#fff" : "#000"; // whichever contrasts more
function endOf(run, values, [name, , least]) {
  const sizes = values.filter(v => v !== null).map(Math.abs);
  const ceiling = name.startsWith("content") ? Math.max(run.ceiling || 0, run.end || 0) : 0; // models share one end
  return Math.max(least, ceiling, ...sizes);
}

// -- the map: layers upwards, a button for each cell; neighbours that agree are labelled once
const median = sorted => (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
function labels(run, values, claimed) {
  const columns = run.columns.length, rows = run.layers.length, texts = new Map();
  for (let column = 0; column < columns; column++) {
    let start = 0;
    const at = row => run.structural[row * columns + column] === "1" ? null : values[row * columns + column];
    for (let row = 1; row <= rows; row++) {
      const own = [];
      for (let other = start; other <= Math.min(row, rows - 1); other++) own.push(at(other));
      const agrees = row < rows && !own.includes(null) && Math.max(...own) - Math.min(...own) <= AGREE;
      if (agrees && claimed(row * columns + column) === claimed(start * columns + column)) continue;
      const middle = Math.floor((start + row - 1) / 2);
      const value = at(start) === null ? null : median(own.slice(0, row - start).sort((a, b) => a - b));
      if (value !== null && Math.abs(value) >= 0.005) texts.set(middle * columns + column, Math.abs(value) < 9.995 ? value.toFixed(2) : value.toFixed(0));
      start = row;
    }
  }
  return texts;
}
function edges(run, place, inside) {
  const columns = run.columns.length, column = place % columns, own = [];
  if (!inside(place + columns) || place + columns >= run.names.length) own.push("inset 0 1.5px #16202c");
  if (!inside(place - columns) || place < columns) own.push("inset 0 -1.5px #16202c");
  if (column === 0 || !inside(place - 1)) own.push("inset 1.5px 0 #16202c");
  if (column === columns - 1 || !inside(place + 1)) own.push("inset -1.5px 0 #16202c");
  return own.join(",");
}
function says(run, place, value) {
  if (run.structural[place] === "1") return `${run.names[place]}: zero by construction`;
  const claim = run.claims[place];
  return `${run.names[place]}: ${shown(value)}${claim ? claim[1] ? `, claimed${claim[5] ? ", not shown to be below the largest" : ""}` : ", not claimed" : ""}`;
}
function grid(run, values, measure, chosen, caption, pick) {
  const columns = run.columns.length, end = endOf(run, values, measure);
  const claimed = measure[0].startsWith("content") ? place => Boolean(run.claims[place] && run.claims[place][1]) : () => false;
  const texts = labels(run, values, claimed);
  const body = make("tbody"), step = run.layers.length > 24 ? 4 : 1;
  for (let row = run.layers.length - 1; row >= 0; row--) {
    const line = make("tr", {}, make("th", {scope: "row"}, row % step ? "" : run.layers[row]));
    for (let column = 0; column < columns; column++) {
      const place = row * columns + column, value = values[place], rgb = colour(value || 0, end);
      const zero = run.structural[place] === "1", here = place === chosen;
      const button = make("button", {"aria-label": says(run, place, value), "aria-pressed": String(here), "data-place": place,
        title: says(run, place, value), tabindex: here || (chosen < 0 && place === 0) ? 0 : -1,
        class: `${zero ? "zero" : value === null ? "none" : ""}${here ? " here" : ""}${claimed(place) && run.claims[place][5] ? " tied" : ""}`,
        click: () => pick(row, column)}, texts.get(place) || "\u00a0");
      button.style.backgroundColor = css(rgb);
      button.style.color = textOn(rgb);
      if (claimed(place)) button.style.boxShadow = edges(run, place, claimed);
      line.append(make("td", {}, button));
    }
    body.append(line);
  }
  const foot = make("tfoot", {}, make("tr", {}, make("th", {}), ...run.columns.map(name => make("th", {scope: "col"}, name))));
  const table = make("table", {class: `grid cells${run.layers.length > 24 ? " deep" : ""}`}, make("caption", {}, caption), foot, body);
  table.addEventListener("keydown", event => {
    const moves = {ArrowUp: columns, ArrowDown: -columns, ArrowLeft: -1, ArrowRight: 1}, move = moves[event.key];
    const target = move && table.querySelector(`[data-place="${Number(event.target.dataset.place) + move}"]`);
    if (target) { event.preventDefault(); target.focus(); }
  });
  return [table, end];
}
function drawMap({run, measure, row, column}) {
  const chosen = row >= 0 && column >= 0 ? row * run.columns.length + column : -1, had = byId("map").contains(document.activeElement);
  const values = run.means[measure[0]];
  const [table, end] = grid(run, values, measure, chosen, `${measure[0] === "content_effect" ? run.effect : measure[1]}, ${run.columns.length > 1 ? `layers × ${run.column}s` : "by layer"}`,
    (r, c) => choose({layer: run.layers[r], position: run.columns[c]}));
  const low = Math.min(0, ...values.filter(v => v !== null)), bar = make("div", {class: "bar"});
  const stops = [0, 0.25, 0.5, 0.75, 1].map(t => css(colour(low < -0.02 ? (2 * t - 1) * end : t * end, end)));
  bar.style.background = `linear-gradient(90deg, ${stops.join(",")})`;
  const top = run.ceiling && measure[0].startsWith("content") ? `${shown(end)}${end - run.ceiling < 0.002 ? " = all thoughts at once" : `; all thoughts at once ${shown(run.ceiling)}`}` : shown(end);
  byId("map").replaceChildren(table, bar, make("div", {class: "ends"}, make("span", {}, low < -0.02 ? shown(-end) : "0"), make("span", {}, top)));
  if (had && chosen >= 0) table.querySelector(`[data-place="${chosen}"]`).focus();
}

// -- what each thought carries, by the step that changed
const named = layers => layers.length > 1 ? `layers ${layers[0]} to ${layers[layers.length - 1]}` : `layer ${layers[0]}`;
function strataTable(run, table, row, column) {
  const body = make("tbody");
  run.strata.rows.forEach(([steps, name, n], place) => {
    if (steps !== null && (place === 0 || run.strata.rows[place - 1][0] !== steps))
      body.append(make("tr", {class: "group"}, make("th", {scope: "rowgroup", colspan: run.columns.length + 1}, `${steps}-step problems`)));
    body.append(make("tr", {}, make("th", {scope: "row", title: `${n} pairs`}, name), ...table.entries[place].map(([k, of, counts], c) =>
      make("td", {}, make("button", {class: `${counts ? "counts" : k ? "some" : ""}${c === column && table.layers.includes(run.layers[row]) ? " here" : ""}`,
        "aria-label": `${name}, ${run.columns[c]}: ${k} of ${of} restored${counts ? ", more than chance allows" : ""}`,
        click: () => choose({layer: table.layers.includes(run.layers[row]) ? run.layers[row] : table.layers[0], position: run.columns[c]})}, `${k}/${of}`)))));
  });
  const foot = make("tfoot", {}, make("tr", {}, make("th", {}), ...run.columns.map(name => make("th", {scope: "col"}, name))));
  return make("table", {class: "grid strata"}, make("caption", {}, `Restored at ${named(table.layers)}`), foot, body);
}
function drawStrata({run, row, column}) {
  const both = ["first", "second"].map(byId);
  both.forEach(panel => panel.replaceChildren());
  if (!run.strata) return;
  const at = layer => run.strata.tables.find(table => table.layers.includes(layer));
  const [first, second] = run.strata.first.map(at), chosen = row >= 0 ? at(run.layers[row]) : null;
  const tables = chosen && chosen !== first && chosen !== second ? [chosen, first] : [first, second];
  tables.forEach((table, i) => table && both[i].append(strataTable(run, table, row, column)));
}

// -- a cell: its numbers, and its pairs by stratum
function drawCell({run, row, column, pair}) {
  const panel = byId("cell"), place = row * run.columns.length + column;
  panel.replaceChildren();
  if (row < 0 || column < 0) return;
  panel.append(make("h2", {}, run.names[place]));
  const claim = run.claims[place];
  if (run.structural[place] === "1") panel.append(make("p", {}, "Zero by construction: nothing reads this state."));
  else if (claim) panel.append(make("p", {}, `${claim[1] ? "Claimed" : `Not claimed, at most ${shown(claim[4])}`}: ${claim[0]}${claim[3] === null ? "" : `, p = ${shown(claim[3])}`}.`),
    ...claim[2].map(said => make("p", {}, said)));
  else panel.append(make("p", {}, run.measures.slice(0, 8).map(([name, label]) => `${label}: ${shown(run.means[name][place])}`).join("; ")));
  const own = run.pairs;
  if (!own.ids) return;
  const groups = new Map();
  own.ids.forEach((id, index) => {
    const key = own.stratum ? own.stratum[index] : -1;
    groups.set(key, [...groups.get(key) || [], index]);
  });
  [...groups.keys()].sort((a, b) => a - b).forEach(key => {
    const stratum = run.strata && run.strata.rows[key], name = stratum ? `${stratum[0] === null ? "" : `${stratum[0]}-step problems, `}${stratum[1]}` : "pairs";
    const members = groups.get(key), yes = own.restored && members.filter(i => own.restored[i][place] === "1").length;
    panel.append(make("p", {}, `${name}${own.restored ? `: ${yes} of ${members.length} restored` : ""}`), make("div", {class: "chips"}, members.map(index => {
      const is = own.restored ? {1: "yes", 2: "other"}[own.restored[index][place]] || "" : "";
      const rise = shown(own.unpatched[index][place]), said = {yes: "restored", other: "restored by the control's patch"}[is] || (own.restored ? "not restored" : "");
      return make("button", {class: is, title: `${said} P(source answer) rises by ${rise}`, "aria-label": `${own.ids[index]}: ${said}, rise ${rise}`,
        "aria-pressed": String(Boolean(pair && pair.id === own.ids[index])), click: () => choose({pair: own.ids[index]})}, own.ids[index]);
    })));
  });
  if (own.restored) panel.append(make("p", {class: "once"}, "Dark: says the source answer with the own patch and not with the control's. Dashed: the other way round."));
}

// -- a pair: its questions, its unpatched runs, its own map
const marked = parts => parts.map(([text, changed]) => changed ? make("mark", {}, text) : text);
function drawPair({run, pair}) {
  const panel = byId("pair");
  panel.replaceChildren();
  if (!pair) return;
  panel.append(make("h2", {}, pair.id), make("p", {}, "source, answer ", make("b", {}, pair.answers[0]), ": ", ...marked(pair.source)),
    make("p", {}, "patched, answer ", make("b", {}, pair.answers[1]), ": ", ...marked(pair.base)),
    pair.control ? make("p", {}, `control, a ${pair.control[0]}, answer ${pair.control[2]}: ${pair.control[1]}`) : make("p", {}, "no control"));
  if (pair.unknown.length) panel.append(make("p", {}, `words that the model does not know: ${pair.unknown.join(", ")}`));
  panel.append(make("p", {}, `P(source answer): ${pair.runs.map(([name, p]) => `${name} ${shown(p)}`).join(" · ")}`));
  const index = (run.pairs.ids || []).indexOf(pair.id), maps = make("div", {class: "panels"});
  [["unpatched", "rise over the unpatched run", 1], ["control", "rise over the control's patch", 1], ["kl", "KL to the unpatched run, nats", 0.05]].forEach(([key, name, least]) => {
    if (index < 0 || !run.pairs[key]) return;
    const plain = {...run, claims: {}, ceiling: null, end: 0};
    maps.append(make("div", {}, grid(plain, run.pairs[key][index], [key, name, least], -1, name, (r, c) => choose({layer: run.layers[r], position: run.columns[c]}))[0]));
  });
  panel.append(maps);
}

// -- folds, drawn when they are opened
const table = (head, rows) => make("table", {}, make("tr", {}, ...head.map(text => make("th", {scope: "col"}, text))),
  ...rows.map(row => make("tr", {}, ...row.map(cell => make("td", {}, cell)))));
const folds = {
  pairs: ({run}) => byId("all-pairs").replaceChildren(table(["pair", "source question", "answer", "patched question", "answer"], pairsOf(run).map(pair => [
    make("button", {class: "opens", click: () => { choose({pair: pair.id}); byId("pair").scrollIntoView(); }}, pair.id),
    make("span", {}, ...marked(pair.source)), pair.answers[0], make("span", {}, ...marked(pair.base)), pair.answers[1]]))),
  cells: ({run}) => byId("all-cells").replaceChildren(table(["mean over pairs", ...run.measures.map(([, label]) => label)],
    run.names.map((name, place) => [name, ...run.measures.map(([key]) => shown(run.means[key][place]))]))),
  maps: () => byId("all-maps").replaceChildren(...data.runs.flatMap(run => run.measures.filter(([name], place) => ["content_effect", "kl_divergence", "recovery"].includes(name) || run.id === "lens" || (run.id === "attention" && place < 8) || (run.id === "knockout" && place < 4))
    .map(measure => make("div", {}, grid(run, run.means[measure[0]], measure, -1, `${run.id}: ${measure[1]}`,
      (r, c) => choose({run: run.id, measure: measure[0], layer: run.layers[r], position: run.columns[c]}))[0])))),
};
Object.keys(folds).forEach(id => byId(id).addEventListener("toggle", () => byId(id).open && folds[id](state())));
document.querySelectorAll(".questions .opens").forEach(button => button.addEventListener("click", () => {
  const claims = button.closest("tr").nextElementSibling;
  claims.hidden = !claims.hidden;
  button.setAttribute("aria-expanded", String(!claims.hidden));
}));

// -- all of it
function options(id, pairs, chosen) {
  byId(id).replaceChildren(...pairs.map(([value, text]) => make("option", {value}, text)));
  byId(id).value = chosen;
}
function draw() {
  const anchor = location.hash.length > 1 && !location.hash.includes("=") && byId(decodeURIComponent(location.hash.slice(1)));
  if (anchor) { anchor.open = true; anchor.scrollIntoView(); if (byId("map").hasChildNodes()) return; }
  const now = state();
  options("run", data.runs.map(run => [run.id, run.id]), now.run.id);
  options("measure", now.run.measures.map(([name, label]) => [name, label]), now.measure[0]);
  options("layer", [["", "–"], ...now.run.layers.map(name => [name, name])], now.run.layers[now.row] || "");
  byId("layer-label").hidden = !now.run.strata;
  const tied = now.measure[0].startsWith("content") ? Object.values(now.run.claims).filter(claim => claim[5]).length : 0;
  const claimed = Object.keys(now.run.claims).length ? "Outlined: claimed. " : "";
  const hatched = now.run.structural.includes("1") ? "Hatched: zero by construction. " : "";
  byId("reading").textContent = `${now.run.title}. ${claimed}${tied ? `Dots: ${tied} cells not shown to be below the largest. ` : ""}${hatched}${now.run.strata ? "Beside the map, by the step that changed: pairs with the source answer; dark: more than chance allows. " : ""}Click a cell for its numbers and pairs.`;
  [drawMap, drawStrata, drawCell, drawPair].forEach(part => part(now));
  ["cells", "pairs"].filter(id => byId(id).open).forEach(id => folds[id](now));
}
if (data.runs.length) {
  byId("run").addEventListener("change", event => choose({run: event.target.value, measure: null, layer: null, position: null}));
  byId("measure").addEventListener("change", event => choose({measure: event.target.value}));
  byId("layer").addEventListener("change", event => choose({layer: event.target.value || null, position: event.target.value ? state().run.columns[state().column] ?? null : null}));
  window.addEventListener("hashchange", draw);
  draw();
}
