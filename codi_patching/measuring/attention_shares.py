"""Who attends to what in a source run: from each reader to each group of the tokens before it.

    readers   bot, z_0 .. z_{K-1}, the tokens of the readout; the last stands before the answer
    groups    the question's first token, what stands before the changed number, the number, what
              stands after it, bot, z_0 .. z_{K-1}, the readout so far

Nothing is patched. The first token is a group of its own: in many models it draws what attention
is not needed elsewhere. High attention is not use: where a patch acts, patching says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi_patching.data.pairs import Pair
from codi_patching.measuring.attention_again import draw_looks, look_again
from codi_patching.measuring.places import readout_ids
from codi_patching.measuring.prompts import PromptRequest, Prompts
from codi_patching.models.answers import PairError
from codi_patching.models.attention import NAME, watched_attention
from codi_patching.models.codi import CodiModel
from codi_patching.results.pair_descriptions import AttentionPair
from codi_patching.results.records import PairRecord

FIRST, BEFORE, NUMBER, AFTER, BOT, READOUT = (
    "first token", "before the number", "the number", "after the number", "bot", "readout",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttentionShares:
    """Reads pairs.

    Attributes:
        model: The model.
        prompts: Makes requests for the model.
        verified: Pairs that are read again another way.
        seed: Of the draw of what is read again of each.
    """

    model: CodiModel
    prompts: Prompts
    verified: Sequence[Pair] = ()
    seed: int = 0

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of those who attend."""
        readout = len(readout_ids(self.model))
        return (BOT, *self._thoughts, *(f"readout {place}" for place in range(readout)))

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of what is attended to."""
        return (FIRST, BEFORE, NUMBER, AFTER, BOT, *self._thoughts, READOUT)

    @property
    def _thoughts(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.model.num_latents)))

    def read(self, pair: Pair) -> PairRecord:
        """One pair's source run.

        Returns:
            `attention`, the mean over heads, and `strongest`, the head that looks there most,
            `(readers, L, groups)` each; every head `(readers, L, heads, groups)` as activations.

        Raises:
            PairError: It does not fit the model, or its two questions have the same tokens.
        """
        (base, _), source = self.prompts.of_pair(pair)
        probabilities = attention_of(self.model, source)
        ids, readout = source
        span = changed_span(base, ids)
        asked = len(ids) - len(self.model.settings.bot_ids)
        places = self._group_of(span, asked, len(ids), len(readout.prefix))
        shares = torch.zeros(*probabilities.shape[:3], len(self.groups), dtype=probabilities.dtype)
        shares.index_add_(3, torch.tensor(places), probabilities)
        kept = [*range(1 + self.model.num_latents), *self._kept(len(readout.prefix))]
        shares = shares[kept]
        counts = tuple(places.count(group) for group in range(len(self.groups)))
        looks = self._looks(pair, probabilities.shape[1:3])
        again = look_again(self.model, source, counts, self.readers, looks) if looks else ()
        described = AttentionPair(pair.clean.text, counts, pair.group, pair.num_steps, again)
        return PairRecord(
            pair.pair_id,
            described,
            {
                "attention": shares.mean(2).double().numpy(),
                "strongest": shares.amax(2).double().numpy(),
            },
            activations=shares.float(),
        )

    def _looks(self, pair: Pair, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Layer, reader and head of what is read again of a pair; nothing of most."""
        ids = [other.pair_id for other in self.verified]
        if pair.pair_id not in ids:
            return []
        layers, heads = shape
        place = ids.index(pair.pair_id)
        return draw_looks((layers, len(self.readers), heads), place, len(ids), self.seed)

    def _kept(self, tokens: int) -> list[int]:
        """Rows of the readers of the readout: its first tokens, and the last before the answer."""
        start = 1 + self.model.num_latents
        readers = len(readout_ids(self.model))
        if tokens < readers:
            raise PairError(f"expected a readout of at least {readers} tokens, got {tokens}")
        return [*range(start, start + readers - 1), start + tokens - 1]

    def _group_of(self, span: tuple[int, int], asked: int, prompt: int, readout: int) -> list[int]:
        """The group of each token."""
        names = [BEFORE] * span[0] + [NUMBER] * (span[1] - span[0]) + [AFTER] * (asked - span[1])
        if names[0] != NUMBER:
            names[0] = FIRST
        names += [BOT] * (prompt - asked)
        groups = {name: place for place, name in enumerate(self.groups)}
        thoughts = range(groups["0"], groups["0"] + self.model.num_latents)
        return [*(groups[name] for name in names), *thoughts, *[groups[READOUT]] * readout]


def changed_span(base: Sequence[int], source: Sequence[int]) -> tuple[int, int]:
    """The tokens of one prompt that stand where it differs from another: start and end.

    Example:
        >>> changed_span([1, 7, 3, 4], [1, 8, 9, 3, 4])
        (1, 3)
    """
    shorter = min(len(base), len(source))
    start = next((i for i in range(shorter) if base[i] != source[i]), shorter)
    end = next((i for i in range(shorter - start) if base[-1 - i] != source[-1 - i]), None)
    return start, len(source) - (shorter - start if end is None else end)


@torch.no_grad()
def attention_of(model: CodiModel, request: PromptRequest) -> Tensor:
    """Attention probabilities of a question's run from bot on.

    Args:
        model: The model, whose attention is the one that it was loaded with.
        request: The prompt, and what is read after the thoughts.

    Returns:
        `(readers, L, heads, tokens)` on the CPU: bot, each thought and each token of the readout
        prefix attend to the tokens before them and to themselves; 0 to those after.

    Raises:
        PairError: The model's attention was exchanged, so that it cannot be seen.
    """
    if model.backbone.config._attn_implementation != NAME:
        raise PairError("its model's attention was exchanged after it was loaded")
    ids, readout = request
    with watched_attention() as kept:
        hidden, context = model.encode([ids])
        _, _, context = model.think(hidden, context)
        prefix = torch.tensor([list(readout.prefix)], device=model.device)
        _, context = model.read(context, prefix)
    layers = len(model.blocks)
    passes = [kept[start : start + layers] for start in range(0, len(kept), layers)]
    rows = [torch.stack([block[0] for block in each]) for each in passes]
    rows[0] = rows[0][:, :, -1:]
    padded = [torch.nn.functional.pad(r, (0, context.length - r.shape[-1])) for r in rows]
    return torch.cat(padded, dim=2).permute(2, 0, 1, 3).cpu()
