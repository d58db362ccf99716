"""Attention of packed tokens: who attends to whom is the caller's to say.

Registered with transformers under `NAME`. A forward pass of the whole model attends as with
"sdpa"; an attention module that is called with an `attend` function hands its queries, keys and
values to it. So the sweep runs the family's own norms, attention and MLPs, with their biases and
rotations, on tokens of many runs side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "codi_patching"

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From queries `(heads, tokens, size)`, keys and values `(kv heads, tokens, size)` and the scale of
the scores to `(tokens, heads, size)`."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if attend is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    return attend(query[0], key[0], value[0], scaling).unsqueeze(0), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
