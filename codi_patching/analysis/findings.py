"""What a report says, as types: claims about effects, and the findings that rest on them.

A *question* is asked of one run, or of several that differ in one thing. Its columns (cells,
layers, contrasts) are judged together, at a share of the level that is fixed in advance; each
column becomes a `Claim`, the whole a `Finding`. Words and pictures are made from these types
elsewhere, and no value is ever read back out of a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Against = Literal["unpatched", "control", "chance", "nothing"]
"""What an effect is relative to: the unpatched run, the control's patch, another pair's result; a
share stands by itself."""

Verdict = Literal[
    "rises", "falls", "more often", "less often", "no", "at most", "counts", "described"
]
"""Of a claim.

`rises`, `falls`: the direction of the mean is claimed. `more often`, `less often`: only that more
pairs go this way than the other is claimed, and nothing of the mean. `no`: bounded within what is
too small to matter. `at most`: not claimed, and bounded. `counts`: too few pairs for anything but
counts. `described`: not tested; its intervals are unadjusted 95 % intervals.
"""

Answer = Literal["yes", "no", "at most", "counts", "described", "missing"]
"""Of a finding. `described`: no test was made. `missing`: a run that it takes is not there."""

CLAIMED: tuple[Verdict, ...] = ("rises", "falls", "more often", "less often")


@dataclass(frozen=True)
class Comparison:
    """An effect relative to one thing, over pairs.

    Attributes:
        against: That.
        mean: Over pairs, in the claim's unit.
        low: Lower end of the simultaneous interval of the mean; NaN where there is none.
        high: Upper end.
        up: Pairs in which it rises beyond rounding.
        down: Pairs in which it falls.
        n: Pairs with a value.
        groups: Independent groups of them.
    """

    against: Against
    mean: float
    low: float
    high: float
    up: int
    down: int
    n: int
    groups: int


@dataclass(frozen=True)
class Claim:
    """One column of a question: a cell, a layer, a contrast.

    Attributes:
        name: In words, `layer 3, position 2`.
        verdict: See `Verdict`.
        comparisons: Relative to the unpatched run, and to the control if there was one.
        p: Adjusted over the question's columns and scaled so that p < 0.05 exactly where a claim is
            made; the larger of the comparisons'; NaN where nothing varies.
        bound: What the effect is at most, of that comparison which bounds it best; of a contrast
            that may go either way, in size.
        layer: Name of the layer, if it is about one.
        column: Name of the position or iteration, if it is about one.
        kind: What is estimated: `content`, `direct`, `mediated`, `last minus first`, ….
        unit: `probability`, `rate`, `logits` or `nats`.
        step: The reasoning step that it is about, from 1, if it is about one.
        either: Whether it may go either way, as a difference does; else only a rise answers.
        axis: What `column` is, as `Grid` has it.
    """

    name: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    p: float
    bound: float
    layer: str | None = None
    column: str | None = None
    kind: str = "content"
    unit: str = "probability"
    step: int | None = None
    either: bool = False
    axis: str = "position"

    @property
    def lead(self) -> Comparison:
        """What stands where one number must do: the comparison whose mean is smaller.

        In size, where it may go either way.
        """
        return min(self.comparisons, key=lambda c: abs(c.mean) if self.either else c.mean)

    @property
    def side(self) -> int:
        """1 or -1 if the intervals of all comparisons lie over 0, or all under it; else 0."""
        over = all(comparison.low > 0 for comparison in self.comparisons)
        return int(over) - int(all(comparison.high < 0 for comparison in self.comparisons))

    @property
    def claimed(self) -> bool:
        """Whether anything is claimed."""
        return self.verdict in CLAIMED


@dataclass(frozen=True)
class Stratum:
    """Pairs alike in what is known of them.

    Attributes:
        num_steps: Reasoning steps of the question; None if unknown or not told apart.
        changed_step: The first step that uses the changed number, from 1; None if unknown.
        n: Pairs.
        path: Steps whose results differ, from 1, in most of the pairs.
        field: A field of the file of pairs, if that tells the stratum; with its value.
    """

    num_steps: int | None
    changed_step: int | None
    n: int
    path: tuple[int, ...] = ()
    field: tuple[str, str] | None = None


@dataclass(frozen=True)
class Entry:
    """How many pairs of a stratum a patch restores.

    Attributes:
        restored: The source answer is said with the own patch, and not with the control's.
        n: Pairs of which both are known; the own patch alone where the run has no control.
        low: Lower end of the exact 95 % interval of the rate.
        high: Upper end.
        counts: Whether that is more than chance allows, at the entry's share of the level.
        control: Restored the other way round: said with the control's patch and not with the own.
    """

    restored: int
    n: int
    low: float
    high: float
    counts: bool
    control: int


@dataclass(frozen=True)
class Carried:
    """What a position is shown to carry at a layer.

    Attributes:
        column: Name of the position.
        step: The step whose result it carries; None if nothing is shown, and where pairs are
            restored (`most` is NaN then) but no dependence on the changed step is shown, or no
            step is known.
        traces: Later or other steps that count too, with less than half of the best share.
        restored: Pairs restored, of those whose change the carried result depends on.
        n: Those pairs.
        others_restored: Pairs restored of the others.
        others_n: The others.
        lengths: Numbers of steps of the problems that this is of; empty for all.
        most: Where nothing is shown, upper end of the exact interval of the largest rate.
    """

    column: str
    step: int | None
    traces: tuple[int, ...]
    restored: int
    n: int
    others_restored: int
    others_n: int
    lengths: tuple[int, ...] = ()
    most: float = float("nan")


@dataclass(frozen=True)
class StrataTable:
    """Position × stratum at one layer: which pairs a patch restores.

    Attributes:
        run: Label of the run.
        layer: Name of the layer.
        strata: The rows.
        columns: Names of the positions.
        entries: `[stratum][column]`.
        carried: One or more for each position; several where lengths differ.
        control_restored: Restored the other way round, over all entries.
        control_n: Of so many.
        chance: What entries are tested against: the rate at which the control's patch says the
            source answer over all entries, whatever the own one does; at least 0.05.
    """

    run: str
    layer: str
    strata: tuple[Stratum, ...]
    columns: tuple[str, ...]
    entries: tuple[tuple[Entry, ...], ...]
    carried: tuple[Carried, ...]
    control_restored: int
    control_n: int
    chance: float = 0.05


@dataclass(frozen=True)
class StrataFinding:
    """What each thought carries, by the step that changed.

    Attributes:
        main: The table at the layer of the run's largest effect, lowest of those that tie.
        others: The tables of all layers, in order; equal neighbours are not joined.
        depends: Whether effects depend on what is known of the pairs at all: p of the permutation
            test of the sum over cells of between-group squares; NaN without strata.
        bimodal: Share of values that are 0 or 1 to within 0.05; over 0.9 counts are given.
        explained: Share of the variance over pairs that the strata explain, median over cells that
            vary; NaN if none does.
    """

    main: StrataTable
    others: tuple[StrataTable, ...]
    depends: float
    bimodal: float
    explained: float


CourseName = Literal["compounds", "saturates", "fades", "turns", "none", "open"]


@dataclass(frozen=True)
class Course:
    """What a chain does at one layer.

    Attributes:
        layer: Name of the layer.
        course: `compounds`, `saturates`, `fades`, `turns`, or `none` if its first patch does
            nothing that is claimed; `open` where the change along it is not claimed and not small.
        effects: Content effect after each iteration that can have one.
        change: Last minus first; None if there is one iteration.
        share: Of the first effect that is left at the end, with its 95 % interval; None where the
            first effect is not claimed.
    """

    layer: str
    course: CourseName
    effects: tuple[Claim, ...]
    change: Claim | None
    share: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Finding:
    """A question and its answer.

    Attributes:
        key: Names the question: `ceiling`, `cells`, `strata`, `direct`, `chain`, `read`,
            `attention`, `needed`, `around`, and those of the table below them.
        number: Of a primary question, from 1; None of the others.
        answer: See `Answer`.
        runs: Labels of the runs that it rests on.
        lead: The claim that the answer leads with; None if there is none.
        claims: All of them.
        tied: Names of cells that cannot be told from the lead, the lead among them.
        missing: Of each run that is missing, the names of the configurations that make it.
        strata: Of the question what each thought carries.
        courses: Of the question along the chain.
        numbers: Further numbers by name, for what is described.
        model: Name of the model that it is about, where there are several.
    """

    key: str
    number: int | None
    answer: Answer
    runs: tuple[str, ...]
    lead: Claim | None = None
    claims: tuple[Claim, ...] = ()
    tied: tuple[str, ...] = ()
    missing: tuple[tuple[str, ...], ...] = ()
    strata: StrataFinding | None = None
    courses: tuple[Course, ...] = ()
    numbers: tuple[tuple[str, float], ...] = ()
    model: str = ""

    @property
    def n(self) -> int:
        """Pairs of the lead; 0 without one."""
        return self.lead.lead.n if self.lead else 0
