"""Results of any experiment without a model: noise, planted effects, and folders of both.

    data = make(run_of("position", layers=4, columns=3), pairs=24, planted={(1, 2): 0.5})
    data = written(tmp_path / "out", run_of("layer"), pairs=12)    # the same through files

Own patches raise the probability of the source run's answer by what is planted in a cell, the
control's by `stranger`; KL grows with what is planted in `disrupting` too. `carried` plants
by stratum: whole pairs whose answer is restored, in exact numbers.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from codi_patching.results.dataset import patching_dataset
from codi_patching.results.description import Code, Grid, RunDescription
from codi_patching.results.pair_descriptions import Control, PairDescription, VerifiedRun
from codi_patching.results.read import read_results
from codi_patching.results.records import ExcludedPair, PairRecord
from codi_patching.results.store import Store
from codi_patching.results.write import write_run

METRICS = (
    "kl_divergence",
    "l2_difference",
    "prediction_change_rate",
    "answer_logit_difference",
    "kl_to_source",
    "recovery",
    "predicts_clean",
    "predicts_corrupted",
    "clean_probability",
    "corrupted_probability",
)
CHAIN = ("cosine_to_clean", "cosine_to_corrupted")
SHA = "7c548f5bcec7" + "0" * 52


def run_of(experiment="position", layers=4, columns=3, thought=False, **changed):
    """A run's description; `iterative` is relay if nothing else is said."""
    rows = ("thought",) * thought + tuple(map(str, range(layers)))
    latents = "frozen" if experiment == "layer" else "recomputed"
    latents = changed.pop("latents", latents)
    strategy = changed.pop("strategy", "relay") if experiment == "iterative" else None
    names = ("all",) if experiment == "layer" else tuple(map(str, range(columns)))
    last = len(rows) - 1
    if experiment == "iterative":
        zeros = [(last, columns - 1)] if strategy == "relay" else []
    elif latents == "frozen":
        zeros = [(last, column) for column in range(len(names))]
    else:
        zeros = [(last, columns - 1)] if experiment == "position" else []
    kind = "iteration" if experiment == "iterative" else "position"
    run = RunDescription(
        experiment=experiment,
        strategy=strategy,
        latents=latents,
        direction="denoising",
        source="clean",
        control="sibling",
        site="resid_post",
        model="codi-tiny",
        model_type="llama",
        num_latents=columns,
        checkpoint_sha256=SHA,
        checkpoint={"source": "codi-tiny"},
        data="",
        data_sha256="bc9677785e53" + "0" * 52,
        seed=42,
        precision="32-true",
        device={"kind": "cpu"},
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        code=Code("c0de" * 16, "0.2.0", "abcdef0", False),
        grid=Grid(rows, kind, names, tuple(zeros)),
        metrics=METRICS + CHAIN * (experiment == "iterative"),
        num_pairs=0,
        config={"data": {"pairs": None}, "model": {"init_args": {"latents": latents}}},
    )
    return replace(run, **changed)


STRATA = ((2, 1), (3, 2), (4, 1), (2, 2), (3, 1), (4, 2))
"""Steps and first changed step of the pairs, in turn."""


def records_of(
    run,
    pairs=24,
    planted=None,
    disrupting=None,
    stranger=0.02,
    seed=0,
    noise=0.01,
    one_pair=None,
    strata=STRATA,
    carried=None,
    siblings=None,
    verified=2,
):
    """What each pair gave.

    Args:
        run: From `run_of`.
        pairs: How many.
        planted: Mean rise of the source answer's probability, by cell.
        disrupting: Mean KL, by cell, with own and control alike.
        stranger: The control's rise in the cells of `planted`.
        seed: Of the noise.
        noise: Deviation of probabilities.
        one_pair: Description fields of the first pair to change.
        strata: `num_steps` and `changed_step` of the pairs, in turn, or these and
            `changed_path`, which else is all steps from the changed one on; (None, None) where
            nothing is known.
        carried: By cell and changed step, the share of that stratum's pairs, the first ones of it,
            whose source answer is restored by the own patch and not by the control's.
        siblings: Whether the control is the pair's sibling, or, if False, a random pair; of three
            in four pairs if not given.
        verified: The first so many pairs were made again by the reference engine.
    """
    rng = np.random.default_rng(seed)
    described = [strata[index % len(strata)] for index in range(pairs)]
    made = []
    for index in range(pairs):
        values, control, unpatched = _pair_values(
            run, rng, planted or {}, disrupting or {}, stranger, noise
        )
        changed = [stratum[1] for stratum in described]
        for cell, shares in (carried or {}).items():
            if _is_restored(shares.get(changed[index], 0), changed, index):
                _restore(run, values, cell)
        num_steps, changed_step, *path = described[index]
        if not path:
            path = [tuple(range(changed_step, num_steps + 1)) if changed_step else ()]
        used = None
        if run.source == "clean" and run.control != "none":
            sibling = index % 4 > 0 if siblings is None else siblings
            kind = "sibling" if sibling and run.control == "sibling" else "random_pair"
            giver = f"pair_{index:02d}" if kind == "sibling" else f"pair_{(index + 1) % pairs:02d}"
            used = Control(kind, f"Max has {50 + index} stamps.", str(50 + index), giver)
        else:
            control, unpatched = {}, unpatched | {"ceiling_control": {}}
        description = PairDescription(
            base_question=f"Max collects {index + 20} stamps. He sells 17 of them.",
            source_question=f"Max collects {index + 25} stamps. He sells 17 of them.",
            base_answer=str(index + 3),
            source_answer=str(index + 8),
            base_answer_tokens=(index,),
            source_answer_tokens=(index + 5,),
            group=f"pair_{index:02d}",
            **unpatched,
            control=used,
            num_steps=num_steps,
            changed_step=changed_step,
            changed_path=path[0],
            base_tokens=12,
            source_tokens=12,
            self_patch=1e-13 if index < 8 else None,
            chain_links=(run.grid.size - len(run.grid.layers)) * (run.strategy == "relay"),
            verified=_verified(run, values, control, unpatched) if index < verified else (),
        )
        if one_pair and index == 0:
            description = replace(description, **one_pair)
        made.append(PairRecord(f"pair_{index:02d}", description, values, control))
    return made


def _is_restored(share, changed, index):
    """Whether a pair is among the first so many of its stratum."""
    alike = [row for row, step in enumerate(changed) if step == changed[index]]
    return alike.index(index) < round(share * len(alike))


def _restore(run, values, cell):
    """The source run's answer, said with the own patch."""
    source, base = ("clean", "corrupted") if run.clean_is_source else ("corrupted", "clean")
    said = {f"{source}_probability": 0.95, f"predicts_{source}": 1.0, "recovery": 1.0}
    said |= {f"{base}_probability": 0.01, f"predicts_{base}": 0.0, "prediction_change_rate": 1.0}
    for metric, value in (said | {"kl_divergence": 4.0, "l2_difference": 12.0}).items():
        values[metric][cell] = value


def _verified(run, own, control, unpatched):
    """The first and the last cell, each run of which agrees, and whole runs."""
    cells = list(run.grid.cells())
    made = [
        VerifiedRun(arm, {m: _null(values[m][index]) for m in values}, layer, column)
        for index, layer, column in (cells[0], cells[-1])
        for arm, values in (("own", own), ("control", control))
        if values
    ]
    return (*made, *(VerifiedRun(name, dict(v)) for name, v in unpatched.items() if v))


def _null(value):
    return None if np.isnan(value) else float(value)


def _pair_values(run, rng, planted, disrupting, stranger, noise):
    """Own, control and unpatched values of one pair."""
    own_rise, other_rise, kl = (np.zeros(run.grid.shape) for _ in range(3))
    kl += np.abs(rng.normal(0, 0.004, run.grid.shape))
    for cell, size in planted.items():
        rise = np.clip(size + rng.normal(0, 0.3 * abs(size)), -0.95, 0.95)
        own_rise[cell], other_rise[cell] = rise, stranger
        kl[cell] += 8 * rise**2
    for cell, size in disrupting.items():
        kl[cell] += size * rng.lognormal(0, 1)
    structural = run.grid.structural
    kl[structural] = 0
    base_p, source_p = 0.02 + 0.01 * rng.random(), 0.9 + 0.05 * rng.random()
    own = _grid_values(run, rng, own_rise, kl, base_p, noise)
    control = _grid_values(run, rng, other_rise, kl * 1.5, base_p, noise)
    rise = min(0.85, max([0.1, *planted.values()]))
    unpatched = {
        "base": _run_values(run, base_p, 0.0, 3.0),
        "source": _run_values(run, source_p, 5.0, 0.0),
        "ceiling": _run_values(run, min(0.95, base_p + rise), 4.0, 0.3),
        "ceiling_control": _run_values(run, base_p + stranger, 4.5, 3.5),
    }
    return own, control, unpatched


def _ald(probability):
    """A logit difference that follows from the source answer's probability."""
    return np.log(probability / (1 - probability))


def _grid_values(run, rng, rise, kl, base_p, noise):
    structural = run.grid.structural
    p = np.clip(base_p + rise + rng.normal(0, noise, rise.shape) * (rise != 0), 1e-4, 0.99)
    p[structural] = base_p
    other = np.clip(0.9 * np.exp(-kl) * (1 - p), 1e-4, 0.99)
    sign = 1 if run.clean_is_source else -1
    base, source = _ald(base_p), _ald(0.92)
    values = {
        "kl_divergence": kl,
        "l2_difference": 3 * kl,
        "prediction_change_rate": (kl > 0.7).astype(float),
        "answer_logit_difference": sign * _ald(p),
        "kl_to_source": 3 * (1 - p),
        "recovery": (_ald(p) - base) / (source - base),
    }
    names = ("clean", "corrupted") if run.clean_is_source else ("corrupted", "clean")
    for name, q in zip(names, (p, other)):
        values[f"{name}_probability"] = q
        values[f"predicts_{name}"] = (q > 0.5).astype(float)
    if run.experiment == "iterative":
        for name, level in (("clean", 0.4), ("corrupted", 0.9)):
            cosine = np.clip(level + rng.normal(0, 0.05, rise.shape), -1, 1)
            cosine[:, -1] = np.nan
            values[f"cosine_to_{name}"] = cosine
    return {metric: values[metric] for metric in run.metrics}


def _run_values(run, p, kl, to_source):
    sign = 1 if run.clean_is_source else -1
    names = ("clean", "corrupted") if run.clean_is_source else ("corrupted", "clean")
    logit = {0.0: _ald(0.92)}.get(to_source, _ald(p)) if kl else _ald(p)
    values = {
        "kl_divergence": kl,
        "l2_difference": 3 * kl,
        "prediction_change_rate": float(kl > 0.7),
        "answer_logit_difference": sign * logit,
        "kl_to_source": to_source,
        "recovery": 0.0 if not kl else 1.0 if not to_source else p,
    }
    for name, q in zip(names, (p, 0.95 - p)):
        values[f"{name}_probability"] = q
        values[f"predicts_{name}"] = float(q > 0.5)
    return values


def in_memory(run, records) -> xr.Dataset:
    """Results as they are read, without a folder."""
    run = replace(run, num_pairs=len(records))
    values, control = {}, {}
    for metric in run.metrics:
        values[metric] = np.stack([r.values[metric] for r in records])
        if any(r.control for r in records):
            nothing = np.full(run.grid.shape, np.nan)
            control[metric] = np.stack([r.control.get(metric, nothing) for r in records])
    ids = [r.pair_id for r in records]
    return patching_dataset(run, ids, [r.description for r in records], values, control)


def make(run, **options) -> xr.Dataset:
    """Results in memory; see `records_of`."""
    return in_memory(run, records_of(run, **options))


def write(folder: Path, run, records, excluded=()) -> Path:
    """A results folder with the measured files only; of any experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = [ExcludedPair(pair_id, reason) for pair_id, reason in dict(excluded).items()]
    run = replace(run, num_pairs=len(records) + len(left_out))
    kept = Store(folder)
    kept.begin(run)
    kept.keep(0, [*records, *left_out])
    write_run(folder, kept)
    kept.remove()
    return folder


def written(folder: Path, run, excluded=(), **options) -> xr.Dataset:
    """Results that were written and read again."""
    return read_results(write(folder, run, records_of(run, **options), excluded))


def change(path, *keys, value):
    """Change a value of a JSON file, named by its keys; None takes it out."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(content))
