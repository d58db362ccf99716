"""What each thought says to the lens, and whether patching it there moves the answer.

Decodable is not used: a step's result may be read where nothing depends on it, and a state may
carry the answer in a form that the head does not read. So both are judged, cell by cell, in one
max-T: whether a step's result is among the most probable tokens more often than another pair's
result of that step, and whether patching the cell has a content effect. The lens reads the clean
question's run, whose states denoising patches in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.arms import Arm, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import Comparisons
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.cells import where
from codi_patching.analysis.questions.setup import Setup, cell_contrasts
from codi_patching.analysis.readings import LENS, LENS_COMMAND, Readings
from codi_patching.analysis.sentences import (
    conclude,
    evidence,
    listed,
    more_pairs,
    named,
    overall,
    sample,
    strongest,
    too_few,
)
from codi_patching.analysis.verdicts import Thresholds, Verdict

FAMILY = "the lens"
QUESTION = "What does each thought say, and does patching agree"
_UNDECIDED = "Undecided whether any cell is both: "
SETTING = ("resid_post", "denoising", "clean")
"""Of the patches that overwrite what the lens reads."""


def reading_kind(step: int) -> str:
    """The kind of the claims about a step, from 1."""
    return f"step {step} minus another pair's"


def decoded_family(setup: Setup) -> Family:
    """The lens beside every position patching of the states that it reads."""
    readings, arms = setup.readings, setup.find("position", setting=SETTING)
    reason = ""
    if readings is None:
        reason = f"It takes the lens; `{LENS_COMMAND}` makes it."
    elif not np.isfinite(readings.own).any():
        reason = _nothing_read(readings)
    elif not arms:
        reason = (
            "It takes position patching of resid_post, denoising, beside the lens; "
            f"`{command('position')}` makes it."
        )
    if readings is None or reason:
        return Family(FAMILY, (), (unanswered(f"{QUESTION}?", reason, family=FAMILY),))
    return Family(FAMILY, tuple(_part(arm, readings, setup) for arm in arms))


def _nothing_read(readings: Readings) -> str:
    pair, reason = next(iter(readings.excluded.items()), ("", ""))
    return "The lens read none of these pairs" + (f"; {pair}: {reason}." if pair else ".")


def _part(arm: Arm, readings: Readings, setup: Setup) -> Part:
    steps = [_step(readings, step, setup.thresholds) for step in range(readings.steps)]
    blocks = (*steps, cell_contrasts(arm, setup.thresholds))
    return Part(blocks, lambda claims: _say(arm, readings, claims))


def _step(readings: Readings, step: int, thresholds: Thresholds) -> Contrasts:
    """How much more often a step's result is read than another pair's, at every cell."""
    above = readings.own[:, step] - readings.chance[:, step]
    cells = [(layer, column) for layer in readings.layers for column in readings.columns]
    return Contrasts(
        tuple(f"step {step + 1} at layer {layer}, position {column}" for layer, column in cells),
        Comparisons(above.reshape(len(above), -1), None),
        "content",
        "hit rate",
        thresholds.of("hit rate"),
        reading_kind(step + 1),
        "none",
        tuple(cells),
        "the result of that step of another pair",
    )


@dataclass(frozen=True)
class _Both:
    """The claims of the lens and of patching, cell by cell.

    Attributes:
        steps: Claims of each step.
        patched: Claims of patching; cells that cannot have an effect have none.
    """

    steps: tuple[Claims, ...]
    patched: Claims

    def effect(self, reading: Claim) -> Verdict | None:
        """What patching says of the cell of a reading; None if no patch there can act."""
        effects = {(claim.layer, claim.column): claim.verdict for claim in self.patched}
        return effects.get((reading.layer, reading.column))

    def read(self, effect: Verdict | None) -> list[list[Claim]]:
        """Of each step the readings that are shown, where patching says this."""
        return [[c for c in named(s, "yes") if self.effect(c) == effect] for s in self.steps]

    def acting_unread(self) -> list[Claim]:
        """Cells with a content effect, of which no reading is shown."""
        shown = {(c.layer, c.column) for step in self.steps for c in named(step, "yes")}
        return [c for c in named(self.patched, "yes") if (c.layer, c.column) not in shown]

    def verdict(self) -> Verdict:
        """Yes: some cell is read and has a content effect. No: none can be both."""
        cells = {(c.layer, c.column): overall(_at(self.steps, c)) for c in self.steps[0]}
        effects = {(c.layer, c.column): c.verdict for c in self.patched}
        both = [{read, effects.get(cell, "no")} for cell, read in cells.items()]
        if any(verdicts == {"yes"} for verdicts in both):
            return "yes"
        if {"not applicable"} in (set(cells.values()), set(effects.values())):
            return "not applicable"
        return "no" if all("no" in verdicts for verdicts in both) else "undecided"


def _at(steps: Sequence[Claims], cell: Claim) -> list[Claim]:
    """The claims of all steps at one cell."""
    here = (cell.layer, cell.column)
    return [claim for step in steps for claim in step if (claim.layer, claim.column) == here]


def _say(arm: Arm, readings: Readings, blocks: tuple[Claims, ...]) -> Finding:
    question = f"{QUESTION} ({arm.name})?"
    both = _Both(blocks[:-1], blocks[-1])
    claims = tuple(claim for block in blocks for claim in block)
    verdict, lead = both.verdict(), _lead(both)
    if lead is None:
        return unanswered(question, "No other pair was there to compare with.", family=FAMILY)
    if verdict == "not applicable":
        sentence = too_few(lead)
    else:
        begin = {"yes": "Yes: ", "no": "No cell is both: "}.get(verdict, _UNDECIDED)
        parts = [*_places(both), _clearest(readings, lead), *_notes(readings, both)]
        sentence = begin + " ".join(parts)
    found = conclude(question, verdict, lead, sentence, claims, [arm], FAMILY)
    return Finding(**{**vars(found), "arms": (*found.arms, LENS)})


def _lead(both: _Both) -> Claim | None:
    """The clearest reading: with a content effect, else any that is shown, else any at all."""
    agreed = [claim for step in both.read("yes") for claim in step]
    everything = [claim for step in both.steps for claim in step]
    judged = [claim for claim in everything if claim.verdict != "not applicable"]
    options = (agreed, named(everything, "yes"), named(judged, "undecided"), judged, everything)
    return next((lead for lead in map(strongest, options) if lead is not None), None)


def _places(both: _Both) -> Iterator[str]:
    """Where both say yes, and where one of them does not."""
    whats: dict[Verdict | None, str] = {
        "yes": "read, and patching has a content effect",
        "no": "read, but patching has no content effect beyond the threshold",
        "undecided": "read, but whether patching has a content effect is undecided",
        None: "read, where no patch can act, since nothing reads that state",
    }
    said = [f"{what}: {steps}" for key, what in whats.items() if (steps := _steps(both.read(key)))]
    if not any(any(both.read(key)) for key in whats):
        said.append("no step's result is shown to be read more often than chance")
    unread = both.acting_unread()
    if unread:
        said.append(f"content effect, but no step's result is shown to be read: {where(unread)}")
    yield f"{'. '.join(part[0].upper() + part[1:] if i else part for i, part in enumerate(said))}."


def _steps(readings: Sequence[Sequence[Claim]]) -> str:
    """Readings by step: `step 1 (position 0 at layers 3 and 4), step 2 (…)`."""
    shown = [f"step {n} ({where(claims)})" for n, claims in enumerate(readings, 1) if claims]
    return listed(shown, len(shown))


def _clearest(readings: Readings, lead: Claim) -> str:
    words = "is read most clearly" if lead.verdict == "yes" else "is estimated to be read most"
    more = f"; {more_pairs(lead)}" if lead.verdict == "undecided" else ""
    return (
        f"Of these {lead.name} {words}: its result is among the {readings.top} most probable "
        f"tokens more often than another pair's by {evidence(lead)}{more}."
    )


def _notes(readings: Readings, both: _Both) -> Iterator[str]:
    """Steps without a verdict, pairs in which a patch changes nothing that is read, tokens."""
    for number, step in enumerate(both.steps, 1):
        if {claim.verdict for claim in step} == {"not applicable"}:
            yield f"Step {number} is in too few pairs for a verdict ({sample(step[0])})."
    known = np.isfinite(readings.differs)
    if known.any():
        counts = [
            f"step {number} in {int(differs[present].sum())} of {int(present.sum())}"
            for number, (differs, present) in enumerate(zip(readings.differs.T, known.T), 1)
        ]
        yield (
            f"The two questions differ in the result of {listed(counts, len(counts))} pairs; in "
            "the other pairs a patch cannot change that result."
        )
    if readings.first_tokens:
        yield "Of results of several tokens the first is looked for."
