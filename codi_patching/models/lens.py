"""The lens: what the head says of states before the end of the model.

The head is put on the final norm of a block's output at a latent position. Of the last layer that
is the state that the next thought is made from, so its row reads what thought p + 1 is made of.
Logit lens: nostalgebraist 2020; of CODI's thoughts: arXiv 2502.21074.
"""

from __future__ import annotations

from torch import Tensor

from codi_patching.models.codi import CodiModel


def lens_logits(model: CodiModel, resid: Tensor) -> Tensor:
    """Logits `(…, vocabulary)` of block outputs `(…, hidden)`, in float32 at least."""
    return model.logits(model.final_norm(resid))


def token_text(model: CodiModel, token: int) -> str:
    """A token as it is read, without spaces around it; its name where nothing else is left."""
    text = model.tokenizer.decode([token]).strip()
    return text or str(model.tokenizer.convert_ids_to_tokens(token))
