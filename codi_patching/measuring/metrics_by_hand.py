"""The metrics from their definitions, in numpy that shares nothing with `metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codi_patching.results.description import Array

Logits = tuple[Array, Array]
"""Of one run: before each token of the base answer `(m, vocabulary)`, and of the source answer."""


def metrics_by_hand(
    run: Logits,
    *,
    base: Logits,
    source: Logits,
    ids: Sequence[Sequence[int]],
    clean_is_source: bool,
    margin: float = 0.0,
) -> dict[str, float | None]:
    """All metrics of a run beside its pair's two unpatched runs.

    Args:
        run: Its logits.
        base: Of the base run.
        source: Of the source run.
        ids: Tokens of the base answer and of the source answer.
        clean_is_source: Whether the source answer is the clean one.
        margin: What depends on the most probable token is left out where the first two logits are
            closer than this share of the largest: rounding decides there.

    Returns:
        By name; None where recovery is undefined.
    """
    clean, corrupted = (1, 0) if clean_is_source else (0, 1)
    differences = [_own(r[clean], ids[clean]).mean() - _own(r[corrupted], ids[corrupted]).mean()
                   for r in (run, base, source)]  # fmt: skip
    span = differences[2] - differences[1]
    found: dict[str, float | None] = {
        "kl_divergence": _kl(run[0], base[0]),
        "l2_difference": float(np.sqrt(((run[0] - base[0]) ** 2).sum(1)).mean()),
        "answer_logit_difference": float(differences[0]),
        "kl_to_source": _kl(source[1], run[1]),
        "recovery": None if abs(span) < 1e-3 else float((differences[0] - differences[1]) / span),
    }
    if not (_tied(run[0], margin) or _tied(base[0], margin)):
        changed = run[0].argmax(1) != base[0].argmax(1)
        found["prediction_change_rate"] = float(changed.mean())
    for name, answer in (("clean", clean), ("corrupted", corrupted)):
        logits, tokens = run[answer], np.array(ids[answer])
        found[f"{name}_probability"] = float(np.exp(_own(_log_p(logits), tokens).sum()))
        if not _tied(logits, margin):
            found[f"predicts_{name}"] = float((logits.argmax(1) == tokens).all())
    return found


def _own(values: Array, tokens: Sequence[int] | Array) -> Array:
    return values[np.arange(len(tokens)), np.array(tokens)]


def _log_p(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _kl(p: Array, q: Array) -> float:
    log_p, log_q = _log_p(p), _log_p(q)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def _tied(logits: Array, margin: float) -> bool:
    best = np.sort(logits, axis=1)[:, -2:]
    return bool((best[:, 1] - best[:, 0] < margin * np.abs(logits).max()).any())
