"""Edges of attention that are cut by hand, beside the sites that are patched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from codi_patching.measuring.question_tokens import QuestionTokens
from codi_patching.models.codi import CodiModel
from codi_patching.patching.cuts import Cut
from codi_patching.patching.edges import Edge
from codi_patching.patching.engine import Readout


def without_edges(given: Any) -> tuple[Any, list[Edge]]:
    """What is patched, and the edges that are cut.

    Args:
        given: A site, an edge, or several of either.
    """
    if isinstance(given, Edge):
        return [], [given]
    if not isinstance(given, Iterable) or isinstance(given, str):
        return given, []
    every = list(given)
    edges = [each for each in every if isinstance(each, Edge)]
    return [each for each in every if not isinstance(each, Edge)], edges


def cuts_of(
    model: CodiModel, edges: Sequence[Edge], question: str, readout: Readout
) -> list[list[Cut]]:
    """The cuts of one run, or nothing without edges.

    Raises:
        InputError: An edge does not fit the model or the question.
    """
    if not edges:
        return []
    places = QuestionTokens.of(model, question).before_thoughts
    layers, latents = len(model.blocks), model.num_latents
    return [[edge.cut(layers, latents, places, readout.length) for edge in edges]]
