"""A small arm whose every number is written by hand in the test."""

import numpy as np

from codi_patching.analysis.arms import Arm


def make_arm(own, base, control=None, metric="clean_probability", **changes):
    """An arm of one metric; `own` is `(pairs, layers, columns)`, `base` `(pairs,)`."""
    own, base = np.asarray(own, dtype=float), np.asarray(base, dtype=float)
    pairs, layers, columns = own.shape
    ids = tuple(f"p{i}" for i in range(pairs))
    settings = {
        "name": "position patching",
        "experiment": "position",
        "strategy": None,
        "latents": "recomputed",
        "direction": "denoising",
        "source": "clean",
        "control": "none" if control is None else "sibling",
        "site": "resid_post",
        "layers": tuple(map(str, range(layers))),
        "columns": tuple(map(str, range(columns))),
        "pair_ids": ids,
        "groups": ids,
        "values": {metric: own},
        "control_values": {} if control is None else {metric: np.asarray(control, dtype=float)},
        "base": {metric: base},
        "source_run": {},
        "ceiling": {},
        "ceiling_control": {},
        "structural": np.zeros((layers, columns), dtype=bool),
    }
    return Arm(**{**settings, **changes})
