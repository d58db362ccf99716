"""Runs decoder blocks, and records sites inside them while unpatched runs think."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from codi_patching.patching.interventions import SiteName
from codi_patching.patching.latent_model import Attend, LatentModel
from codi_patching.patching.rotations import Rotations, still, turned


class Recorder:
    """Runs decoder blocks and keeps what is asked for, nothing else.

    Args:
        model: The model.
        record: Sites beside `resid_post`.
        tokens: Which of the tokens are kept that blocks are given; all of them if not given.
    """

    def __init__(
        self, model: LatentModel, record: Sequence[SiteName], tokens: Tensor | None = None
    ) -> None:
        self.model, self.record, self.tokens = model, record, tokens
        self.kept: dict[str, list[Tensor]] = defaultdict(list)

    def _keep(self, name: str, values: Tensor) -> None:
        self.kept[name].append(self._picked(values))

    def _picked(self, values: Tensor) -> Tensor:
        return values if self.tokens is None else values[self.tokens]

    def block(self, layer: int, hidden: Tensor, rotations: Rotations, attend: Attend) -> Tensor:
        """The output of a decoder block, in its two halves, for tokens `(tokens, hidden)`."""
        if "head" in self.record:
            attend = self._kept_heads(attend)
        if "kv" in self.record:
            attend, rotations = self._kept_keys(attend, rotations), still(rotations)
        added = self.model.attention(layer, hidden, rotations, attend)
        mid = hidden + added
        out = self.model.mlp(layer, mid)
        if "attn_out" in self.record:
            self._keep("attn_out", added)
        if "mlp_out" in self.record:
            self._keep("mlp_out", out)
            self._keep("mid", mid)
        return mid + out

    def _kept_keys(self, attend: Attend, rotations: Rotations) -> Attend:
        """The same attention, of queries and keys that are turned here after keys are kept."""

        def kept(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            both = [part.transpose(0, 1).flatten(1) for part in (keys, values)]
            self._keep("kv", torch.cat(both, dim=-1))
            return attend(turned(query, rotations), turned(keys, rotations), values, scaling)

        return kept

    def _kept_heads(self, attend: Attend) -> Attend:
        """The same attention, what its heads give being kept."""

        def kept(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            mixed = attend(query, keys, values, scaling)
            self._keep("head", mixed)
            return mixed

        return kept

    def of(self, first: int, last: int) -> dict[str, Tensor]:
        """The sites of tokens `first` to `last` (excluded), and their `mid` if there is `mlp_out`.

        Returns:
            `(L, passes × tokens, width)` of each, pass by pass.
        """
        layers = len(self.model.blocks)

        def stacked(name: str) -> Tensor:
            of_it = torch.stack([tokens[first:last] for tokens in self.kept[name]])
            return of_it.unflatten(0, (-1, layers)).transpose(0, 1).flatten(1, 2)

        names = [*self.record, *(["mid"] if "mlp_out" in self.record else [])]
        return {name: stacked(name) for name in names}
