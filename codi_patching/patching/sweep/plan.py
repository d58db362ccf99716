"""A sweep worked out: which token of which run is computed at which layer, as tensors of indices.

`planner` decides, `lowering` writes it down in these types for one request, `joining` makes one
plan of several, `waves` follows it. *Outputs* are the states that a wave made last: its new
thoughts, then what its tokens are after each half of a layer. The unpatched runs' tokens are those
of all starts, one start after the other; so are the values of all requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Watched = tuple[Tensor, Tensor]
"""Outputs that are watched, and their places among all watched cells."""

Functions = tuple[tuple[int, int], ...]
"""Item and function, by number, for values that are computed from what is there."""


Heads = tuple[Tensor, Tensor, Tensor]
"""Attending nodes, their heads, and labels of what these give in place of what they make."""

HeadFunctions = tuple[tuple[int, int, int], ...]
"""Attending node, head and function, for what is computed from what a head makes."""


@dataclass(frozen=True)
class AttentionStep:
    """The first half of a layer of a wave.

    Inputs are ordered: nodes that attend; nodes of which only keys and values are needed; nodes to
    whose stream a given value is added in place of what attention adds.

    Attributes:
        source: Where each input comes from: the outputs, then the unpatched run's, then the values.
        nodes: Number of each input's node in the wave.
        attending: How many attend, start by start.
        segments: Starts, and how many nodes attend to the prompt of each.
        slots: Slots in the pool for keys and values of the inputs before those with `added`.
        keys: Slots that each attending node attends to, `(attending, longest)`.
        mask: Which of `keys` are meant, `(attending, longest)`; None for all.
        hidden: Label of the prompt tokens that each attending node does not see, -1 if it sees
            all, `(attending,)`; None if all do.
        written: Slots, node numbers and labels of keys and values that are given.
        added: Labels of the values that are added.
        functions: Of what attention adds, by attending node.
        key_functions: Of keys and values, by input.
        heads: Of given heads.
        head_functions: Of computed heads.
        rows: Of each start the nodes that attend to its prompt, any after them, `(starts, most)`,
            and where each node is there, row by row; None where segments are taken one by one.
    """

    source: Tensor
    nodes: Tensor
    attending: int
    segments: tuple[tuple[int, int], ...]
    slots: Tensor
    keys: Tensor
    mask: Tensor | None
    hidden: Tensor | None
    written: tuple[Tensor, Tensor, Tensor]
    added: Tensor
    functions: Functions
    key_functions: Functions
    heads: Heads
    head_functions: HeadFunctions
    rows: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class MLPStep:
    """The second half of a layer of a wave.

    Attributes:
        source: Where each input comes from: the outputs of the first half, then what the unpatched
            run's tokens are there; None for the outputs as they are.
        computed: How many go through the MLP; to those after them a value is added.
        added: Labels of these values.
        functions: Of what the MLP adds, by computed node.
        output_functions: Of the layer's outputs, by output.
    """

    source: Tensor | None
    computed: int
    added: Tensor
    functions: Functions
    output_functions: Functions


@dataclass(frozen=True)
class Step:
    """A layer of a wave.

    Attributes:
        attention: Its first half.
        mlp: Its second half.
        watched: Of its outputs.
    """

    attention: AttentionStep
    mlp: MLPStep
    watched: Watched


@dataclass(frozen=True)
class Wave:
    """Nodes that go up through the layers together.

    Attributes:
        parents: Sources, at the end of the wave before, of the states that new thoughts are made
            from: its outputs, then the unpatched run's, then the values.
        computed_thoughts: Sources, among new thoughts and then the unpatched run's, and functions,
            of further new thoughts.
        watched: Of the new thoughts.
        starts: Start of each node, `(nodes,)`.
        depths: Position of each node after the prompt, `(nodes,)`.
        steps: One for each layer.
    """

    parents: Tensor
    computed_thoughts: Functions
    watched: Watched
    starts: Tensor
    depths: Tensor
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Reads:
    """Which logits are a request's.

    Attributes:
        outputs: How many of `Plan.logit_outputs` are this request's.
        answers: For each answer which logits are its tokens', `(rows, tokens)`: the request's own,
            then the unpatched run's of `Suffix.read_tokens`.
        unpatched: For each answer where the unpatched run's are in `answers`, row by row, and which
            of `Suffix.read_tokens` they are.
    """

    outputs: int
    answers: tuple[Tensor, ...]
    unpatched: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, outputs: int, answers: Sequence[Sequence[Sequence[int]]]) -> Reads:
        """From the numbers of the logits of each answer, row by row."""
        every = tuple(torch.tensor(own, dtype=torch.long) for own in answers)
        theirs = [(own.flatten() >= outputs).nonzero()[:, 0] for own in every]
        which = [own.flatten()[places] - outputs for own, places in zip(every, theirs)]
        return cls(outputs, every, tuple(zip(theirs, which)))


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole sweep; the same only as itself, so that what is made of it can be kept.

    Attributes:
        waves: In order.
        logit_outputs: What logits are made from, request by request: of the last wave's outputs,
            then of the values, where the last layer is patched at a token that is read.
        reads: Of each request.
        tokens: The unpatched runs' tokens after the prompt.
        num_slots: Slots for keys and values, the unpatched runs' first.
        watched: Number of watched cells.
        constant: Watched cells that are not computed: `(place, layer or -1, source)`, sources being
            the unpatched run's tokens, then the values.
        attention_tokens: Tokens through a layer's attention, all waves; without those of which
            only keys and values are needed.
        mlp_tokens: Tokens through a layer's MLP.
    """

    waves: tuple[Wave, ...]
    logit_outputs: Tensor
    reads: tuple[Reads, ...]
    tokens: int
    num_slots: int
    watched: int
    constant: tuple[tuple[int, int, int], ...]
    attention_tokens: int
    mlp_tokens: int

    @property
    def token_layers(self) -> float:
        """Tokens through a layer, each half counting half."""
        return (self.attention_tokens + self.mlp_tokens) / 2
