"""The slow, obvious engine: whole forward passes with hooks on the decoder blocks and their parts.

Each row is a complete run of the latent positions and the readout after a shared prompt. It knows
the model by whole forward passes only, so it works for every family. A value that
is computed from what the run has in a cell takes a run of its own: the row up to that cell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codi_patching.patching.cuts import CutSet, unseen_keys
from codi_patching.patching.engine import Engine, Patched, PatchRequest, Readout, Run, Unpatched
from codi_patching.patching.hooks import capture, patch
from codi_patching.patching.interventions import (
    Activations,
    Computed,
    Generated,
    Latents,
    Patch,
    PatchSet,
    PlaceTokens,
    Site,
    SiteName,
    extra_sites,
)
from codi_patching.patching.latent_model import LatentModel

Sites = Mapping[SiteName, Tensor]
"""Of each site its activations at some tokens, `(rows, L, tokens, width)`; see `Activations`."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read once, for any number of rows; or several, one for each row.

    Attributes:
        hidden: Last hidden states at bot, `(prompts, hidden)`.
        context: The context that ends with bot, a row for each.
        ids: Token ids of each, to read it once more with patches.
    """

    hidden: Tensor
    context: Any
    ids: Sequence[Sequence[int]] = ()

    def take(self, places: Sequence[int]) -> Prompt:
        """The prompts of some rows, by their numbers."""
        index = torch.tensor(places, device=self.hidden.device)
        ids = [self.ids[place] for place in places] if self.ids else ()
        return Prompt(self.hidden[index], self.context.take(index), ids)


class ReferenceEngine(Engine):
    """Runs patched rows by hooks.

    Args:
        model: The model.
        max_rows: Rows a batch; the results do not depend on it beyond rounding.
    """

    def __init__(self, model: LatentModel, max_rows: int = 40) -> None:
        self.model, self.max_rows = model, max_rows

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
        places: Sequence[PlaceTokens] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, one by one."""
        runs = []
        for (ids, readout), own in zip(requests, places or [{}] * len(requests), strict=True):
            prompt = self.read([ids])
            run = self.run(prompt, [[]], readout, record=record)
            if own:
                sites = self.everywhere(prompt, [[]], record=record, prefixes=[readout.prefix])
                run = replace(run, places=sites.of_places(own))
            runs.append(Unpatched(run, readout, prompt, own))
        return runs

    def read(self, ids: Sequence[Sequence[int]]) -> Prompt:
        """Read prompts once, for any number of rows."""
        return Prompt(*self.model.encode(ids), ids)

    def _batch(self, rows: Sequence[PatchSet], first: int) -> int:
        """Rows run together, so none may need what another of them generates."""
        for index, row in enumerate(rows):
            for item in row:
                if isinstance(item.values, Generated) and item.values.row >= first:
                    return index
        return len(rows)

    def _run_rows(self, request: PatchRequest, latents: Latents) -> Patched:
        start = request.start
        frozen = start.run.thoughts if latents == "frozen" else None
        rows = self.with_values(
            start.state, request.rows, frozen, [start.readout.prefix], request.cuts
        )
        run = self.run(start.state, rows, start.readout, frozen, cuts=request.cuts)
        watched = []
        for index, cells in enumerate(request.cells):
            activations = run.activations(index)
            kept = [activations.at(layer, position) for layer, position in cells]
            watched.append(torch.stack(kept) if kept else run.thoughts.new_empty(0))
        return Patched(run.answer_logits, watched)

    def with_values(
        self,
        prompt: Prompt,
        rows: Sequence[PatchSet],
        frozen: Tensor | None,
        prefixes: Sequence[Sequence[int]],
        cuts: Sequence[CutSet] = (),
    ) -> list[list[Patch]]:
        """Rows with tensors in place of functions, found one after the other along each row.

        Args:
            prompt: See `think`.
            rows: The patches of each row.
            frozen: See `think`.
            prefixes: The readout's tokens before the answers, of all rows or of each.
            cuts: See `think`.
        """
        ordered = [sorted(row, key=lambda patch: patch.site.order) for row in rows]
        while True:
            firsts = [
                next((i for i, p in enumerate(row) if isinstance(p.values, Computed)), None)
                for row in ordered
            ]
            if all(first is None for first in firsts):
                return ordered
            before = [row[:first] for row, first in zip(ordered, firsts)]
            sites = {row[i].site.name for row, i in zip(ordered, firsts) if i is not None}
            tokens = [row[i].site.token for row, i in zip(ordered, firsts) if i is not None]
            if all(0 <= token < self.model.num_latents for token in tokens):
                latent, _ = self.think(prompt, before, frozen, extra_sites(sites), cuts)
                present = Everywhere(latent.thoughts, latent.sites, 0)
            else:
                own = prefixes if len(prefixes) == len(rows) else [*prefixes] * len(rows)
                present = self.everywhere(prompt, before, frozen, extra_sites(sites), own)
            for index, (row, first) in enumerate(zip(ordered, firsts)):
                if first is not None:
                    item = row[first]
                    assert isinstance(item.values, Computed)
                    value = item.values.function(present.of(index, item.site))
                    row[first] = replace(item, values=value)

    def run(
        self,
        prompt: Prompt,
        rows: Sequence[PatchSet],
        readout: Readout,
        frozen: Tensor | None = None,
        record: Collection[SiteName] = (),
        cuts: Sequence[CutSet] = (),
    ) -> Run:
        """Run every row after the prompt, all in one batch.

        Args:
            prompt: Shared by all rows.
            rows: The patches of each row.
            readout: What is read after the thoughts.
            frozen: See `think`.
            record: See `think`.
            cuts: See `think`.
        """
        latent, context = self.think(prompt, rows, frozen, record, cuts)
        logits: dict[tuple[int, ...], Tensor] = {}
        for answer in readout.answers:
            forced = answer[:-1]
            if forced not in logits:
                tokens = [[*readout.prefix, *forced]] * len(rows)
                embeddings, first = self._embed(tokens), self.model.num_latents
                hidden, _, _ = self._pass(context, rows, embeddings, first, cuts=cuts)
                logits[forced] = self.model.logits(hidden[:, -len(answer) :])
        answers = tuple(logits[answer[:-1]] for answer in readout.answers)
        return Run(latent.thoughts, latent.sites["resid_post"], answers, latent.extra())

    def think(
        self,
        prompt: Prompt,
        rows: Sequence[PatchSet],
        frozen: Tensor | None = None,
        record: Collection[SiteName] = (),
        cuts: Sequence[CutSet] = (),
    ) -> tuple[Latent, Any]:
        """Run the latent positions of every row, all in one batch.

        Args:
            prompt: Shared by all rows, or one for each.
            rows: The patches of each row.
            frozen: `(1 or rows, K, hidden)`, the thoughts; recomputed if not given.
            record: Sites to record beside thoughts and `resid_post`.
            cuts: The edges that are cut in each row; empty for none at all.

        Returns:
            What the rows had, and the context that ends with the thoughts.
        """
        if any(item.site.token < 0 for row in rows for item in row):
            prompt, _ = self._patched_prompt(prompt, rows, ())
        context = prompt.context
        if context.rows != len(rows):
            context = context.expand(len(rows))
        if frozen is None:
            return self._recompute(prompt, context, rows, record, cuts)
        thoughts = frozen.expand(len(rows), -1, -1)
        return self._latent_pass(context, rows, thoughts, 0, record, cuts)

    def _patched_prompt(
        self, prompt: Prompt, rows: Sequence[PatchSet], record: Collection[SiteName]
    ) -> tuple[Prompt, Sites]:
        """The prompts once more, a row for each, with the patches that fall there, and sites."""
        ids = [*prompt.ids] * len(rows) if len(prompt.ids) == 1 else prompt.ids
        longest = max(map(len, ids))
        like = self.model.embed(
            torch.zeros(len(rows), longest, dtype=torch.long).to(self.model.device)
        )
        with self._hooked(rows, like, -longest, ["resid_post", *record]) as records:
            again = self.read(ids)
        return again, _stacked(records)

    def everywhere(
        self,
        prompt: Prompt,
        rows: Sequence[PatchSet],
        frozen: Tensor | None = None,
        record: Collection[SiteName] = (),
        prefixes: Sequence[Sequence[int]] = (),
    ) -> Everywhere:
        """Sites of every token of rows: of the prompt, the thoughts and the readout's prefix.

        Args:
            prompt: See `think`.
            rows: The patches of each row.
            frozen: See `think`.
            record: See `think`.
            prefixes: The readout's tokens before the answers, of each row.
        """
        _, before = self._patched_prompt(prompt, rows, record)
        latent, context = self.think(prompt, rows, frozen, record)
        parts = [before, latent.sites]
        if any(prefixes):
            longest = max(map(len, prefixes))
            filled = [[*own, *[0] * (longest - len(own))] for own in prefixes]
            embeddings = self._embed(filled)
            parts.append(
                self._pass(context, rows, embeddings, self.model.num_latents, latent.sites)[1]
            )
        sites = {s: torch.cat([part[s] for part in parts], dim=2) for s in latent.sites}
        return Everywhere(latent.thoughts, sites, before["resid_post"].shape[2])

    def read_each(
        self,
        context: Any,
        readouts: Sequence[Readout],
        rows: Sequence[PatchSet],
        cuts: Sequence[CutSet] = (),
    ) -> list[tuple[Tensor, ...]]:
        """Read after the thoughts, each row its own readout, all of as many answers.

        Shorter ones are filled up at the end, where nothing before can read it.

        Args:
            context: That ends with the thoughts.
            readouts: Of each row.
            rows: The patches of each row; those of the readout are made.
            cuts: See `think`.

        Returns:
            For each row the logits before each token of its answers, `(tokens, vocabulary)`.
        """
        found: list[list[Tensor]] = [[] for _ in readouts]
        states: dict[tuple[tuple[int, ...], ...], Tensor] = {}
        for index in range(len(readouts[0].answers)):
            tokens = tuple((*r.prefix, *r.answers[index][:-1]) for r in readouts)
            if tokens not in states:
                longest = max(map(len, tokens))
                filled = [[*own, *[own[-1]] * (longest - len(own))] for own in tokens]
                embeddings, first = self._embed(filled), self.model.num_latents
                states[tokens], _, _ = self._pass(context, rows, embeddings, first, cuts=cuts)
            before = [
                states[tokens][row, len(own.prefix) - 1 : len(tokens[row])]
                for row, own in enumerate(readouts)
            ]
            each = self.model.logits(torch.cat(before)).split([len(own) for own in before])
            for answers, logits in zip(found, each):
                answers.append(logits)
        return [tuple(answers) for answers in found]

    def _recompute(
        self,
        prompt: Prompt,
        context: Any,
        rows: Sequence[PatchSet],
        record: Collection[SiteName],
        cuts: Sequence[CutSet],
    ) -> tuple[Latent, Any]:
        """One latent position at a time, each thought made from the patched states before it."""
        hidden = prompt.hidden.expand(len(rows), -1)
        steps = []
        for position in range(self.model.num_latents):
            thought = self.model.next_thought(hidden, position).unsqueeze(1)
            step, context = self._latent_pass(context, rows, thought, position, record, cuts)
            hidden = step.last[:, 0]
            steps.append(step)
        return Latent.joined(steps), context

    def _latent_pass(
        self,
        context: Any,
        rows: Sequence[PatchSet],
        thoughts: Tensor,
        first: int,
        record: Collection[SiteName],
        cuts: Sequence[CutSet],
    ) -> tuple[Latent, Any]:
        """Feed the thoughts of positions `first`.. in one pass, with the patches that fall there.

        Returns:
            What these positions had, and the new context.
        """
        for mask, values in _edits(rows, thoughts, first, "thought").values():
            thoughts = torch.where(mask.unsqueeze(-1), values, thoughts)
        sites = ["resid_post", *record]
        last, recorded, context = self._pass(context, rows, thoughts, first, sites, cuts)
        return Latent(thoughts, last, recorded), context

    def _pass(
        self,
        context: Any,
        rows: Sequence[PatchSet],
        embeddings: Tensor,
        first: int,
        record: Collection[SiteName] = (),
        cuts: Sequence[CutSet] = (),
    ) -> tuple[Tensor, Sites, Any]:
        """Read embeddings of tokens `first`.. with the patches and cuts that fall there.

        Returns:
            Hidden states after the final norm, the recorded sites, and the new context.
        """
        prompt, new = context.length - first, embeddings.shape[1]
        unseen = self.model.unseen(unseen_keys(cuts, prompt, first, new, embeddings.device))
        with unseen, self._hooked(rows, embeddings, first, record) as records:
            last, context = self.model.advance(context, embeddings)
        return last, _stacked(records), context

    @contextmanager
    def _hooked(
        self, rows: Sequence[PatchSet], like: Tensor, first: int, record: Collection[SiteName]
    ) -> Iterator[dict[SiteName, list[list[list[Tensor]]]]]:
        """Hooks for one pass over tokens `first`.., of as many as `like` has."""
        records: dict[SiteName, list[list[list[Tensor]]]] = {}
        used = {item.site.name for row in rows for item in row} - {"thought"}
        with ExitStack() as hooks:
            for site in sorted(used):
                self._patch_site(hooks, site, rows, like, first)
            for site in dict.fromkeys(record):  # after the patches: sees them
                outlets = self.model.outlets(site)
                records[site] = [hooks.enter_context(capture(part)) for part in outlets]
            yield records

    def _embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Input embeddings of token ids, `(rows, length, hidden)`."""
        return self.model.embed(torch.tensor(tokens, device=self.model.device))

    def _patch_site(
        self,
        hooks: ExitStack,
        site: SiteName,
        rows: Sequence[PatchSet],
        thoughts: Tensor,
        first: int,
    ) -> None:
        """Enter the hooks that overwrite one site, part by part; of heads, each that is patched."""
        parts = self.model.outlets(site)
        if site == "head":
            heads = {p.site.head for row in rows for p in row if p.site.head is not None}
            for head in sorted(heads):
                edits = _edits(rows, thoughts, first, site, head)
                hooks.enter_context(patch(parts[head], edits))
            return
        edits = _edits(rows, thoughts, first, site)
        for index, part in enumerate(parts):
            shares = {
                layer: (mask, values.chunk(len(parts), dim=-1)[index])
                for layer, (mask, values) in edits.items()
            }
            hooks.enter_context(patch(part, shares))


def _stacked(records: Mapping[SiteName, list[list[list[Tensor]]]]) -> Sites:
    """What one pass recorded, `(rows, L, length, width)` of each site."""
    sites = {}
    for site, parts in records.items():
        each = [torch.stack([layer[0] for layer in part], dim=1) for part in parts]
        sites[site] = torch.stack(each, dim=-2) if site == "head" else torch.cat(each, dim=-1)
    return sites


@dataclass(frozen=True)
class Everywhere:
    """Sites of every token of some rows.

    Attributes:
        thoughts: As fed, `(rows, K, hidden)`.
        sites: `(rows, L, tokens, width)` of each recorded site; see `Activations`.
        prompt: Tokens before the first thought, padding included.
    """

    thoughts: Tensor
    sites: Sites
    prompt: int

    def of(self, row: int, site: Site) -> Tensor:
        """The activation of a site in a row, `(width,)`."""
        if site.name == "thought":
            return self.thoughts[row, site.token]
        there = self.sites[site.name][row, site.layer, self.prompt + site.token]
        return there if site.head is None else there[site.head]

    def of_places(self, places: PlaceTokens) -> dict[str, dict[SiteName, Tensor]]:
        """The sites of places, `(rows, L, tokens, width)`."""
        found = {}
        for name, tokens in places.items():
            index = [self.prompt + token for token in tokens]
            found[name] = {site: values[:, :, index] for site, values in self.sites.items()}
        return found


@dataclass(frozen=True)
class Latent:
    """What some latent positions of all rows had.

    Attributes:
        thoughts: As fed, `(rows, positions, hidden)`.
        last: Hidden states after the final norm, `(rows, positions, hidden)`.
        sites: Of each recorded site.
    """

    thoughts: Tensor
    last: Tensor
    sites: Sites

    @classmethod
    def joined(cls, steps: Sequence[Latent]) -> Latent:
        """Positions one after the other."""
        sites = {s: torch.cat([step.sites[s] for step in steps], dim=2) for s in steps[0].sites}
        thoughts = torch.cat([step.thoughts for step in steps], dim=1)
        return cls(thoughts, torch.cat([step.last for step in steps], dim=1), sites)

    def activations(self, row: int) -> Activations:
        """The activations of one row."""
        recorded = {site: values[row] for site, values in self.extra().items()}
        return Activations(self.thoughts[row], self.sites["resid_post"][row], recorded)

    def extra(self) -> dict[SiteName, Tensor]:
        """The recorded sites beside `resid_post`."""
        return {site: values for site, values in self.sites.items() if site != "resid_post"}


def _edits(
    rows: Sequence[PatchSet],
    thoughts: Tensor,
    first: int,
    site: SiteName,
    head: int | None = None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """The patches of a site, or head, at positions `first`.., as mask and values for each layer."""
    count, positions = thoughts.shape[:2]
    edits: dict[int, tuple[Tensor, Tensor]] = {}
    for index, row in enumerate(rows):
        for item in row:
            layer, place = item.site.layer, item.site.token - first
            if (item.site.name, item.site.head) != (site, head) or not 0 <= place < positions:
                continue
            if not isinstance(item.values, Tensor):
                raise TypeError(f"row {index} is patched with what no earlier batch generated")
            if layer not in edits:
                mask = torch.zeros(count, positions, dtype=torch.bool, device=thoughts.device)
                values = thoughts.new_zeros(count, positions, item.values.shape[-1])
                edits[layer] = (mask, values)
            mask, values = edits[layer]
            mask[index, place] = True
            values[index, place] = item.values
    return edits
