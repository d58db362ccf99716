"""Interchange interventions: whether a thought is the cause of the answer that it should be.

The thought z_p of one question (the source) takes the place of another's (the base); the later
thoughts are generated anew, and the answer is read out:

    base      z_0  z_1  z_2  z_3  z_4   answer
    source    y_0  y_1  y_2  y_3  y_4
    p = 2     z_0  z_1  y_2  z'_3 z'_4  the answer that the base's question gives with what y_2 says

A model whose z_2 carries an intermediate result gives the *counterfactual* answer: the base's
remaining steps, from the source's result. A thought that carries nothing can be exchanged without
any effect. Geiger et al., arXiv 2112.00826 and 2301.04709.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from codi_patching.models.accuracy import is_correct, latent_answers, read_out
from codi_patching.models.codi import CodiModel


@dataclass(frozen=True)
class Interchange:
    """One intervention and what should come of it.

    Attributes:
        base: The question whose thought is replaced.
        source: The question that the thought comes from.
        position: p, of z_p.
        num_steps: Steps of the base's calculation.
        expected: The counterfactual answer; None where the answer should stay as it is.
    """

    base: str
    source: str
    position: int
    num_steps: int
    expected: float | None

    @property
    def carries(self) -> bool:
        """Whether the thought should matter."""
        return self.expected is not None


@dataclass(frozen=True)
class Rate:
    """How many of so many interventions had the expected effect."""

    hits: int
    count: int

    @property
    def accuracy(self) -> float:
        """Fraction, 0..1."""
        return self.hits / self.count


@torch.no_grad()
def interchanged_answers(
    model: CodiModel, bases: Sequence[str], sources: Sequence[str], position: int
) -> list[str]:
    """Greedy answers to `bases` with z_p of `sources` in the place of their own.

    Args:
        model: The model.
        bases: Questions, answered as one batch.
        sources: As many questions.
        position: p, from 0 to K - 1.

    Raises:
        ValueError: The position is no thought's, or the numbers of questions differ.
    """
    if not 0 <= position < model.num_latents:
        raise ValueError(f"expected a position from 0 to {model.num_latents - 1}, got {position}")
    if len(bases) != len(sources):
        raise ValueError(
            f"expected one source for each base, got {len(sources)} for {len(bases)} bases"
        )
    given, _, _ = model.think(*model.encode([model.prompt_ids(q) for q in sources]))
    hidden, context = model.encode([model.prompt_ids(q) for q in bases])
    for step in range(model.num_latents):
        thought = given[:, position] if step == position else model.next_thought(hidden, step)
        states, context = model.advance(context, thought.unsqueeze(1))
        hidden = states[:, 0]
    return read_out(model, context, 8)


def interchange_hits(
    model: CodiModel, interchanges: Sequence[Interchange], batch_size: int = 100
) -> list[bool]:
    """Whether each intervention gave the expected answer, or left the model's own as it was."""
    hits = [False] * len(interchanges)
    for position in sorted({change.position for change in interchanges}):
        chosen = [i for i, change in enumerate(interchanges) if change.position == position]
        for start in range(0, len(chosen), batch_size):
            indices = chosen[start : start + batch_size]
            batch = [interchanges[i] for i in indices]
            texts = interchanged_answers(
                model, [c.base for c in batch], [c.source for c in batch], position
            )
            before = _own_answers(model, [c.base for c in batch if not c.carries])
            for i, change, text in zip(indices, batch, texts, strict=True):
                expected = change.expected
                same = expected is None and text == before[change.base]
                hits[i] = same or (expected is not None and is_correct(text, expected))
    return hits


def _own_answers(model: CodiModel, questions: list[str]) -> dict[str, str]:
    answers = latent_answers(model, questions) if questions else []
    return dict(zip(questions, answers, strict=True))


def interchange_accuracy(
    model: CodiModel, interchanges: Sequence[Interchange], batch_size: int = 100
) -> dict[tuple[int, int], Rate]:
    """How often interventions have the expected effect.

    Args:
        model: The model.
        interchanges: The interventions.
        batch_size: Questions at a time.

    Returns:
        By number of steps and position.
    """
    return rates(interchanges, interchange_hits(model, interchanges, batch_size))


def rates(interchanges: Iterable[Interchange], hits: Iterable[bool]) -> dict[tuple[int, int], Rate]:
    """Hits by number of steps and position, in that order."""
    groups: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for change, hit in zip(interchanges, hits, strict=True):
        groups[change.num_steps, change.position].append(hit)
    return {key: Rate(sum(group), len(group)) for key, group in sorted(groups.items())}


def lowest(
    interchanges: Iterable[Interchange], accuracy: Mapping[tuple[int, int], Rate], carries: bool
) -> float:
    """The lowest accuracy of the thoughts that carry a result, or of the idle ones."""
    keys = {(c.num_steps, c.position) for c in interchanges if c.carries == carries}
    return min(accuracy[key].accuracy for key in keys)
