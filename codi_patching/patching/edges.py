"""Edges by name: from whom to what a run's information may flow through attention.

    question -> readout      the direct route: what the answer takes from the question itself
    numbers -> readout       the same of those of its tokens alone that carry a number
    question -> thoughts     what the thoughts take from it; or one thought, `question -> 2`
    thoughts -> readout      what the answer takes from the thoughts; or from one, `1 -> readout`
    1 -> 3                   what thought 3 takes from thought 1

Thought p + 1 is made from the last state at thought p and not through attention: that link is no
edge, and no cut takes it away. The question is all of the prompt but a token that tokenizers put
first, such as BOS, where attention goes that is not needed elsewhere. Its bot token is one of them:
it has read the question and hands on what it read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codi_patching.errors import InputError, brief, whole_number
from codi_patching.patching.cuts import Cut

READOUT, THOUGHTS, QUESTION, NUMBERS = "readout", "thoughts", "question", "numbers"

_READERS, _READ = (READOUT, THOUGHTS), (QUESTION, NUMBERS, THOUGHTS)

ARROW = "->"
"""Between what is read and its reader in a name: information flows this way."""

Thought = tuple[str, int]
"""`("thought", p)`."""


@dataclass(frozen=True)
class Edge:
    """Who does not see what, and in which layers.

    Attributes:
        reader: `"readout"`, all tokens after the thoughts; `"thoughts"`; or `("thought", q)`.
        read: `"question"`, `"numbers"`, `"thoughts"`, or `("thought", p)` with p before the reader.
        layers: One, several, or all if not given.

    Raises:
        InputError: There is no such edge.

    Example:
        >>> Edge(reader="readout", read=("thought", 3)).name
        '3->readout'
    """

    reader: str | Thought
    read: str | Thought
    layers: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse readers of what comes after them, and what is no part of a run."""
        for name, known in (("reader", _READERS), ("read", _READ)):
            object.__setattr__(self, name, _as_end(getattr(self, name), name, known))
        reader, read = self.reader, self.read
        later = isinstance(reader, tuple) and isinstance(read, tuple) and reader[1] > read[1]
        if reader != READOUT and read not in (QUESTION, NUMBERS) and not later:
            raise InputError(
                f"expected a reader after what it reads, got {self.name}: set [[reader]]"
            )
        if self.layers is not None:
            several = isinstance(self.layers, Sequence | range)
            layers = self.layers if isinstance(self.layers, Sequence | range) else [self.layers]
            numbers = tuple(whole_number(layer, "layers", 0) for layer in layers)
            if not numbers:
                raise InputError("expected at least one layer, got none: set [[layers]]")
            object.__setattr__(self, "layers", numbers if several else numbers[0])

    @property
    def name(self) -> str:
        """What is read and its reader, `question->readout`, `1->3`."""
        return ARROW.join(
            str(end[1]) if isinstance(end, tuple) else end for end in (self.read, self.reader)
        )

    def readers(self, num_latents: int, readout: int) -> tuple[int, ...]:
        """Places of those that do not see.

        Args:
            num_latents: K.
            readout: Tokens of the readout.

        Raises:
            InputError: There is no such thought.
        """
        if self.reader == READOUT:
            return tuple(range(num_latents, num_latents + readout))
        return _thoughts(self.reader, num_latents)

    def cut(
        self, num_layers: int, num_latents: int, prompt: Mapping[str, Sequence[int]], readout: int
    ) -> Cut:
        """The cut of a run.

        Args:
            num_layers: L.
            num_latents: K.
            prompt: Places of the tokens of `question` and `numbers`, counted as in `cuts`.
            readout: Tokens of the readout.

        Raises:
            InputError: There is no such layer or thought.
        """
        chosen = range(num_layers) if self.layers is None else self.layers
        layers = (chosen,) if isinstance(chosen, int) else tuple(chosen)
        if max(layers) >= num_layers:
            raise InputError(
                f"expected layers under {num_layers}, got {max(layers)}: set [[layers]]"
            )
        named = isinstance(self.read, str) and self.read in prompt
        read = tuple(prompt[str(self.read)]) if named else _thoughts(self.read, num_latents)
        return Cut(layers, self.readers(num_latents, readout), read)


def every_edge(num_latents: int) -> Iterator[Edge]:
    """All edges of a model with K thoughts: of the question, to the readout, between thoughts."""
    thoughts: list[Thought] = [("thought", place) for place in range(num_latents)]
    yield from (Edge(READOUT, read) for read in (QUESTION, NUMBERS, THOUGHTS))
    yield from (Edge(THOUGHTS, read) for read in (QUESTION, NUMBERS))
    yield from (Edge(thought, QUESTION) for thought in thoughts)
    yield from (Edge(READOUT, thought) for thought in thoughts)
    for place, read in enumerate(thoughts):
        yield from (Edge(reader, read) for reader in thoughts[place + 1 :])


def _thoughts(end: str | Thought, num_latents: int) -> tuple[int, ...]:
    """The places of one thought or of all.

    Raises:
        InputError: There is no such thought.
    """
    if end == THOUGHTS:
        return tuple(range(num_latents))
    place = int(end[1])
    if place >= num_latents:
        raise InputError(f"expected an edge of thoughts under {num_latents}, got thought {place}")
    return (place,)


def _as_end(end: Any, name: str, known: Sequence[str]) -> str | Thought:
    """An end of an edge, made plain.

    Raises:
        InputError: It is none.
    """
    if isinstance(end, str) and end in known:
        return end
    if isinstance(end, Sequence) and len(end) == 2 and end[0] == "thought":
        return "thought", whole_number(end[1], name, 0)
    names = ", ".join(repr(each) for each in known)
    raise InputError(
        f'expected {name} to be {names} or ("thought", 3), got {brief(end)}: set [[{name}]]'
    )
