"""The losses of training, as pure functions of tensors; all but the last two in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codi_patching.training.data import IGNORE


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits `(…, vocabulary)` at targets `(…)`, but for `IGNORE`.

    0 where no target is left.
    """
    loss = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return loss / (targets != IGNORE).sum().clamp(min=1)


def spoken_losses(logits: Tensor, said: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of what the states that make thoughts say.

    Args:
        logits: `(…, vocabulary)`.
        said: Target tokens `(…)`, or `IGNORE`.
        made: `(…)`, true where a new result is due; elsewhere one is held, or the thought is idle.

    Returns:
        The means over both kinds; 0 over none.
    """
    surprise = F.cross_entropy(
        logits.flatten(0, -2), said.flatten(), ignore_index=IGNORE, reduction="none"
    )
    counted, result = said.flatten() != IGNORE, made.flatten()
    kinds = (counted & result, counted & ~result)
    new, held = (surprise[kind].sum() / kind.sum().clamp(min=1) for kind in kinds)
    return new, held


def after_right_ones(logits: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """The targets that follow from right thoughts only.

    What comes after a wrong thought should follow from it, so the right results are no target.

    Args:
        logits: Of the states that make thoughts `(rows, K, vocabulary)`.
        said: What the thoughts should be `(rows, K)`.

    Returns:
        `said` with `IGNORE` behind the first wrong thought of each row, and the rows `(rows,)`
        whose thoughts are all right.
    """
    right = (logits.argmax(-1) == said).long().cumprod(1).bool()
    before = torch.cat([torch.ones_like(right[:, :1]), right[:, :-1]], dim=1)
    return torch.where(before, said, IGNORE), right[:, -1]


def calculation_targets(lines: Tensor, equals: int) -> Tensor:
    """The results only: the tokens `(lines, length)` that follow an equals sign, else `IGNORE`."""
    targets = torch.full_like(lines, IGNORE)
    after = lines[:, :-1] == equals
    targets[:, 1:][after] = lines[:, 1:][after]
    return targets


def distillation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Smooth L1 over the teacher's standard deviation, mean over layers; teacher detached.

    CODI's loss (arXiv 2502.21074, section 3.2). Each layer `(rows, hidden)`.
    """
    losses = [
        F.smooth_l1_loss(s, t.detach()) / t.detach().std()
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(losses).mean()


def code_loss(thoughts: Tensor, codes: Tensor) -> Tensor:
    """Squared distance of thoughts from what they should be, over the codes' mean square.

    Args:
        thoughts: What prj makes `(…, hidden)`.
        codes: What it should make, of the same shape; not learned from here. 0 where none is given.
    """
    codes = codes.detach()
    if not codes.numel():
        return thoughts.sum()
    return F.mse_loss(thoughts, codes) / codes.square().mean()
