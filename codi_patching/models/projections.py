"""What makes the next thought of a hidden state, or gives a vector in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build_projection(hidden_size: int, prj_dim: int, layer_norm: bool = True) -> nn.Sequential:
    """CODI's map from a hidden state to the next thought; indices as in the published weights."""
    projection = nn.Sequential(
        nn.Dropout(0.0),
        nn.Linear(hidden_size, prj_dim),
        nn.GELU(),
        nn.Linear(prj_dim, hidden_size),
    )
    if layer_norm:
        projection.add_module("ln", nn.LayerNorm(hidden_size))
    return projection


class PauseVectors(nn.Module):
    """Learned vectors in the place of thoughts, the same for every question; nothing is fed back.

    The control of arXiv 2606.12689: what patching shows of such a model is no sign of thoughts that
    follow from each other. In the place of `prj`.
    """

    def __init__(self, num_latents: int, hidden_size: int) -> None:
        super().__init__()
        self.pause = nn.Parameter(torch.empty(num_latents, hidden_size))

    def forward(self, hidden: Tensor, position: int) -> Tensor:
        """The vector of a position, for each of `hidden` `(…, hidden)`."""
        return self.pause[position].expand_as(hidden)
