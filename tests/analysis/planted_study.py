"""All runs of a study with effects of which every one is another, and their arithmetic by hand.

    study = planted(1.0)                     # -1.0: all effects the other way round, 0.0: none
    rise(study.runs["relay"])["control"]     # own minus control, (pairs, layers, columns)

Some pairs share a question, so that pairs and independent groups differ in number.
"""

import numpy as np
from results_maker import run_of

from codi_patching.analysis.max_t import draw_signs
from codi_patching.analysis.study import studies_of
from codi_patching.results.dataset import patching_dataset
from codi_patching.results.pair_descriptions import PairDescription

PAIRS, LAYERS, COLUMNS, FLIPS = 36, 4, 5, 1199
GROUPS = [f"g{min(row, 29)}" for row in range(PAIRS)]
"""30 groups: the last of them has 7 pairs."""

ARMS = (
    {"experiment": "position"},
    {"experiment": "position", "latents": "frozen"},
    {"experiment": "layer"},
    {"experiment": "layer", "latents": "recomputed"},
    {"experiment": "iterative"},
    {"experiment": "iterative", "strategy": "cumulative"},
)
PLANTED = (1, 3)
"""Layer and column of the largest effect; of layer patching that layer."""


def few_flips(groups, seed):
    """Instead of `draw_signs`: enough for every share."""
    return draw_signs(groups, seed, FLIPS)


def planted_run(sign=1.0, seed=0, pairs=PAIRS, thought=False, groups=None, **arm):
    """A run in which the effect of every cell has another mean."""
    rng = np.random.default_rng(seed)
    run = run_of(layers=LAYERS, columns=COLUMNS, thought=thought, **arm)
    shape = run.grid.shape
    means = rng.uniform(0.02, 0.12, shape)
    means[PLANTED[0] + thought, min(PLANTED[1], shape[1] - 1)] = 0.45
    rises = sign * means + 0.04 * rng.normal(size=(pairs, *shape))
    others = 0.02 * rng.normal(size=(pairs, *shape))
    base = rng.uniform(0.4, 0.6, pairs)
    zero = run.grid.structural
    own, control = (base[:, None, None] + np.where(zero, 0.0, e) for e in (rises, others))
    whole = base[:, None] + np.stack([sign * 0.3 + 0.05 * rng.normal(size=pairs)] * 2, 1)
    whole[:, 1] = base + 0.03 * rng.normal(size=pairs)
    made = dict.fromkeys(run.metrics, (own, control, base, whole))
    clean, corrupted = ("clean", "corrupted") if run.clean_is_source else ("corrupted", "clean")
    made[f"predicts_{clean}"] = tuple((p > 0.6).astype(float) for p in (own, control, base, whole))
    way = 7.0 if run.clean_is_source else -7.0
    made["answer_logit_difference"] = tuple(way * p**2 for p in (own, control, base, whole))
    made[f"{corrupted}_probability"] = tuple(0.9 - p for p in (own, control, base, whole))
    made["kl_divergence"] = tuple(np.abs(p - 0.5) for p in (own, control, base, whole))
    described = [
        PairDescription(
            "", "", "3", "8", (1,), (2,), (groups or GROUPS)[row],
            {m: float(v[2][row]) for m, v in made.items()},
            dict.fromkeys(made, 1.0),
            {m: float(v[3][row, 0]) for m, v in made.items()},
            {m: float(v[3][row, 1]) for m, v in made.items()},
        )
        for row in range(pairs)
    ]  # fmt: skip
    ids = [f"pair_{row:02d}" for row in range(pairs)]
    values, others = ({m: made[m][side] for m in run.metrics} for side in (0, 1))
    return patching_dataset(run, ids, described, values, others)


def planted(sign=1.0, **options):
    """A study of all six runs."""
    runs = [planted_run(sign, seed, **arm, **options) for seed, arm in enumerate(ARMS)]
    (study,) = studies_of(runs, 0, ())
    return study


def rise(data, metric="clean_probability"):
    """What a patch adds to the unpatched run's and to the control's, `(pairs, layers, columns)`."""
    own, control = data[metric].values[..., 0], data[metric].values[..., 1]
    base = data[f"run_{metric}"].values[:, 0]
    return {"unpatched": own - base[:, None, None], "control": own - control}


def ceiling(data, metric="clean_probability"):
    """The same with all thoughts, `(pairs,)`."""
    base, _, own, control = data[f"run_{metric}"].values.T
    return {"unpatched": own - base, "control": own - control}


def groups_of(data):
    return np.array([str(group) for group in data["group"].values])


def simultaneous(sides, groups, share):
    """Intervals of max-T over all columns, `(2, columns)` each, flip by flip; and its p.

    Args:
        sides: `(pairs, columns)`, relative to one thing each.
        groups: `(pairs,)`.
        share: Of the level.
    """
    values, names = np.concatenate(sides, axis=1), list(dict.fromkeys(groups))
    n, count, mean = len(values), len(names), values.mean(axis=0)
    sums = np.array([(values - mean)[groups == name].sum(axis=0) for name in names])
    sizes = np.array([(groups == name).sum() for name in names])[:, None]

    error = np.sqrt(count / (count - 1) * (sums**2).sum(axis=0)) / n
    flips = draw_signs(count, 0, FLIPS).astype(float)
    flipped = flips[:, :, None] * sums
    moved = flipped.sum(axis=1, keepdims=True) / n
    rest = flipped - sizes * moved
    errors = np.sqrt(count / (count - 1) * (rest**2).sum(axis=1)) / n
    largest = np.abs(moved[:, 0] / errors).max(axis=1)
    allowed = max(b for b in range(FLIPS) if (1 + b) / (1 + FLIPS) < share)
    critical = sorted(largest, reverse=True)[allowed]
    width = critical * error
    p = [(1 + (largest >= seen).sum()) / (1 + FLIPS) for seen in abs(mean / error)]
    ends = np.stack([mean - width, mean + width])
    return np.split(ends, len(sides), axis=1), np.split(np.array(p), len(sides))
