"""Cut runs made again by the reference engine, from the names of their cells.

Which layers, readers and tokens a cell's cut is of is read here from the names that the results
have, and shares nothing with `edges` or the grid, so that a swapped layer or edge is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from codi_patching.measuring.metrics_by_hand import Logits, metrics_by_hand
from codi_patching.measuring.prompts import PromptRequest
from codi_patching.measuring.verification import Cells
from codi_patching.models.codi import CodiModel
from codi_patching.patching.cuts import Cut
from codi_patching.patching.reference import Prompt, ReferenceEngine
from codi_patching.results.description import Grid
from codi_patching.results.pair_descriptions import KnockoutPair, VerifiedRun

_ROWS = 64
"""Cut runs that go together at most: a whole pass holds the keys and values of all of them."""


def edges_again(
    model: CodiModel, request: PromptRequest, pair: KnockoutPair, grid: Grid, cells: Cells
) -> tuple[VerifiedRun, ...]:
    """Run some cells of a pair again, own and control, and its uncut run.

    Args:
        model: The model.
        request: The pair's prompt and readout.
        pair: What was cut.
        grid: Names of layers and edges.
        cells: Row and column of each.
    """
    ids, readout = request
    engine = ReferenceEngine(model, _ROWS)
    prompt = Prompt(*model.encode([ids]))
    tokens = {"question": _question(model, pair.question, ids), "numbers": pair.number_tokens}
    before = {name: [place - len(ids) for place in own] for name, own in tokens.items()}
    places: list[tuple[str, tuple[int, int]]] = []
    cuts: list[tuple[Cut, ...]] = [()]
    for arm in ("own", "control"):
        for row, column in cells:
            names = grid.layers[row], grid.columns[column]
            cut = _cut(model, *names, before, readout.length)
            if arm == "control":
                if names[1] not in pair.control_tokens:
                    continue
                drawn = pair.control_tokens[names[1]]
                cut = replace(cut, read=tuple(place - len(ids) for place in drawn))
            places.append((arm, (row, column)))
            cuts.append((cut,))
    found: list[Logits] = []
    for first in range(0, len(cuts), _ROWS):
        some = cuts[first : first + _ROWS]
        run = engine.run(prompt, [()] * len(some), readout, cuts=some)
        clean, corrupted = (logits.double().cpu().numpy() for logits in run.answer_logits)
        found += list(zip(clean, corrupted, strict=True))
    metrics = [_metrics(run, found[0], request, model) for run in found]
    again = [VerifiedRun("base", metrics[0])]
    for (arm, (row, column)), values in zip(places, metrics[1:], strict=True):
        again.append(VerifiedRun(arm, values, grid.layers[row], grid.columns[column]))
    return tuple(again)


def _cut(
    model: CodiModel,
    layer: str,
    edge: str,
    before: Mapping[str, Sequence[int]],
    readout: int,
) -> Cut:
    """The cut that a cell's names say.

    Args:
        model: The model.
        layer: `all`, `3`, or `3-5`.
        edge: `question->readout`, `1->3`, ….
        before: Places of the prompt that stand for `question` and `numbers`.
        readout: Tokens of the readout.
    """
    first, _, last = layer.partition("-")
    depth, latents = len(model.blocks), model.num_latents
    layers = range(depth) if first == "all" else range(int(first), int(last or first) + 1)
    read, _, reader = edge.partition("->")
    groups = {"readout": range(latents, latents + readout), "thoughts": range(latents)}
    readers = groups[reader] if reader in groups else [int(reader)]
    seen = before.get(read) or groups.get(read) or [int(read)]
    return Cut(tuple(layers), tuple(readers), tuple(seen))


def _question(model: CodiModel, question: str, ids: Sequence[int]) -> range:
    """All tokens from the first that the question has without the tokenizer's special ones."""
    own = model.tokenizer(model.question_text(question), add_special_tokens=False)["input_ids"]
    first = next(place for place in range(len(ids)) if ids[place : place + len(own)] == own)
    return range(first, len(ids))


def _metrics(
    run: Logits, uncut: Logits, request: PromptRequest, model: CodiModel
) -> dict[str, float | None]:
    """All metrics that need no source run."""
    margin = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    found = metrics_by_hand(
        run, base=uncut, source=uncut, ids=request[1].answers, clean_is_source=False, margin=margin
    )
    return {
        name: value for name, value in found.items() if name not in ("kl_to_source", "recovery")
    }
