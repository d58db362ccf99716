"""What both engines need of a CODI model: whole passes, and the halves of its blocks.

`models.codi.CodiModel` is one; a protocol stands here since `models` imports `patching`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codi_patching.patching.hooks import Outlet
from codi_patching.patching.interventions import SiteName
from codi_patching.patching.rotations import Rotations

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class LatentModel(Protocol):
    """What the engines need of a CODI model."""

    @property
    def num_latents(self) -> int:
        """K."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L decoder blocks."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids."""

    @property
    def feeds_back(self) -> bool:
        """Whether each thought is made from the state before it."""

    def next_thought(self, hidden: Tensor, position: int | None = None) -> Tensor:
        """The thought of a position, made from hidden states after the final norm."""

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm before the head."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states after the final norm, in float32 at least."""

    # -- whole passes: the reference engine -----------------------------------------------------

    def outlets(self, site: SiteName) -> Sequence[Sequence[Outlet]]:
        """Where a site leaves the model: its parts, each with an outlet a layer."""

    def encode(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """The hidden states at the end of prompts, and the context that ends with them."""

    def advance(self, context: Any, embeddings: Tensor) -> tuple[Tensor, Any]:
        """Read embeddings `(rows, length, hidden)` after a context, which stays as it was."""

    def unseen(self, masks: Mapping[int, Tensor]) -> AbstractContextManager[None]:
        """Take keys away from the queries of one pass of `advance`.

        Args:
            masks: For each layer `(rows, new, seen)`, true where a query does not see a key.
        """

    # -- halves of blocks, on tokens of many runs: the sweep ------------------------------------

    def add_position_embeddings(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """What layer 0 reads of input embeddings."""

    def rotations(self, embeddings: Tensor, positions: Tensor) -> Rotations:
        """What blocks need to know of positions, `(1, tokens, …)` each."""

    def keys_and_values(
        self, layer: int, hidden: Tensor, rotations: Rotations
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a block, `(kv heads, tokens, size)`."""

    def attention(self, layer: int, hidden: Tensor, rotations: Rotations, attend: Attend) -> Tensor:
        """What a block's attention adds to the stream of tokens `(tokens, hidden)`."""

    def mlp(self, layer: int, hidden: Tensor) -> Tensor:
        """What a block's MLP adds to it."""

    def unrotated(self, layer: int, hidden: Tensor) -> Tensor:
        """Keys before rotation, then values, of a block, `(tokens, 2 * kv heads * size)`."""

    def rotated(self, kv: Tensor, rotations: Rotations) -> tuple[Tensor, Tensor]:
        """Keys, rotated, and values `(kv heads, tokens, size)`, from what `unrotated` gives."""
