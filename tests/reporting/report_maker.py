"""Reports made by hand from datasets: means by numpy, claims and strata by the simplest rules.

data = dataset(layers=3, columns=2)            # every value of it differs
report = report_of({"position, recomputed": data})
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from codi_patching.analysis.checks import Check
from codi_patching.analysis.findings import (
    Carried,
    Claim,
    Comparison,
    Course,
    Entry,
    Finding,
    StrataFinding,
    StrataTable,
    Stratum,
)
from codi_patching.analysis.report import Report, Summary
from codi_patching.results.dataset import has_control, patching_dataset, run_of, structural_of
from codi_patching.results.description import Code, Grid, RunDescription
from codi_patching.results.pair_descriptions import Control, PairDescription

METRICS = ("kl_divergence", "recovery", "clean_probability", "predicts_clean")
CHAIN = ("cosine_to_clean", "cosine_to_corrupted")
STRATA = ((2, 1), (2, 2), (3, 1), (3, 2), (3, 3))


def run(experiment="position", layers=3, columns=2, zeros=((-1, -1),), **changed):
    latents = "frozen" if experiment == "layer" else "recomputed"
    names = ("all",) if experiment == "layer" else tuple(map(str, range(columns)))
    strategy = "relay" if experiment == "iterative" else None
    grid = Grid(
        tuple(map(str, range(layers))),
        "iteration" if strategy else "position",
        names,
        tuple((row % layers, column % len(names)) for row, column in zeros),
    )
    made = RunDescription(
        experiment=experiment, strategy=strategy, latents=latents, direction="denoising",
        source="clean", control="sibling", site="resid_post", model="codi-tiny",
        model_type="llama", num_latents=columns, checkpoint_sha256="7c548f5bcec7" + "0" * 52,
        checkpoint={"source": "codi-tiny"}, data="", data_sha256="bc" * 32, seed=42,
        precision="32-true", device={"kind": "cpu"}, versions={"torch": "2.13.0"},
        code=Code("c0de" * 16, "0.2.0", "abcdef0", False), grid=grid,
        metrics=METRICS + CHAIN * (strategy is not None), num_pairs=10,
        config={"model": {"class_path": "PositionPatching"}},
    )  # fmt: skip
    return replace(made, **changed)


def dataset(description=None, pairs=10, ids="pair_{:02d}", text="Tom has {} pears.", control=True):
    """Results in which every mean over pairs is another one, growing with layer and column."""
    description = replace(description or run(), num_pairs=pairs)
    rows, columns = description.grid.shape
    values, others = {}, {}
    base = np.linspace(0, 1, rows * columns).reshape(rows, columns)
    for place, metric in enumerate(description.metrics):
        each = (np.arange(pairs) ** 2 / max(pairs - 1, 1))[:, None, None]  # a mean is no median
        values[metric] = 0.1 + 0.5 * base[None] + 0.004 * each + 0.013 * place
        others[metric] = 0.02 + 0.1 * base[None] + 0.002 * each + 0.003 * place
    values["predicts_clean"] = np.broadcast_to(
        (np.arange(pairs) % len(STRATA) % 2 == 0)[:, None, None] & (base > 0.3),
        (pairs, rows, columns),
    ).astype(float)
    others["predicts_clean"] = np.zeros((pairs, rows, columns))
    described = []
    for index in range(pairs):
        steps, changed = STRATA[index % len(STRATA)]
        unpatched = {
            name: dict.fromkeys(description.metrics, level)
            for name, level in (("base", 0.05), ("source", 0.95), ("ceiling", 0.8))
        }
        described.append(
            PairDescription(
                base_question=text.format(index + 20), source_question=text.format(index + 30),
                base_answer=str(index + 3), source_answer=str(index + 8),
                base_answer_tokens=(index,), source_answer_tokens=(index + 5,), group=f"g{index}",
                **unpatched, ceiling_control=dict.fromkeys(description.metrics, 0.1),
                control=Control("sibling", text.format(index + 50), str(index + 90), f"p{index}"),
                num_steps=steps, changed_step=changed,
            )
        )  # fmt: skip
    names = [ids.format(index) for index in range(pairs)]
    return patching_dataset(description, names, described, values, others if control else {})


def parts(data):
    """Own against unpatched, and against the control, `(pairs, layers, columns)` each."""
    own = data["clean_probability"].sel(arm="own").values
    base = data["run_clean_probability"].sel(run="base").values[:, None, None]
    found = {"unpatched": own - base}
    if has_control(data):
        found["control"] = own - data["clean_probability"].sel(arm="control").values
    return {key: np.where(structural_of(data), np.nan, part) for key, part in found.items()}


def summary(label, data):
    measures = {m: data[m].sel(arm="own").values for m in run_of(data).metrics}
    if has_control(data):
        measures |= {
            f"control_{m}": data[m].sel(arm="control").values for m in run_of(data).metrics
        }
    both = parts(data)
    measures |= {f"content_over_{key}": part for key, part in both.items()}
    variables = {}
    for name, values in measures.items():
        mean, std = np.mean(values, 0), np.std(values, 0, ddof=1)
        half = 2 * std / np.sqrt(len(values))
        count = np.full(mean.shape, float(len(values)))
        stacked = np.stack([mean, std, mean - half, mean + half, count], -1)
        variables[name] = (("layer", "column", "statistic"), stacked)
    effect = np.minimum.reduce([part.mean(0) for part in both.values()])
    variables["content_effect"] = (("layer", "column"), effect)
    coordinates = {
        "layer": data.layer.values, "column": data.column.values,
        "statistic": ["mean", "std", "ci_low", "ci_high", "n"],
    }  # fmt: skip
    table = xr.Dataset(variables, coordinates)
    best = np.unravel_index(np.nanargmax(np.nan_to_num(effect, nan=-9)), effect.shape)
    return Summary(label, data, table, ((int(best[0]), int(best[1])),), (), ())


def comparisons(values):
    for key, part in values.items():
        mean, half = float(part.mean()), 3 * float(part.std(ddof=1)) / np.sqrt(len(part))
        up, down = int((part > 1e-6).sum()), int((part < -1e-6).sum())
        yield Comparison(key, mean, mean - half, mean + half, up, down, len(part), len(part))


def claim(name, values, layer=None, column=None, kind="content"):
    made = tuple(comparisons(values))
    rises = min(c.low for c in made) > 0
    verdict, bound = "rises" if rises else "at most", max(c.high for c in made)
    return Claim(name, verdict, made, 0.0001 if rises else 0.4, bound, layer, column, kind)


def cells(label, data):
    both, claims = parts(data), []
    for (row, place), layer, column in run_of(data).grid.cells():
        if not structural_of(data)[row, place]:
            own = {key: part[:, row, place] for key, part in both.items()}
            claims.append(claim(run_of(data).label((row, place)), own, layer, column))
    lead = max(claims, key=lambda c: c.lead.mean)
    tied = tuple(c.name for c in claims if abs(c.lead.mean - lead.lead.mean) < 0.03)
    return Finding("cells", 2, "yes", (label,), lead, tuple(claims), tied)


def ceiling(label, data):
    runs = data["run_clean_probability"]
    parts = {"unpatched": (runs.sel(run="ceiling") - runs.sel(run="base")).values}
    if has_control(data):
        parts["control"] = (runs.sel(run="ceiling") - runs.sel(run="ceiling_control")).values
    made = claim("ceiling", parts)
    return Finding("ceiling", 1, "yes", (label,), made, (made,))


def tables(label, data):
    known = sorted({*zip(data.num_steps.values, data.changed_step.values)})
    own = data.predicts_clean.sel(arm="own").values
    other = data.predicts_clean.sel(arm="control").values
    for row, layer in enumerate(data.layer.values):
        strata, entries = [], []
        for steps, changed in known:
            members = ((data.num_steps == steps) & (data.changed_step == changed)).values
            strata.append(Stratum(int(steps), int(changed), int(members.sum()), (int(changed),)))
            restored = (own[members, row] == 1) & (other[members, row] != 1)
            n = int(members.sum())
            entries.append(
                tuple(Entry(int(k), n, 0.0, 1.0, bool(k > n / 2), 0) for k in restored.sum(0))
            )
        carried = []
        for place, column in enumerate(data.column.values):
            # the latest step before the last of which all lengths show something
            steps = [s.changed_step for s, e in zip(strata, entries) if e[place].counts]
            carried.append(Carried(str(column), max(steps, default=None), (), 0, 0, 0, 0))
        yield StrataTable(
            label, str(layer), tuple(strata), tuple(map(str, data.column.values)), tuple(entries),
            tuple(carried), 0, own[:, row].size,
        )  # fmt: skip


def strata(label, data):
    found = tuple(tables(label, data))
    best = summary(label, data).top_content[0][0]
    return Finding(
        "strata", 3, "yes", (label,),
        strata=StrataFinding(found[best], found, 0.0001, 0.98, 0.99),
    )  # fmt: skip


def chain(label, data):
    both, courses = parts(data), []
    for row, layer in enumerate(data.layer.values):
        effects = tuple(
            claim(f"{layer}", {k: p[:, row, place] for k, p in both.items()}, str(layer), str(name))
            for place, name in enumerate(data.column.values)
            if not structural_of(data)[row, place]
        )
        courses.append(Course(str(layer), "fades", effects, None, (0.5, 0.3, 0.7)))
    return Finding("chain", 5, "yes", (label,), courses=tuple(courses))


def report_of(runs, lens=None, hit_rates=None, more=()):
    """A report of runs by label, with the findings that each can have."""
    findings = [ceiling(label, data) for label, data in list(runs.items())[:1]]
    for label, data in runs.items():
        description = run_of(data)
        findings.append(cells(label, data))
        if has_control(data) and not np.isnan(data.num_steps.values).any():
            findings.append(strata(label, data))
        if description.grid.column == "iteration":
            findings.append(chain(label, data))
    findings.append(Finding("needed", 8, "missing", (), missing=("knockout",)))
    checks = {label: (Check("self-patch", "0", "0", "pass"),) for label in runs}
    made = {label: summary(label, data) for label, data in runs.items()}
    return Report(made, lens, hit_rates, (*findings, *more), checks, dict.fromkeys(runs, ()), 0)
