"""Which layers and positions carry the answer, one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence

from codi_patching.analysis.arms import THOUGHT, Arm, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.families import Claims, Family, Part
from codi_patching.analysis.questions.setup import Setup, cell_contrasts
from codi_patching.analysis.sentences import answer, compared, evidence, layers_listed

FAMILY = "layers and positions"


def cells_family(setup: Setup) -> Family:
    """The content effect of every cell of position patching."""
    arms = setup.find("position")
    if not arms:
        question = "Which positions and layers carry the answer?"
        reason = f"No position patching was run; `{command('position')}` makes it."
        return Family(FAMILY, (), (unanswered(question, reason, family=FAMILY),))
    return Family(FAMILY, tuple(_which(arm, setup) for arm in arms))


def _which(arm: Arm, setup: Setup) -> Part:
    question = f"Which positions and layers carry the answer, one cell at a time ({arm.name})?"

    def conclude(blocks: tuple[Claims, ...]) -> Finding:
        cells = len(blocks[0])

        def yes(shown: list[Claim], lead: Claim) -> str:
            return (
                f"Yes, {len(shown)} of {cells} cells: {where(shown)}. At {lead.name}, where it is "
                f"largest, the source run's answer becomes more probable by "
                f"{evidence(lead)}.{compared(lead)}"
            )

        return answer(
            question, blocks[0], [arm], yes, "content effect", FAMILY,
            "no cell has a content effect beyond the threshold",
        )  # fmt: skip

    return Part((cell_contrasts(arm, setup.thresholds),), conclude)


def where(claims: Sequence[Claim]) -> str:
    """Cells by position: `position 1 at layers 3 and 4; position 2 at layer 7`."""
    columns = dict.fromkeys(claim.column for claim in claims)
    parts = []
    for column in sorted(columns, key=lambda name: (len(name or ""), name or "")):
        rows = [claim.layer or "" for claim in claims if claim.column == column]
        numbers = [row for row in rows if row != THOUGHT]
        places = ["as the thought itself"] if THOUGHT in rows else []
        if numbers:
            places.append(f"at {layers_listed(numbers)}")
        parts.append(f"position {column} {' and '.join(places)}")
    return "; ".join(parts)
