"""From an estimate and its simultaneous interval to a verdict.

*Yes*: the interval lies beyond the threshold. *No*: it lies inside plus and minus the threshold,
and there are enough pairs that a rare effect would have shown. *Undecided* otherwise, with about
how many pairs would decide. Under 20 pairs there are no verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from codi_patching.analysis.arms import Array

Real = TypeVar("Real", float, Array)

Verdict = Literal["yes", "no", "undecided", "not applicable"]
Rule = Literal["content", "direction", "reaches"]
"""`content`: only a rise counts as yes. `direction`: a change either way does. `reaches`: yes is
anything that does not fall short by the threshold."""

Unit = Literal["probability", "logits", "hit rate", "nats"]


@dataclass(frozen=True)
class Thresholds:
    """What is too small to matter, and the rest of what verdicts rest on.

    Attributes:
        probability: In the probability of an answer.
        nats: Of a median KL.
        logits: Share of the mean distance of the two unpatched runs.
        hit_rate: In the share of pairs whose answer is predicted.
        level: Chance that a report claims anything where there is nothing.
        least_pairs: Under this many there are no verdicts.
        chosen_share: Share of the layers that count as leading, at least one.
        folds: Into how many parts pairs are split to choose layers in some, test them in the rest.
    """

    probability: float = 0.10
    nats: float = 0.05
    logits: float = 0.05
    hit_rate: float = 0.05
    level: float = 0.05
    least_pairs: int = 20
    chosen_share: float = 0.25
    folds: int = 5

    def of(self, unit: Unit, logit_span: float = float("nan")) -> float:
        """The threshold of a unit; that of logits takes the mean unpatched span."""
        return {
            "probability": self.probability,
            "hit rate": self.hit_rate,
            "nats": self.nats,
            "logits": self.logits * logit_span,
        }[unit]


def least_pairs_for_no(threshold: float, alpha: float, reach: float = 1.0) -> int:
    """How many pairs it takes before a bounded effect can be ruled out.

    The rarest effect that matters, of size `reach` in a share `threshold / reach` of all pairs, is
    in none of n pairs with probability `(1 - threshold / reach) ** n`, which must be at most
    `alpha`.
    """
    return int(np.ceil(np.log(alpha) / np.log1p(-threshold / reach)))


def identical_bounds(
    value: Real, n: Real, alpha: float, least: Real, most: Real
) -> tuple[Real, Real]:
    """Bounds of the mean of values from `least` to `most` if all `n` that were seen are the same.

    Then at most a share `1 - alpha ** (1 / n)` of all pairs differs (Clopper and Pearson, 1934),
    each by no more than the distance to the ends of the range.
    """
    share = 1 - alpha ** (1 / n)
    return value - share * (value - least), value + share * (most - value)


def decide(
    rule: Rule,
    low: float,
    high: float,
    threshold: float,
    enough_for_yes: bool,
    enough_for_no: bool,
) -> Verdict:
    """The verdict of an interval.

    Args:
        rule: What counts as yes.
        low: Lower end of the simultaneous interval.
        high: Upper end.
        threshold: What is too small to matter.
        enough_for_yes: Whether there are enough pairs for any verdict.
        enough_for_no: Whether there are enough pairs to rule out a rare effect.
    """
    if not enough_for_yes or not np.isfinite(threshold):
        return "not applicable"
    if np.isnan(low) or np.isnan(high):
        return "undecided"
    if rule == "reaches":
        return _reaches(low, high, threshold, enough_for_no)
    if low > threshold:
        return "yes"
    if high < -threshold:
        return "yes" if rule == "direction" else "no"
    inside = low > -threshold and high < threshold
    return "no" if inside and enough_for_no else "undecided"


def _reaches(low: float, high: float, threshold: float, enough: bool) -> Verdict:
    if high < -threshold:
        return "no"
    return "yes" if low > -threshold and enough else "undecided"


def pairs_to_decide(
    estimate: float, half_width: float, n: int, threshold: float, least: int
) -> int | None:
    """About how many pairs would bring a verdict, if the estimate and the spread stayed.

    The interval's half-width shrinks with the square root of the number of pairs until it is
    smaller than the distance between the estimate and the threshold. None if that takes over ten
    thousand pairs.
    """
    distance = abs(abs(estimate) - threshold)
    if not np.isfinite(half_width) or distance <= 0:
        return None
    needed = n * (half_width / distance) ** 2
    if abs(estimate) < threshold:
        needed = max(needed, least)
    return None if needed > 10_000 else max(int(np.ceil(needed)), n + 1)
