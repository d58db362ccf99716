"""What patched runs say: read from their forced answers, or generated on from their own caches.

A readout forces each answer and the eos after it, so the logits tell what a run says next after
every beginning of these answers. A run that says anything else is gone on with: its thoughts are
run once more on the keys and values of the prompt, and then each word costs one token.

    prefix     eot The answer is :        as the run is always given it
    answers    " " "18" eos, " " "24" eos  whatever is said of these needs no run of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from codi_patching.models.accuracy import answer_start, read_out_ids
from codi_patching.models.codi import CodiModel
from codi_patching.models.context import Context
from codi_patching.patching.engine import Readout, Unpatched
from codi_patching.patching.interventions import Latents, PatchSet
from codi_patching.patching.reference import Prompt, ReferenceEngine
from codi_patching.patching.sweep.unpatched import UnpatchedState

_ROWS = 64
"""Runs that are gone on with together: each holds the keys and values of its prompt."""


@dataclass(frozen=True)
class SpokenReadout:
    """A readout that tells what is said.

    Attributes:
        readout: What an engine reads: each answer from the end of the prefix on, with the eos that
            ends it.
        answers: The tokens of each answer, as metrics read them.
        skip: Tokens between the prefix and the answers, which are read with these.
        from_prefix: Whether the readout's prefix is the model's own; if not, forced answers do not
            tell what is said after it.
    """

    readout: Readout
    answers: tuple[tuple[int, ...], ...]
    skip: int
    from_prefix: bool = True

    @classmethod
    def of(cls, model: CodiModel, readout: Readout, room: bool) -> SpokenReadout:
        """A readout for metrics as one that tells what is said.

        Args:
            model: The model.
            readout: For metrics.
            room: Whether the eos after the longest answer still fits.
        """
        prefix = tuple(answer_start(model))
        own = readout.prefix[: len(prefix)] == prefix
        first = len(prefix) if own else len(readout.prefix)
        between = readout.prefix[first:]
        end = (model.settings.eos_id,) if room else ()
        answers = tuple((*between, *answer, *end) for answer in readout.answers)
        return cls(Readout(readout.prefix[:first], answers), readout.answers, len(between), own)

    def for_metrics(self, answer_logits: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits before the tokens of each answer alone, `(rows, tokens, vocabulary)`."""
        return tuple(
            logits[:, self.skip : self.skip + len(answer)]
            for logits, answer in zip(answer_logits, self.answers, strict=True)
        )

    def forced(self, answer_logits: Sequence[Tensor], eos: int, most: int) -> list[int] | None:
        """What the first row says, as far as its forced answers tell; None if they do not.

        Args:
            answer_logits: As an engine gives them.
            eos: Ends what is said.
            most: Most tokens.
        """
        if not self.from_prefix:
            return None
        best: dict[tuple[int, ...], int] = {}
        for tokens, logits in zip(self.readout.answers, answer_logits):
            for place, token in enumerate(logits[0].argmax(-1).tolist()):
                best[tokens[:place]] = token
        said: list[int] = []
        while len(said) < most:
            if tuple(said) not in best:
                return None
            token = best[tuple(said)]
            if token == eos:
                break
            said.append(token)
        return said


def prompts_of(model: CodiModel, starts: Sequence[Unpatched]) -> Prompt:
    """The prompts of unpatched runs as they were read, of either engine, side by side.

    Shorter ones are filled up before their first token, which the mask hides.
    """
    states = [_read_prompt(start.state) for start in starts]
    lengths = [keys.shape[3] for _, keys in states]
    longest = max(lengths)
    cache = DynamicCache()
    for layer in range(len(model.blocks)):
        both = [pad(kv[layer], (0, 0, longest - kv.shape[3], 0)) for _, kv in states]
        keys, values = torch.stack(both, dim=1)
        cache.update(keys, values, layer)
    mask = None
    if min(lengths) < longest:
        places = torch.arange(longest, device=model.device)
        missing = torch.tensor([longest - length for length in lengths], device=model.device)
        mask = (places >= missing[:, None]).long()
    context = Context(cache, mask, longest, len(states))
    return Prompt(torch.stack([hidden for hidden, _ in states]), context)


def _read_prompt(state: UnpatchedState | Prompt) -> tuple[Tensor, Tensor]:
    """The hidden state at bot, and keys and values `(L, 2, kv heads, length, size)`."""
    if isinstance(state, UnpatchedState):
        return state.bot, state.prompt_kv
    layers = state.context.cache.layers
    return state.hidden[0], torch.stack([torch.stack([la.keys[0], la.values[0]]) for la in layers])


@torch.no_grad()
def said_by(
    model: CodiModel,
    starts: Sequence[Unpatched],
    rows: Sequence[PatchSet],
    latents: Latents,
    most: int,
) -> list[list[int]]:
    """The tokens that patched runs say, each its most probable next, up to eos.

    Args:
        model: The model.
        starts: The unpatched run of each.
        rows: The patches of each; none for what the unpatched run says.
        latents: Whether thoughts after a patch are generated anew.
        most: Most tokens of each, fewer where the context ends before.
    """
    found = []
    for first in range(0, len(rows), _ROWS):
        group = starts[first : first + _ROWS], rows[first : first + _ROWS]
        read = max(len(_read_prompt(start.state)[1][0, 0, 0]) for start in group[0])
        room = model.context_length - read - model.num_latents - len(answer_start(model)) + 1
        together = [group] if room >= most else [([s], [row]) for s, row in zip(*group)]
        for some in together:
            found += _go_on(model, *some, latents, most)
    return found


def _go_on(
    model: CodiModel,
    starts: Sequence[Unpatched],
    rows: Sequence[PatchSet],
    latents: Latents,
    most: int,
) -> list[list[int]]:
    """What some runs say, side by side."""
    engine, prompts = ReferenceEngine(model, _ROWS), prompts_of(model, starts)
    own = torch.cat([start.run.thoughts for start in starts])
    frozen = own if latents == "frozen" else None
    _, context = engine.think(prompts, engine.with_values(prompts, rows, frozen, [()]), frozen)
    room = model.context_length - context.length - len(answer_start(model)) + 1
    return read_out_ids(model, context, min(most, room)) if room > 0 else [[]] * len(rows)


def as_text(model: CodiModel, tokens: Sequence[int]) -> str:
    """Tokens that were said, in words."""
    return model.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
