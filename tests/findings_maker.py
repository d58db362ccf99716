"""Findings as an analysis gives them, for tests of what shows them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MadeClaim:
    name: str
    verdict: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 24
    threshold: float | None = 0.1
    unit: str = "probability"
    kind: str = "content"
    layer: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class MadeFinding:
    question: str
    verdict: str
    estimate: float | None
    sentence: str
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 24
    threshold: float | None = 0.1
    unit: str = "probability"
    claims: tuple[MadeClaim, ...] = ()
    arms: tuple[str, ...] = ()


def claim(layer, column, verdict="yes", estimate=0.38):
    name = f"layer {layer}, position {column}"
    return MadeClaim(name, verdict, estimate, 0.3, 0.45, 2e-4, layer=layer, column=column)


WHERE = MadeFinding(
    "Which positions and layers carry the answer?",
    "yes",
    0.38,
    "Yes, one of 11 cells: `layer 2, position 1`.",
    0.3,
    0.45,
    2e-4,
    claims=(claim("2", "1"), claim("0", "0", "no", 0.0), claim("1", "0", "yes", -0.3)),
)
OPEN = MadeFinding(
    "Do layers rely on different positions?", "undecided", 0.05, "Undecided.", -0.05, 0.15, 0.2
)
MISSING = MadeFinding(
    "Early or late?", "not applicable", None, "No layer patching was run.", n=0, threshold=None
)
FINDINGS = (WHERE, OPEN, MISSING)
