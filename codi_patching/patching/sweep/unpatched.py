"""Unpatched runs of several questions, side by side: what the sweep starts from.

Prompts are packed, common beginnings once; then come thoughts and readout, one row a question.
Where places outside the thoughts are patched, the last tokens of each prompt, from the first such
place on, are kept as the first ones of its suffix: its lead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from codi_patching.patching.engine import Readout, Run, Unpatched
from codi_patching.patching.interventions import PlaceTokens, SiteName
from codi_patching.patching.latent_model import Attend, LatentModel
from codi_patching.patching.rotations import Rotations
from codi_patching.patching.sweep.prompt_tree import PromptTree
from codi_patching.patching.sweep.recorder import Recorder
from codi_patching.patching.sweep.suffix import Suffix


@dataclass(frozen=True)
class UnpatchedState:
    """What is kept of a question's unpatched run. S is the number of suffix tokens.

    Attributes:
        suffix: The tokens after the prompt.
        length: Number of prompt tokens, without the lead of the suffix.
        prompt_kv: Keys and values of the prompt at each layer, `(L, 2, kv heads, length, size)`.
        suffix_kv: Those of the suffix, `(L, 2, kv heads, S, size)`.
        stream: Input embeddings, then each block's outputs, at the suffix, `(L + 1, S, hidden)`.
        logits: Of `suffix.read_tokens`, `(tokens, vocabulary)`.
        bot: Hidden state after the final norm at the prompt's end, `(hidden,)`.
        mid: The stream between attention and MLP, `(L, tokens, hidden)`, of the latent positions or
            with places of all the suffix; None if `mlp_out` was not recorded.
    """

    suffix: Suffix
    length: int
    prompt_kv: Tensor
    suffix_kv: Tensor
    stream: Tensor
    logits: Tensor
    bot: Tensor
    mid: Tensor | None = None


class UnpatchedBatch:
    """Unpatched runs of several questions, side by side.

    Keys and values are stored as `(L, 2, questions, kv heads, places, size)`, a question's prompt
    first, its suffix from the longest prompt's length on; what lies between is never looked at.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[Sequence[int]],
        suffixes: Sequence[Suffix],
        record: Sequence[SiteName] = (),
        places: Sequence[PlaceTokens] = (),
    ) -> None:
        self.model, self.prompts, self.suffixes = model, prompts, suffixes
        self.places_of = places or [{}] * len(prompts)
        self.tree = PromptTree(prompts, model.device)
        plain = Recorder(model, ())
        self.lead = self.readout = plain
        if any(suffix.lead for suffix in suffixes):
            self.lead = Recorder(model, record, self._leads())
            self.readout = Recorder(model, record)
        self.lead_stream: list[Tensor] = []
        self.recorder = Recorder(model, record)
        self.longest = self.tree.paths.shape[1]
        self.width = self.longest + max(map(len, suffixes))
        every = torch.arange(self.longest, device=model.device)
        self.visible = every < self.tree.lengths[:, None]
        self.kv = torch.empty(0)

    def run(self, readouts: Sequence[Readout]) -> list[Unpatched]:
        """Encode, think, read."""
        model, count = self.model, len(self.prompts)
        hidden = self._encode()
        bots, streams = model.final_norm(hidden), []
        for position in range(model.num_latents):
            before = model.final_norm(hidden) if position else bots
            thought = model.next_thought(before, position)
            visible = torch.ones(count, 1, position + 1, dtype=torch.bool, device=hidden.device)
            streams.append(self._suffix_pass(thought[:, None], position, visible, self.recorder))
            hidden = streams[-1][-1, :, 0]
        tokens = max(len(suffix.tokens) for suffix in self.suffixes)
        if tokens:
            ids = torch.zeros(count, tokens, dtype=torch.long)
            visible = torch.zeros(count, tokens, model.num_latents + tokens, dtype=torch.bool)
            for index, suffix in enumerate(self.suffixes):
                ids[index, : len(suffix.tokens)] = torch.tensor(suffix.tokens)
                for token in range(suffix.first_read, len(suffix)):
                    path = [seen - suffix.lead for seen in suffix.path(token)[suffix.lead :]]
                    visible[index, token - suffix.first_read, path] = True
            embeddings = model.embed(ids.to(hidden.device))
            visible = visible.to(hidden.device)
            streams.append(self._suffix_pass(embeddings, model.num_latents, visible, self.readout))
        return self._split(torch.cat(streams, dim=2), bots, readouts)

    def _encode(self) -> Tensor:
        """The last block's outputs at bot `(questions, hidden)`, common beginnings run once."""
        tree = self.tree
        embeddings = self.model.embed(tree.tokens)
        rotations = self.model.rotations(embeddings, tree.depths)
        hidden = self.model.add_position_embeddings(embeddings, tree.depths)
        last = len(self.model.blocks) - 1
        if self.lead.tokens is not None:
            return self._encode_leads(embeddings, hidden, rotations)
        for layer in range(last + 1):
            attend = self._prompt_attention(layer)
            if layer == last:  # of the others nothing but keys and values is read
                keys, values = self.model.keys_and_values(layer, hidden, rotations)
                self._store_prompts(layer, keys, values)
                hidden = hidden[tree.ends]
                rotations = tuple(part[:, tree.ends] for part in rotations)
                attend = self._suffix_attention(layer, 0, self.visible[:, None], store=False)
            hidden = self.lead.block(layer, hidden, rotations, attend)
        return hidden

    def _encode_leads(self, embeddings: Tensor, hidden: Tensor, rotations: Rotations) -> Tensor:
        """The same with every token through every layer, what the leads have being kept."""
        self.lead_stream = [embeddings[self.lead.tokens]]
        for layer in range(len(self.model.blocks)):
            attend = self._prompt_attention(layer)
            hidden = self.lead.block(layer, hidden, rotations, attend)
            self.lead_stream.append(hidden[self.lead.tokens])
        return hidden[self.tree.ends]

    def _leads(self) -> Tensor:
        """The tokens of all leads, one question after the other, among those of the tree."""
        ends = [(len(ids), suffix.lead) for ids, suffix in zip(self.prompts, self.suffixes)]
        paths = zip(self.tree.paths, ends)
        return torch.cat([path[length - lead : length] for path, (length, lead) in paths])

    def _prompt_attention(self, layer: int) -> Attend:
        """Each prompt's new tokens attend to its own path from the start."""

        def attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            self._store_prompts(layer, keys, values)
            mixed = []
            for group in self.tree.groups:
                there = self.kv[layer][:, group.prompts, :, : group.masks.shape[2]]
                of_group = scaled_dot_product_attention(
                    query[:, group.own].transpose(0, 1),
                    there[0],
                    there[1],
                    attn_mask=group.masks[:, None],
                    scale=scaling,
                    enable_gqa=True,
                )
                mixed.append(of_group.transpose(1, 2).flatten(0, 1))
            return torch.cat(mixed)[self.tree.places]

        return attend

    def _store_prompts(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if not self.kv.numel():
            heads, _, size = keys.shape
            shape = (len(self.model.blocks), 2, len(self.prompts), heads, self.width, size)
            self.kv = keys.new_zeros(shape)
        for index, part in enumerate((keys, values)):
            self.kv[layer, index, :, :, : self.longest] = part[:, self.tree.paths].transpose(0, 1)

    def _suffix_pass(
        self, embeddings: Tensor, first: int, visible: Tensor, recorder: Recorder
    ) -> Tensor:
        """Input and block outputs `(L + 1, questions, new, hidden)` of suffix tokens from `first`.

        Args:
            embeddings: `(questions, new, hidden)`.
            first: Place of the first of them in the suffix.
            visible: Which suffix tokens each attends to, `(questions, new, first + new)`.
            recorder: Runs the blocks.
        """
        count, new = embeddings.shape[:2]
        depths = visible.sum(-1) - 1
        positions = (self.tree.lengths[:, None] + depths.clamp(min=0)).flatten()
        mask = torch.cat([self.visible[:, None].expand(-1, new, -1), visible], dim=-1)
        rotations = self.model.rotations(embeddings, positions)
        stream = [embeddings.flatten(0, 1)]
        hidden = self.model.add_position_embeddings(stream[0], positions)
        for layer in range(len(self.model.blocks)):
            attend = self._suffix_attention(layer, first, mask)
            hidden = recorder.block(layer, hidden, rotations, attend)
            stream.append(hidden)
        return torch.stack(stream).unflatten(1, (count, new))

    def _suffix_attention(self, layer: int, first: int, mask: Tensor, store: bool = True) -> Attend:
        """Tokens of each question attend to its prompt and suffix, up to the mask's last place."""
        count, new, seen = mask.shape

        def attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            place = self.longest + first
            if store:
                for index, part in enumerate((keys, values)):
                    self.kv[layer, index, :, :, place : place + new] = part.unflatten(
                        1, (count, new)
                    ).transpose(0, 1)
            all_keys, all_values = self.kv[layer, :, :, :, :seen]
            mixed = scaled_dot_product_attention(
                query.unflatten(1, (count, new)).transpose(0, 1),
                all_keys,
                all_values,
                attn_mask=mask[:, None],
                scale=scaling,
                enable_gqa=True,
            )
            return mixed.transpose(1, 2).flatten(0, 1)

        return attend

    def _split(self, stream: Tensor, bots: Tensor, readouts: Sequence[Readout]) -> list[Unpatched]:
        """One start for each question, from the streams of all `(L + 1, questions, S, hidden)`."""
        latents = self.model.num_latents
        reads = [suffix.read_tokens for suffix in self.suffixes]
        rows = [(i, t - s.lead) for i, s in enumerate(self.suffixes) for t in reads[i]]
        row, token = torch.tensor(rows, dtype=torch.long).view(-1, 2).to(stream.device).unbind(1)
        ends = stream[-1][row, token]
        logits = self.model.logits(self.model.final_norm(ends)).split([len(r) for r in reads])
        starts = []
        first = 0
        for index, (suffix, readout) in enumerate(zip(self.suffixes, readouts)):
            length = len(self.prompts[index])
            place = {token: at for at, token in enumerate(reads[index])}
            answers = tuple(
                torch.stack([logits[index][place[token]] for token in read])[None]
                for read in suffix.reads
            )
            own = stream[:, index, : len(suffix) - suffix.lead]
            sites: dict[str, Tensor] = self.recorder.of(index, index + 1)
            recorded = {site: sites[site].unsqueeze(0) for site in self.recorder.record}
            run = Run(own[None, 0, :latents], own[None, 1:, :latents], answers, recorded)
            kv = self.kv[:, :, index]
            after = kv[..., self.longest : self.longest + len(suffix) - suffix.lead, :]
            places = self.places_of[index]
            if suffix.lead:
                own, sites = self._whole(index, first, own, sites)
                run = replace(run, places=_of_places(places, suffix.lead, own, sites))
                after = torch.cat([kv[..., length - suffix.lead : length, :], after], dim=-2)
                first += suffix.lead
            prompt_kv, mid = kv[..., : length - suffix.lead, :], sites.get("mid")
            before, read = length - suffix.lead, (logits[index], bots[index])
            state = UnpatchedState(suffix, before, prompt_kv, after, own, *read, mid)
            starts.append(Unpatched(run, readout, state, places))
        return starts

    def _whole(
        self, index: int, first: int, stream: Tensor, sites: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A question's stream and sites with those of its lead and its readout.

        Args:
            index: The question's number.
            first: Of its lead, among the tokens of all leads.
            stream: After the lead.
            sites: At the latent positions.
        """
        suffix = self.suffixes[index]
        new = max(len(suffix.tokens) for suffix in self.suffixes)
        lead = self.lead.of(first, first + suffix.lead)
        read = self.readout.of(index * new, index * new + len(suffix.tokens)) if new else {}
        before = torch.stack([tokens[first : first + suffix.lead] for tokens in self.lead_stream])
        whole = {}
        for name, own in sites.items():
            after = [read[name]] if read else []
            whole[name] = torch.cat([lead[name], own, *after], dim=1)
        return torch.cat([before, stream], dim=1), whole


def _of_places(
    places: PlaceTokens, lead: int, stream: Tensor, sites: Mapping[str, Tensor]
) -> dict[str, dict[SiteName, Tensor]]:
    """The sites of places `(1, L, tokens, width)`, of the suffix's."""
    every = {"resid_post": stream[1:], **{n: v for n, v in sites.items() if n != "mid"}}
    return {
        name: {cast(SiteName, s): v[None, :, [t + lead for t in tokens]] for s, v in every.items()}
        for name, tokens in places.items()
    }
