"""Metrics of a patched run's answer, as pure functions.

Shapes: `(…, tokens, vocabulary)` for logits at the positions before an answer's tokens, where `…`
is any batch of runs; every function reduces tokens and vocabulary and keeps `…`. Baseline logits
without batch dimensions broadcast. Everything is computed in float64 where the device has it, else
in float32: on nearly equal wide distributions a bf16 KL is off by two orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat

import torch
from torch import Tensor

MIN_DENOMINATOR = 1e-3
"""Recovery is undefined where the two runs' logit differences are closer than this (logits)."""


_WIDENED = 2**18
"""Logits that are widened at a time on a CPU: whole maps of them would not fit the caches."""
_WIDENED_ELSEWHERE = 2**25
"""On other devices: every operation is a launch, and a few copies of them must fit in memory."""


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, but for MPS, which has none.

    Example:
        >>> widest_float(torch.device("mps")), widest_float(torch.device("cpu"))
        (torch.float32, torch.float64)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def runs_at_once(logits: int, device: torch.device) -> int:
    """How many runs of so many logits each are widened together, one at least.

    Example:
        >>> runs_at_once(2 * 128_256, torch.device("cpu")), runs_at_once(508, torch.device("cpu"))
        (1, 516)
        >>> runs_at_once(2 * 128_256, torch.device("cuda"))
        130
    """
    widened = _WIDENED if device.type == "cpu" else _WIDENED_ELSEWHERE
    return max(1, widened // logits)


def _wide(values: Tensor) -> Tensor:
    return values.to(widest_float(values.device))


def _check_shapes(logits: Tensor, reference: Tensor) -> None:
    if logits.shape[-2:] != reference.shape[-2:]:
        raise ValueError(
            "expected logits of the same number of answer tokens and vocabulary, got "
            f"{tuple(logits.shape[-2:])} and {tuple(reference.shape[-2:])}"
        )


def _compare(
    distance: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    reference: Tensor,
    prepare: Callable[[Tensor], Tensor] = lambda wide: wide,
) -> Tensor:
    """Mean over tokens of a distance between widened logits, a few runs at a time.

    Args:
        distance: From two prepared `(runs, tokens, vocabulary)` to `(runs, tokens)`.
        logits: `(…, tokens, vocabulary)`.
        reference: The same; either may lack the batch.
        prepare: What is done to each first, once where there is no batch.

    Raises:
        ValueError: Tokens or vocabulary differ.
    """
    _check_shapes(logits, reference)
    batch = torch.broadcast_shapes(logits.shape[:-2], reference.shape[:-2])
    tokens = logits.shape[-2:]
    runs = runs_at_once(tokens.numel(), logits.device)

    def chunks(values: Tensor) -> Iterable[Tensor]:
        if values.ndim == 2:
            return repeat(prepare(_wide(values)))
        rows = values.expand(*batch, *tokens).reshape(-1, *tokens)
        return (prepare(_wide(few)) for few in rows.split(runs))

    both = zip(chunks(logits), chunks(reference))
    if not batch:
        return distance(*next(both)).mean(-1)
    return torch.cat([distance(*few).mean(-1) for few in both]).reshape(batch)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def compute_kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    r"""Mean over tokens of KL(P‖Q) in nats, P from `logits`, Q from `reference`.

    $\frac1m \sum_j \sum_v P_j(v) (\log P_j(v) - \log Q_j(v))$ (Kullback and Leibler, 1951).

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(compute_kl_divergence(p, q).item(), 4)  # 0.5 ln 2 + 0.5 ln 2/3
        0.1438
    """
    return _compare(_kl, logits, reference, lambda wide: wide.log_softmax(-1))


def compute_l2_difference(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean over tokens of the Euclidean distance between logit vectors, in logits.

    Example:
        >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> compute_l2_difference(a, b).item()
        5.0
    """
    return _compare(lambda a, b: (a - b).norm(dim=-1), logits, reference)


def compute_prediction_change_rate(logits: Tensor, reference: Tensor) -> Tensor:
    """Fraction of tokens, 0 to 1, whose most probable token differs.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> compute_prediction_change_rate(a, b).item()
        0.5
    """
    _check_shapes(logits, reference)
    return _wide(logits.argmax(-1) != reference.argmax(-1)).mean(-1)


def _check_answer(logits: Tensor, answer_ids: Tensor) -> None:
    if logits.shape[-2] != answer_ids.shape[-1]:
        raise ValueError(
            f"expected logits for {answer_ids.shape[-1]} answer tokens, got {logits.shape[-2]}"
        )


def mean_answer_logit(logits: Tensor, answer_ids: Tensor) -> Tensor:
    """Mean over an answer's tokens of their own logits; `answer_ids` is `(tokens,)`.

    Raises:
        ValueError: Logits and answer have different numbers of tokens.
    """
    _check_answer(logits, answer_ids)
    index = answer_ids.expand(logits.shape[:-1]).unsqueeze(-1)
    return _wide(logits.gather(-1, index)).squeeze(-1).mean(-1)


def compute_answer_logit_difference(
    clean_logits: Tensor, clean_ids: Tensor, corrupted_logits: Tensor, corrupted_ids: Tensor
) -> Tensor:
    """Mean logit of the clean answer's tokens minus that of the corrupted answer's, in logits.

    Args:
        clean_logits: The run's logits, teacher-forced on the clean answer, `(…, n, vocabulary)`.
        clean_ids: Tokens of the clean answer, `(n,)`.
        corrupted_logits: The same run's, teacher-forced on the corrupted answer, `(…, m, …)`.
        corrupted_ids: Tokens of the corrupted answer, `(m,)`.

    Example:
        >>> logits = torch.tensor([[1.0, 4.0, 2.0]])
        >>> compute_answer_logit_difference(
        ...     logits, torch.tensor([1]), logits, torch.tensor([2])
        ... ).item()
        2.0
    """
    clean = mean_answer_logit(clean_logits, clean_ids)
    return clean - mean_answer_logit(corrupted_logits, corrupted_ids)


def compute_answer_probability(logits: Tensor, answer_ids: Tensor) -> Tensor:
    """Probability of saying an answer, 0 to 1: `exp(sum_j log p_j)` over its tokens.

    Args:
        logits: Teacher-forced on the answer, `(…, tokens, vocabulary)`.
        answer_ids: `(tokens,)`.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> round(compute_answer_probability(logits, torch.tensor([0, 1])).item(), 6)  # 0.5 × 0.75
        0.375
    """
    _check_answer(logits, answer_ids)
    index = answer_ids.expand(logits.shape[:-1]).unsqueeze(-1)
    chosen = _wide(logits.gather(-1, index)).squeeze(-1)
    rows = logits.reshape(-1, logits.shape[-1])
    rows = rows.split(runs_at_once(rows.shape[-1], logits.device))
    total = torch.cat([_wide(few).logsumexp(-1) for few in rows]).view(chosen.shape)
    return (chosen - total).sum(-1).exp()


def compute_recovery(difference: Tensor, base: Tensor, source: Tensor) -> Tensor:
    """How far the logit difference moved from the base run's (0) to the source run's (1).

    `(patched - base) / (source - base)`, never clipped; NaN where the denominator is smaller than
    `MIN_DENOMINATOR`. The normalised logit difference of arXiv 2309.16042.

    Example:
        >>> compute_recovery(torch.tensor(1.0), torch.tensor(-2.0), torch.tensor(4.0)).item()
        0.5
    """
    span = source - base
    span = torch.where(span.abs() < MIN_DENOMINATOR, torch.nan, span)
    return (difference - base) / span


def compute_cosine_similarity(activation: Tensor, reference: Tensor) -> Tensor:
    """Cosine of the angle between two activations `(…, hidden)`, -1 to 1; NaN if one is NaN.

    Example:
        >>> compute_cosine_similarity(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])).item()
        0.6
    """
    return torch.cosine_similarity(_wide(activation), _wide(reference), dim=-1)


def compute_predicts(logits: Tensor, answer_ids: Tensor) -> Tensor:
    """1 where the answer's token is the most probable one at every position, else 0.

    Example:
        >>> compute_predicts(torch.tensor([[0.0, 1.0]]), torch.tensor([1])).item()
        1.0
    """
    return _wide((logits.argmax(-1) == answer_ids).all(-1))
