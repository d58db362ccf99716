"""Runs decoder blocks, and records sites inside them while unpatched runs think."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from codi_patching.patching.interventions import SiteName
from codi_patching.patching.latent_model import Attend, LatentModel, Rotations


class Recorder:
    """Runs decoder blocks and keeps what is asked for, nothing else.

    Args:
        model: The model.
        record: Sites beside `resid_post`; with any, blocks are given one token of each question.
    """

    def __init__(self, model: LatentModel, record: Sequence[SiteName]) -> None:
        self.model, self.record = model, record
        self.kept: dict[str, list[Tensor]] = defaultdict(list)

    def block(self, layer: int, hidden: Tensor, rotations: Rotations, attend: Attend) -> Tensor:
        """The output of a decoder block, in its two halves, for tokens `(tokens, hidden)`."""
        if "kv" in self.record:
            self.kept["kv"].append(self.model.unrotated(layer, hidden))
        if "head" in self.record:
            attend = self._kept_heads(attend)
        added = self.model.attention(layer, hidden, rotations, attend)
        mid = hidden + added
        out = self.model.mlp(layer, mid)
        if "attn_out" in self.record:
            self.kept["attn_out"].append(added)
        if "mlp_out" in self.record:
            self.kept["mlp_out"].append(out)
            self.kept["mid"].append(mid)
        return mid + out

    def _kept_heads(self, attend: Attend) -> Attend:
        """The same attention, what its heads give being kept."""

        def kept(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            mixed = attend(query, keys, values, scaling)
            self.kept["head"].append(mixed)
            return mixed

        return kept

    def of_question(self, index: int) -> tuple[dict[SiteName, Tensor], Tensor | None]:
        """The sites of one question `(1, L, K, width)`, and its `mid` `(L, K, hidden)`."""
        layers = len(self.model.blocks)

        def stacked(name: str) -> Tensor:
            of_it = torch.stack([tokens[index] for tokens in self.kept[name]])
            return of_it.unflatten(0, (-1, layers)).transpose(0, 1)

        recorded = {site: stacked(site).unsqueeze(0) for site in self.record}
        return recorded, stacked("mid") if "mlp_out" in self.record else None
