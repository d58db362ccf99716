"""Findings as reports read them: what they must have, and their evidence in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from codi_patching.analysis.questions.decoded import reading_kind
from codi_patching.results.schema import RunDescription


class ClaimLike(Protocol):
    """A judged cell, layer or contrast; those of a cell have `layer` and `column` too."""

    @property
    def verdict(self) -> str:
        """`yes`, `no`, `undecided` or `not applicable`."""

    @property
    def estimate(self) -> float | None:
        """Of the effect; None if there is none."""

    @property
    def low(self) -> float | None:
        """Lower end of its interval."""

    @property
    def high(self) -> float | None:
        """Upper end."""

    @property
    def p(self) -> float | None:
        """Of an effect beyond the threshold."""

    @property
    def n(self) -> int:
        """Pairs."""

    @property
    def threshold(self) -> float | None:
        """What is too small to matter."""

    @property
    def unit(self) -> str:
        """Of estimate, interval and threshold."""


class FindingLike(ClaimLike, Protocol):
    """A research question and its answer."""

    @property
    def question(self) -> str:
        """As it is asked."""

    @property
    def sentence(self) -> str:
        """The answer."""

    @property
    def claims(self) -> Sequence[ClaimLike]:
        """What it rests on."""


COLUMNS = ("question", "verdict", "estimate", "low", "high", "p", "n", "threshold", "unit")
"""Of a finding as a row, before its sentence."""


def finding_row(finding: FindingLike) -> dict[str, Any]:
    """A finding as a row of a table."""
    return {**{name: getattr(finding, name) for name in COLUMNS}, "sentence": finding.sentence}


def evidence(claim: ClaimLike) -> str:
    """The numbers that an answer rests on, or that there are none.

    Example: `0.39 probability [0.26, 0.52], p = 0.0003, n = 57 pairs, threshold 0.10`.
    """
    if claim.estimate is None:
        return f"n = {claim.n} pairs" if claim.n else ""
    parts = [f"{short_number(claim.estimate)} {claim.unit}".strip()]
    if claim.low is not None and claim.high is not None:
        parts[0] += f" [{short_number(claim.low)}, {short_number(claim.high)}]"
    if claim.p is not None:
        parts.append(f"p = {claim.p:.2g}")
    parts.append(f"n = {claim.n} pairs")
    if claim.threshold is not None:
        parts.append(f"threshold {short_number(claim.threshold)}")
    return ", ".join(parts)


def answer(finding: FindingLike) -> str:
    """A finding's sentence in Markdown, its verdict before it where it does not begin with it."""
    begins = finding.sentence.lower().startswith(finding.verdict.lower())
    if begins or finding.verdict == "not applicable":
        return finding.sentence
    return f"*{finding.verdict[0].upper()}{finding.verdict[1:]}.* {finding.sentence}"


def verdict_word(finding: FindingLike) -> str:
    """A finding's verdict; `described` where it has numbers that no test judges."""
    judged = finding.verdict != "not applicable" or is_open(finding)
    return finding.verdict if judged else "described"


def is_open(finding: FindingLike) -> bool:
    """Whether a question could not be answered: it has neither a verdict nor a number."""
    missing = finding.estimate is None and not finding.claims
    return finding.verdict == "not applicable" and missing


def beside(finding: FindingLike) -> str:
    """The evidence of a finding whose sentence does not give it already; else nothing."""
    return "" if "n = " in finding.sentence else evidence(finding)


def short_number(value: float) -> str:
    """Two digits that tell something: `0.39`, `12`, `0.0066`, `1e-13`, `0`.

    Example:
        >>> [short_number(v) for v in (0.394, 12.3, -0.0066, 1e-13, 0.0)]
        ['0.39', '12', '-0.0066', '1e-13', '0']
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10:
        return f"{value:.0f}"
    return f"{value:.2f}" if size >= 0.0995 else f"{value:.2g}"


def passing_cells(
    run: RunDescription, findings: Iterable[FindingLike], arm: str | None = None
) -> list[tuple[int, int]] | None:
    """The cells of a run whose content effect is beyond the threshold, by the findings' claims.

    Claims of cells have `layer` and `column`, and are of kind `content`.

    Args:
        run: Whose grid it is.
        findings: Of this run, or of several.
        arm: What findings call the run in their `arms`; if not given, every finding that rests on
            one arm is taken to be of this run.

    Returns:
        Row and column of each; None if no finding judges cells of this run's grid.
    """
    judged, passed = False, []
    for finding in findings:
        arms = tuple(getattr(finding, "arms", ()))
        if len(arms) > 1 or (arms and arm is not None and arms[0] != arm):
            continue
        for claim in finding.claims:
            cell = _cell_of(claim, run)
            judged = judged or cell is not None
            if cell is not None and claim.verdict == "yes" and (claim.estimate or 0.0) > 0:
                passed.append(cell)
    return sorted(set(passed)) if judged else None


def _cell_of(claim: ClaimLike, run: RunDescription) -> tuple[int, int] | None:
    """The cell of a run's grid whose content effect a claim is about; None if there is none."""
    grid = run.grid
    layer, column = getattr(claim, "layer", None), getattr(claim, "column", None)
    if column is None and grid.whole_layers:
        column = grid.columns[0]
    if getattr(claim, "kind", "content") != "content":
        return None
    if layer not in grid.layers or column not in grid.columns:
        return None
    return grid.layers.index(layer), grid.columns.index(column)


def readings_beyond_chance(
    findings: Iterable[FindingLike], steps: int
) -> list[list[tuple[int, int]]]:
    """For each step the cells at which its result is read beyond chance, by the findings' claims.

    Claims of the lens have `layer` and `column`, and are of the kind `reading_kind`.

    Returns:
        Row and column of each, a list for each step.
    """
    passed: list[set[tuple[int, int]]] = [set() for _ in range(steps)]
    kinds = {reading_kind(step + 1): step for step in range(steps)}
    for claim in (claim for finding in findings for claim in finding.claims):
        step = kinds.get(getattr(claim, "kind", ""))
        layer, column = getattr(claim, "layer", None), getattr(claim, "column", None)
        if step is not None and claim.verdict == "yes" and layer and column:
            passed[step].add((int(layer), int(column)))
    return [sorted(cells) for cells in passed]
