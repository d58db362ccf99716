"""Plain English for claims: each number with its unit and n, one estimand a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codi_patching.analysis.arms import Arm
from codi_patching.analysis.claims import UNPATCHED, Claim, Finding
from codi_patching.analysis.verdicts import Verdict

MOST_NAMED = 12


def number(value: float | None) -> str:
    """A number for a sentence; a dash if there is none."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    return f"{value:.2f}" if abs(value) >= 0.0995 else f"{value:.2g}"


def p_value(p: float | None) -> str:
    """`p = 0.012`; what does not vary is not tested."""
    if p is None:
        return "not tested: no spread"
    return f"p = {p:.4f}" if p < 0.001 else f"p = {p:.3f}"


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """`a, b and c`; long lists are cut, and the rest counted."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def layers_listed(names: Sequence[str]) -> str:
    """Layers with runs joined: `layers 2, 4 to 7 and 15 (makes the next thoughts)`."""
    plain = [name.removeprefix("layer ") for name in names]
    numbers = [int(name) for name in plain if name.isdigit()]
    rest = [name for name in plain if not name.isdigit()]
    runs: list[list[int]] = []
    for value in sorted(numbers):
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    joined: list[str] = []
    for run in runs:
        joined += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(value) for value in run]
    if not numbers:
        return listed(names)
    return f"layer{'s' if len(numbers) + len(rest) > 1 else ''} {listed([*joined, *rest], 99)}"


def evidence(claim: Claim) -> str:
    """Estimate, interval, p, n and threshold of a claim, in brackets after what it is about."""
    unit = {"probability": "", "hit rate": ""}.get(claim.unit, f" {claim.unit}")
    interval = "no interval"
    if claim.low is not None and claim.high is not None:
        level = "" if claim.level is None else f"{100 * claim.level:.4g} % "
        interval = f"{level}simultaneous interval {number(claim.low)} to {number(claim.high)}"
    threshold = f"threshold {number(claim.threshold)}"
    return (
        f"{number(claim.estimate)}{unit} ({interval}, {p_value(claim.p)}, {sample(claim)}, "
        f"{threshold})"
    )


def sample(claim: Claim) -> str:
    """How many pairs, and how many of them are independent."""
    groups = claim.groups if claim.groups is not None else claim.n
    pairs = f"n = {claim.n} pairs"
    return pairs if groups == claim.n else f"{pairs} in {groups} groups that share a question"


def compared(claim: Claim) -> str:
    """What the own patch was held against, in words."""
    if claim.against == "unpatched alone":
        return " It is the change against the unpatched run alone: no control was run."
    if claim.against == UNPATCHED:
        return " It is the change against the unpatched run."
    control = claim.against.removeprefix("unpatched and control (").removesuffix(")")
    return (
        f" It is the smaller of two, against the unpatched run and against the control ({control})."
    )


def strongest(claims: Sequence[Claim]) -> Claim | None:
    """The claim with the largest estimate in size; None without any."""
    known = [claim for claim in claims if claim.estimate is not None]
    # The first of those that agree to three decimals: what is less is rounding.
    return max(known, key=lambda claim: round(abs(claim.estimate or 0.0), 3), default=None)


def named(claims: Sequence[Claim], verdict: Verdict) -> list[Claim]:
    """The claims with a verdict."""
    return [claim for claim in claims if claim.verdict == verdict]


def overall(claims: Sequence[Claim]) -> Verdict:
    """Of `is there any?`: yes if one claim is, no if all are not."""
    verdicts = {claim.verdict for claim in claims}
    if "yes" in verdicts:
        return "yes"
    if verdicts == {"no"}:
        return "no"
    return "undecided" if verdicts - {"not applicable"} else "not applicable"


def more_pairs(claim: Claim) -> str:
    """About how many pairs would decide."""
    if claim.pairs_to_decide is None:
        return "it lies so near the threshold that over 10,000 pairs would be needed to decide"
    decide = f"about {claim.pairs_to_decide:,} pairs would decide it"
    if claim.low is None or claim.high is None:
        return decide
    if -claim.threshold < claim.low and claim.high < claim.threshold:
        return f"that is inside the threshold, but so few pairs may miss a rare effect: {decide}"
    return decide


def answer(
    question: str,
    claims: Sequence[Claim],
    arms: Sequence[Arm],
    yes: Callable[[list[Claim], Claim], str],
    what: str,
    family: str,
    ruled_out: str,
    extra: str = "",
) -> Finding:
    """A finding about whether any of several claims holds.

    Args:
        question: As it is asked.
        claims: Its claims.
        arms: What it rests on.
        yes: The sentence if some claims hold, from those and the strongest of them.
        what: What is estimated, for the other sentences: `content effect`.
        family: Name of the family.
        ruled_out: What holds if all claims are refuted: `no layer carries the answer`.
        extra: More to say, whatever the verdict.
    """
    verdict = overall(claims)
    shown = named(claims, "yes") if verdict == "yes" else list(claims)
    lead = strongest(shown)
    if verdict == "undecided":
        lead = strongest(named(claims, "undecided")) or lead
    if lead is None:
        reason = "No pair has a value in any of the cells."
        return conclude(question, "not applicable", None, reason, claims, arms, family)
    if verdict == "yes":
        sentence = yes(shown, lead)
    elif verdict == "no":
        sentence = f"No: {ruled_out}. {_lead(claims, lead, what)}.{compared(lead)}"
    elif verdict == "undecided":
        sentence = _undecided(claims, lead, what)
    else:
        sentence = too_few(lead)
    return conclude(question, verdict, lead, sentence + extra, claims, arms, family)


def too_few(lead: Claim) -> str:
    """Why there is no verdict."""
    return f"No verdict: too few pairs for one ({sample(lead)})."


def _undecided(claims: Sequence[Claim], lead: Claim, what: str) -> str:
    out = len(named(claims, "no"))
    open_ = [claim for claim in claims if claim.verdict == "undecided"]
    counts = f"Undecided for {len(open_)} of {len(claims)}" if len(claims) > 1 else "Undecided"
    counts += f", ruled out for {out}" if out else ""
    return f"{counts}. {_lead(claims, lead, what)}; {more_pairs(lead)}.{compared(lead)}"


def _lead(claims: Sequence[Claim], lead: Claim, what: str) -> str:
    if len(claims) == 1:
        return f"The {what} ({lead.name}) is {evidence(lead)}"
    return f"The {what} that is estimated largest, that of {lead.name}, is {evidence(lead)}"


def conclude(
    question: str,
    verdict: Verdict,
    lead: Claim | None,
    sentence: str,
    claims: Sequence[Claim],
    arms: Sequence[Arm],
    family: str,
) -> Finding:
    """A finding that leads with one claim; without numbers if there is none."""
    names = tuple(dict.fromkeys(arm.name for arm in arms))
    if lead is None:
        return Finding(
            question, verdict, None, None, None, None, 0, None, "", sentence, names,
            tuple(claims), family,
        )  # fmt: skip
    return Finding(
        question, verdict, lead.estimate, lead.low, lead.high, lead.p, lead.n, lead.threshold,
        lead.unit, sentence, names, tuple(claims), family,
    )  # fmt: skip
