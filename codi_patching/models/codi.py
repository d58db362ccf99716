"""A CODI model: encode a question, think in vectors, read the answer out.

The alignment of tokens, latents and readout, for K = 5 and a one-token answer:

    position   0   1  ..  T-2  T-1 | T   T+1 T+2 T+3 T+4 | T+5 T+6  ..  T+9
    input     BOS  q1 ..  qn   bot | z_0 z_1 z_2 z_3 z_4 | eot The answer is :
    output                      z_0| z_1 z_2 z_3 z_4  -  |  -   -   ..       logits of a_1

`z_p = prj(last hidden state, after the final norm)` of the position before it. The z made from the
last latent step is not used. CODI: arXiv 2502.21074.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from codi_patching.errors import InputError
from codi_patching.models import attention
from codi_patching.models.answers import PairError
from codi_patching.models.attention import Attend, unseen_attention
from codi_patching.models.context import Context, expanded, pad_left
from codi_patching.models.families import cache_argument, family_of, outlets_of, part_of
from codi_patching.models.head import wide_logits
from codi_patching.models.projections import PauseVectors
from codi_patching.models.settings import CodiSettings
from codi_patching.models.vocabulary import control_tokens
from codi_patching.patching.cache_pieces import cache_pieces, joined
from codi_patching.patching.hooks import Outlet
from codi_patching.patching.interventions import Latents, SiteName
from codi_patching.patching.rotations import Rotations, still, turned


class CodiModel(nn.Module):
    """A causal language model that can think in latent vectors.

    Args:
        backbone: The language model; its vocabulary holds the special tokens.
        projection: `prj`; None where a checkpoint has none, whose thoughts are the hidden states;
            `PauseVectors` of a model that feeds nothing back.
        tokenizer: Tokenizer of the questions and answers.
        settings: Number of latents, special tokens, answer prefix.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        projection: nn.Module | None,
        tokenizer: PreTrainedTokenizerFast,
        settings: CodiSettings,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prj = projection if projection is not None else nn.Identity()
        self.check_latents(settings.num_latents)
        self.tokenizer = tokenizer
        self.settings = settings
        self.family = family_of(backbone)
        backbone.set_attn_implementation(attention.NAME)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CodiModel:
        """Move or cast, but leave the frequencies of rotary embeddings in float32.

        Casting a model to bf16 rounds these buffers with everything else, and positions with them.
        """
        exact = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name.endswith("inv_freq")
        ]
        super()._apply(fn, recurse)
        for module, name, buffer in exact:
            setattr(module, name, buffer.to(getattr(module, name).device))
        return self

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L decoder blocks, in order."""
        return part_of(self.backbone, self.family.blocks)

    def outlets(self, site: SiteName) -> list[list[Outlet]]:
        """Where a site leaves the model: its parts, each with an outlet a layer."""
        return outlets_of(self.backbone, site)

    @property
    def num_latents(self) -> int:
        """K."""
        return self.settings.num_latents

    @property
    def inner_size(self) -> int:
        """Width of the MLPs."""
        config = self.backbone.config
        widths = (getattr(config, name, None) for name in ("intermediate_size", "n_inner"))
        return next(filter(None, widths), 4 * config.hidden_size)

    @property
    def feeds_back(self) -> bool:
        """Whether each thought is made from the state before it."""
        return not isinstance(self.prj, PauseVectors)

    def effective(self, latents: Latents) -> Latents:
        """What `latents` come to: where nothing is fed back, a patch changes no later thought."""
        return latents if self.feeds_back else "frozen"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    @property
    def context_length(self) -> int:
        """The most tokens, thoughts among them, that can follow each other."""
        return int(self.backbone.config.max_position_embeddings)

    def check_latents(self, number: int) -> None:
        """Refuse more thoughts than a model that feeds nothing back has vectors.

        Raises:
            InputError: There are more.
        """
        if isinstance(self.prj, PauseVectors) and number > len(self.prj.pause):
            raise InputError(
                f"expected at most {len(self.prj.pause)} latent thoughts, as many as the model has "
                f"pause vectors, got {number}: set [[model.num_latents]]"
            )

    def check_length(self, length: int) -> None:
        """Refuse more tokens than the context has, from the prompt's first to the last spoken one.

        Raises:
            PairError: There are more.
        """
        if length > self.context_length:
            raise PairError(
                f"expected at most {self.context_length} tokens from prompt to answer, the model's "
                f"context, got {length}"
            )

    def check_mode(self) -> None:
        """Refuse a mode in which nothing is remembered of the tokens before.

        Raises:
            InputError: Gradient checkpointing is on while training, which drops the cache.
        """
        training = self.backbone.training
        if training and any(getattr(m, "gradient_checkpointing", 0) for m in self.modules()):
            raise InputError(
                "expected a model that keeps what it has read, but with gradient checkpointing in "
                "training mode it keeps nothing: call eval() or gradient_checkpointing_disable()"
            )

    def question_ids(self, question: str) -> list[int]:
        """Tokens of a question, with the tokenizer's own special tokens, without bot.

        Raises:
            PairError: The question is empty, or names a control token, which it would become.
        """
        if not question.strip():
            raise PairError("expected a question with text, got an empty one")
        found = control_tokens(self.tokenizer, question)
        if found:
            raise PairError(f"expected a question in words, got control tokens: {', '.join(found)}")
        return list(self.tokenizer(self.question_text(question))["input_ids"])

    def question_text(self, question: str) -> str:
        """A question as the tokenizer is given it."""
        text = question if self.settings.raw_question else question.strip().replace("  ", " ")
        return text + self.settings.question_suffix

    def prompt_ids(self, question: str) -> list[int]:
        """Tokens of the prompt: the question, then bot."""
        return [*self.question_ids(question), *self.settings.bot_ids]

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings `(rows, length, hidden)` of token ids `(rows, length)`."""
        return self.backbone.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `(…, vocabulary)` of hidden states after the final norm `(…, hidden)`."""
        return wide_logits(self.backbone.get_output_embeddings(), hidden)

    def advance(
        self, context: Context, embeddings: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Read `embeddings` after `context`.

        Args:
            context: What came before; left unchanged.
            embeddings: `(rows, length, hidden)`.
            mask: `(rows, length)`, 0 where the new positions are padding (before the real ones).

        Returns:
            The hidden states after the final norm `(rows, length, hidden)`, and the new context.

        Raises:
            PairError: The context is longer than the model's.
            RuntimeError: The decoder did not keep the new tokens' keys and values in the context.
        """
        rows, new = embeddings.shape[:2]
        self.check_mode()
        self.check_length(context.length + new)
        cache = expanded(context.cache, rows) or DynamicCache()
        positions = None
        if mask is not None or context.mask is not None:
            before = context.mask
            if before is None:
                before = torch.ones(rows, context.length, dtype=torch.long, device=self.device)
            if mask is None:
                mask = torch.ones(rows, new, dtype=torch.long, device=self.device)
            mask = torch.cat([before, mask], dim=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new:]
        decoder = part_of(self.backbone, self.family.decoder)
        hidden = decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{cache_argument(type(decoder)): cache},
        ).last_hidden_state
        if (kept := cache.get_seq_length()) != context.length + new:
            raise RuntimeError(
                f"expected {type(decoder).__name__} to keep {context.length + new} tokens' keys "
                f"and values, got {kept}: this version of transformers has another cache"
            )
        return hidden, Context(cache, mask, context.length + new, rows)

    def read(
        self, context: Context, ids: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Read token ids `(rows, length)` after `context`; see `advance`."""
        return self.advance(context, self.embed(ids), mask)

    def encode(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Context]:
        """Read prompts from the start, padded on the left where their lengths differ.

        Returns:
            The hidden state at the last token of each `(rows, hidden)`, and the context.
        """
        ids, mask = pad_left(prompts, self.settings.eos_id)
        padding = None if mask.all() else mask.to(self.device)
        start = Context(cache=None, mask=None, length=0, rows=len(prompts))
        hidden, context = self.read(start, ids.to(self.device), padding)
        return hidden[:, -1], context

    def unseen(self, masks: Mapping[int, Tensor]) -> AbstractContextManager[None]:
        """Take keys away from the queries of one pass of `advance`; see `unseen_attention`."""
        return unseen_attention(masks)

    def next_thought(self, hidden: Tensor, position: int | None = None) -> Tensor:
        """Z `(…, hidden)` made from hidden states after the final norm `(…, hidden)`.

        Args:
            hidden: The states.
            position: Of the thought; a model that feeds nothing back has one vector for each.

        Raises:
            ValueError: Such a model is not told the position.
        """
        if self.feeds_back:
            return self.prj(hidden)
        if position is None:
            raise ValueError("expected the position of a thought that is not made from a state")
        return self.prj(hidden, position)

    def think(self, hidden: Tensor, context: Context) -> tuple[Tensor, Tensor, Context]:
        """Generate and feed back the latent thoughts.

        Args:
            hidden: `(rows, hidden)` at bot.
            context: The context that ends with bot.

        Returns:
            Thoughts z `(rows, K, hidden)`, the last hidden states made from them
            `(rows, K, hidden)`, and the context with the K thoughts in its cache.
        """
        thoughts, states = [], []
        for position in range(self.settings.num_latents):
            thought = self.next_thought(hidden, position)
            step, context = self.advance(context, thought.unsqueeze(1))
            hidden = step[:, 0]
            thoughts.append(thought)
            states.append(hidden)
        return torch.stack(thoughts, dim=1), torch.stack(states, dim=1), context

    # -- tokens of many runs side by side, half a decoder block at a time; for the sweep ---------

    def add_position_embeddings(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """What layer 0 reads `(tokens, hidden)` of input embeddings at absolute positions."""
        if not self.family.position_embeddings:
            return embeddings
        return embeddings + part_of(self.backbone, self.family.position_embeddings)(positions)

    def rotations(self, embeddings: Tensor, positions: Tensor) -> Rotations:
        """Cosines and sines `(1, tokens, size)` of rotary positions; none without them."""
        if not self.family.rotary:
            return ()
        return tuple(part_of(self.backbone, self.family.rotary)(embeddings, positions[None]))

    def attention(self, layer: int, hidden: Tensor, rotations: Rotations, attend: Attend) -> Tensor:
        """What a block's attention adds to the stream of tokens `(tokens, hidden)`."""
        block = self.blocks[layer]
        return part_of(block, self.family.attention)(
            part_of(block, self.family.attention_norm)(hidden.unsqueeze(0)),
            attention_mask=None,
            position_embeddings=rotations or None,
            attend=attend,
        )[0][0]

    def mlp(self, layer: int, hidden: Tensor) -> Tensor:
        """What a block's MLP adds to the stream of tokens `(tokens, hidden)`."""
        block = self.blocks[layer]
        norm, mlp = part_of(block, self.family.mlp_norm), part_of(block, self.family.mlp)
        pieces = cache_pieces(len(hidden), self.inner_size * hidden.itemsize, hidden.device)
        return joined([mlp(norm(piece[None]))[0] for piece in hidden.split(pieces)])

    def unrotated(self, layer: int, hidden: Tensor) -> Tensor:
        """Keys before rotation, then values, of a block, `(tokens, 2 * kv heads * size)`."""
        nowhere = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        both = self.keys_and_values(layer, hidden, still(self.rotations(hidden, nowhere)))
        return torch.cat([part.transpose(0, 1).flatten(1) for part in both], dim=-1)

    def rotated(self, kv: Tensor, rotations: Rotations) -> tuple[Tensor, Tensor]:
        """Keys, rotated, and values `(kv heads, tokens, size)`, from what `unrotated` gives."""
        config = self.backbone.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        keys, values = kv.view(len(kv), 2, heads, -1).permute(1, 2, 0, 3)
        return turned(keys, rotations), values

    def keys_and_values(
        self, layer: int, hidden: Tensor, rotations: Rotations
    ) -> tuple[Tensor, Tensor]:
        """Keys and values `(kv heads, tokens, size)` of a block, which is left after them."""
        kept: list[Tensor] = []

        def keep(_query: Tensor, keys: Tensor, values: Tensor, _scaling: float) -> Tensor:
            kept.extend((keys, values))
            raise _KeysDoneError

        with suppress(_KeysDoneError):
            self.attention(layer, hidden, rotations, keep)
        return kept[0], kept[1]

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm between the last block and the head."""
        return part_of(self.backbone, self.family.final_norm)(hidden)


class _KeysDoneError(Exception):
    """Leaves a decoder block once its keys and values are known."""
