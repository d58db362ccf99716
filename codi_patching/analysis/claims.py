"""What a report says: findings, each an answer to a question, and the claims that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field

from codi_patching.analysis.verdicts import Verdict

UNPATCHED = "unpatched"
"""`Claim.against` where a control would say nothing."""


@dataclass(frozen=True)
class Claim:
    """One cell, layer or contrast, judged on its own estimate.

    Attributes:
        name: What it is about, such as `layer 3, position 2`.
        verdict: `yes`, `no`, `undecided` or `not applicable`.
        estimate: Mean over pairs; of the two comparisons of a content effect the smaller.
        low: Lower end of the simultaneous interval; None where nothing varies and no bound holds.
        high: Upper end.
        p: Corrected over the question's claims, of an effect beyond the threshold; None where
            nothing varies.
        n: Pairs.
        threshold: What is too small to matter.
        unit: Of all these numbers.
        kind: What is estimated: `content`, or the name of a contrast.
        layer: Name of the layer that it is about, if it is one.
        column: Name of the position or iteration, if it is one.
        against: What the own patch was compared with.
        groups: Independent groups of pairs; as many as pairs if none share a question.
        pairs_to_decide: If undecided, about how many pairs would decide; None if very many.
        level: Of the simultaneous interval, 0..1; None if it is not known.
    """

    name: str
    verdict: Verdict
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    threshold: float
    unit: str = "probability"
    kind: str = "content"
    layer: str | None = None
    column: str | None = None
    against: str = "unpatched and control"
    groups: int | None = None
    pairs_to_decide: int | None = None
    level: float | None = None


@dataclass(frozen=True)
class Finding:
    """A research question and its answer.

    Attributes:
        question: As it is asked.
        verdict: `yes`, `no`, `undecided` or `not applicable`, of the question as asked.
        estimate: Of the claim that the answer leads with; None if there is none.
        low: Lower end of its simultaneous interval.
        high: Upper end.
        p: Its p.
        n: Pairs.
        threshold: What is too small to matter.
        unit: Of the estimate.
        sentence: The answer, with its numbers.
        arms: Names of the arms that it rests on.
        claims: All claims that it rests on.
        family: Questions of one family share one test.
    """

    question: str
    verdict: Verdict
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    threshold: float | None
    unit: str
    sentence: str
    arms: tuple[str, ...]
    claims: tuple[Claim, ...] = field(default=(), repr=False)
    family: str = ""


def unanswered(question: str, reason: str, arms: tuple[str, ...] = (), family: str = "") -> Finding:
    """A question that cannot be answered, and why."""
    return Finding(
        question, "not applicable", None, None, None, None, 0, None, "", reason, arms, (), family
    )
