"""Results of any experiment without a model: noise, planted effects, and folders of both.

    results = make(run_of("position", layers=4, columns=3), pairs=24, planted={(1, 2): 0.5})
    folder = write(tmp_path / "out", run, records)

Own patches raise the probability of the source run's answer by what is planted in a cell, the
control's by `stranger`; KL grows with what is planted in `disrupting` too.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from codi_patching.results.batches import ExcludedPair
from codi_patching.results.read import Results, read_results
from codi_patching.results.records import PairResult, Records
from codi_patching.results.schema import Code, Control, Grid, PairDescription, RunDescription
from codi_patching.results.store import write_run

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


def records_of(
    run, pairs=24, planted=None, disrupting=None, stranger=0.02, seed=0, noise=0.01, one_pair=None
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
    """
    rng = np.random.default_rng(seed)
    made = []
    for index in range(pairs):
        values, control, unpatched = _pair_values(
            run, rng, planted or {}, disrupting or {}, stranger, noise
        )
        kinds = {"sibling": "sibling" if index % 4 else "random_pair"}
        kind = kinds.get(run.control, run.control)
        used = None
        if run.source == "clean" and run.control != "none":
            used = Control(kind, f"Max has {50 + index} stamps.", str(50 + index), f"pair_{index}")
        description = PairDescription(
            base_question=f"Max collects {index + 20} stamps. He sells 17 of them.",
            source_question=f"Max collects {index + 25} stamps. He sells 17 of them.",
            base_answer=str(index + 3),
            source_answer=str(index + 8),
            base_answer_tokens=(index,),
            source_answer_tokens=(index + 5,),
            group=f"pair_{index:02d}",
            **unpatched | ({} if used else {"ceiling_control": {}}),
            control=used,
            num_steps=2 + index % 3,
            changed_step=1 + index % 2,
            self_patch=1e-13 if index < 8 else None,
            chain_links=(run.grid.size - len(run.grid.layers)) * (run.strategy == "relay"),
        )
        if one_pair and index == 0:
            description = replace(description, **one_pair)
        made.append(PairResult(f"pair_{index:02d}", description, values, control if used else {}))
    return made


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


def in_memory(run, records) -> Results:
    """Results as they are read, without a folder."""
    run = replace(run, num_pairs=len(records))
    values, control = {}, {}
    for metric in run.metrics:
        values[metric] = np.stack([r.values[metric] for r in records])
        if any(r.control for r in records):
            nothing = np.full(run.grid.shape, np.nan)
            control[metric] = np.stack([r.control.get(metric, nothing) for r in records])
    ids = tuple(r.pair_id for r in records)
    return Results(run, ids, tuple(r.description for r in records), values, control)


def make(run, **options) -> Results:
    """Results in memory; see `records_of`."""
    return in_memory(run, records_of(run, **options))


def write(folder: Path, run, records, excluded=()) -> Path:
    """A results folder with the measured files only."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = [ExcludedPair(pair_id, reason) for pair_id, reason in dict(excluded).items()]
    run = replace(run, num_pairs=len(records) + len(left_out))
    kept = Records(folder)
    kept.begin(run)
    kept.write(0, [*records, *left_out])
    write_run(folder, run, kept)
    kept.remove()
    return folder


def written(folder: Path, run, excluded=(), **options) -> Results:
    """Results that were written and read again."""
    return read_results(write(folder, run, records_of(run, **options), excluded))
