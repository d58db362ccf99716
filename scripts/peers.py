"""Frozen grids by plain hooks and by other libraries: their numbers, and how long they take.

    pip install -c constraints.txt -e '.[peers]'
    python scripts/benchmark.py --shape llama-1b --grid position_frozen --peers

The experiment is position patching with frozen latents: the base run's thoughts are input
embeddings, and one activation at a time, at a (layer, latent position), is the source run's:

    | prompt .. bot | z_0 .. z_{K-1} | readout        |
    |  its cache    |        S input embeddings       |  the last one's logits are read

Every peer gets the same embeddings and source activations (`FrozenGrid`) and gives the logits of
all L × K patched runs. Each is used as its own documentation teaches, in its fastest form, over a
cache of the prompt:

    one batch     all L × K rows together, each with its own patch
    resumed       for each layer its K rows, from that layer on: HookedTransformer takes a residual
                  stream (`start_at_layer`), nnsight puts one in place of a block (`skip`)

TransformerBridge and pyvene run every layer of every row: TransformerBridge of version 3 has no
`start_at_layer`, and that of version 4 computes the layers below and drops what they give; pyvene
has no such thing. HookedTransformer, which version 4 no longer has, holds weights of its own: as
much memory again as the backbone takes, and its head apart from the embeddings where a backbone
has one matrix for both. All others share the backbone's weights.

A peer's time is that of the base prompt and all patched runs: the thoughts and the source run are
given to it.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from codi_patching.models.codi import CodiModel
from codi_patching.models.families import cache_argument
from codi_patching.patching.engine import Engine, Readout, Unpatched
from codi_patching.patching.interventions import extra_sites, patches_from

PeerSite = Literal["resid_post", "attn_out", "mlp_out"]
"""The sites that all peers have."""

SITES: tuple[PeerSite, ...] = get_args(PeerSite)


@dataclass(frozen=True)
class FrozenGrid:
    """What is patched: one pair, at one site.

    Attributes:
        prompt: Input embeddings of the base run's prompt, `(T, hidden)`.
        suffix: The base run's thoughts, then the embeddings of the readout up to the token before
            the answer, `(S, hidden)`.
        source: The source run's activations at the site, `(L, K, hidden)`.
        site: What is overwritten.
    """

    prompt: Tensor
    suffix: Tensor
    source: Tensor
    site: PeerSite

    @property
    def layers(self) -> range:
        """The decoder blocks, L of them."""
        return range(self.source.shape[0])

    @property
    def num_latents(self) -> int:
        """K, the rows of a layer."""
        return self.source.shape[1]

    @property
    def num_rows(self) -> int:
        """L × K; row l × K + p is patched at layer l, position p."""
        return len(self.layers) * self.num_latents

    def rows(self, count: int) -> Tensor:
        """The suffix for some rows, `(count, S, hidden)`."""
        return self.suffix.expand(count, -1, -1)

    def overwrite(self, activations: Tensor, layer: int, first_row: int = 0) -> Tensor:
        """A copy of activations `(rows, S, hidden)` in which K rows have their patch.

        Args:
            activations: What the site of a layer has.
            layer: Whose source activations are put in.
            first_row: The row that is patched at position 0; the next one is at 1, and so on.
        """
        positions = torch.arange(self.num_latents, device=activations.device)
        patched = activations.clone()
        patched[first_row + positions, positions] = self.source[layer]
        return patched

    def shaped(self, logits: Tensor) -> Tensor:
        """Logits of all rows, `(L × K, …, vocabulary)`, as `(L, K, vocabulary)`."""
        return logits.reshape(len(self.layers), self.num_latents, -1)


RunGrid = Callable[[FrozenGrid], Tensor]
"""From a grid to the answer logits of its patched runs, `(L, K, vocabulary)`."""


def copy_sharing_weights(backbone: PreTrainedModel) -> Any:
    """Modules that a peer may hook and replace, with the backbone's own weights and buffers."""
    held = [*backbone.parameters(), *backbone.buffers()]
    shared = copy.deepcopy(backbone, {id(tensor): tensor for tensor in held})
    shared.set_attn_implementation("sdpa")
    return shared


def site_module(model: Any, layer: int, site: PeerSite) -> Any:
    """The module (or what stands for it) whose output is the site; of Llama or GPT-2."""
    gpt2 = model.config.model_type == "gpt2"
    block = model.transformer.h[layer] if gpt2 else model.model.layers[layer]
    if site == "resid_post":
        return block
    if site == "mlp_out":
        return block.mlp
    return block.attn if gpt2 else block.self_attn


def read_prompt(model: PreTrainedModel, grid: FrozenGrid) -> DynamicCache:
    """The prompt's keys and values, one row."""
    cache = DynamicCache(config=model.config)
    called = {cache_argument(type(model.base_model)): cache}
    model.base_model(inputs_embeds=grid.prompt[None], use_cache=True, **called)
    return cache


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """The cache of one row for several, which a forward pass may add to."""
    several = copy.deepcopy(cache)
    several.batch_repeat_interleave(rows)
    return several


def arguments(model: nn.Module, grid: FrozenGrid, cache: DynamicCache, rows: int) -> dict[str, Any]:
    """Of a forward pass of transformers, for the logits of the last token alone.

    `model` is what is called, whose keys and values go by its own name for them.
    """
    return {
        "inputs_embeds": grid.rows(rows),
        cache_argument(type(model)): repeated(cache, rows),
        "logits_to_keep": 1,
    }


def stream_of(output: Any) -> Tensor:
    """The first tensor of a module's output: attention gives a tuple, others a tensor."""
    return output[0] if isinstance(output, tuple) else output


def with_stream(output: Any, stream: Tensor) -> Any:
    """A module's output with another first tensor."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def plain_hooks(backbone: PreTrainedModel) -> RunGrid:
    """Forward hooks of PyTorch, all rows in one batch."""
    model = copy_sharing_weights(backbone)

    def hook(grid: FrozenGrid, layer: int) -> Callable[..., Any]:
        def overwrite(_module: Any, _args: Any, output: Any) -> Any:
            first_row = layer * grid.num_latents
            return with_stream(output, grid.overwrite(stream_of(output), layer, first_row))

        return overwrite

    def run(grid: FrozenGrid) -> Tensor:
        batch = arguments(model, grid, read_prompt(model, grid), grid.num_rows)
        handles = [
            site_module(model, layer, grid.site).register_forward_hook(hook(grid, layer))
            for layer in grid.layers
        ]
        try:
            return grid.shaped(model(**batch).logits)
        finally:
            for handle in handles:
                handle.remove()

    return run


def nnsight_one_batch(backbone: PreTrainedModel) -> RunGrid:
    """nnsight: one trace of all rows, in which every layer's output is set."""
    import nnsight

    model = nnsight.NNsight(copy_sharing_weights(backbone))

    def run(grid: FrozenGrid) -> Tensor:
        batch = arguments(model._module, grid, read_prompt(model._module, grid), grid.num_rows)
        with model.trace(**batch):
            for layer in grid.layers:
                module = site_module(model, layer, grid.site)
                output = module.output
                patched = grid.overwrite(stream_of(output), layer, layer * grid.num_latents)
                module.output = with_stream(output, patched)
            logits = model.lm_head.output.save()
        return grid.shaped(logits)

    return run


def nnsight_resumed(backbone: PreTrainedModel) -> RunGrid:
    """nnsight: a trace a layer, of K rows; the base run's states stand for the layers below."""
    import nnsight

    model = nnsight.NNsight(copy_sharing_weights(backbone))

    def block(layer: int) -> Any:
        return site_module(model, layer, "resid_post")

    def run(grid: FrozenGrid) -> Tensor:
        cache, rows = read_prompt(model._module, grid), grid.num_latents
        with model.trace(**arguments(model._module, grid, cache, 1)):
            states = nnsight.save([block(layer).output for layer in grid.layers])
        whole_block = grid.site == "resid_post"
        logits = []
        for layer in grid.layers:
            if whole_block:
                first, entering = layer + 1, grid.overwrite(states[layer].repeat(rows, 1, 1), layer)
            else:
                first, entering = layer, states[layer - 1].repeat(rows, 1, 1)
            with model.trace(**arguments(model._module, grid, cache, rows)):
                for below in range(first):
                    block(below).skip(entering)
                if not whole_block:
                    module = site_module(model, layer, grid.site)
                    output = module.output
                    module.output = with_stream(output, grid.overwrite(stream_of(output), layer))
                last = model.lm_head.output.save()
            logits.append(last)
        return grid.shaped(torch.cat(logits))

    return run


_PYVENE_COMPONENTS = {
    "resid_post": "block_output",
    "attn_out": "attention_output",
    "mlp_out": "mlp_output",
}


def pyvene_one_batch(backbone: PreTrainedModel) -> RunGrid:
    """pyvene: a function as intervention at every layer, all rows in one batch."""
    import pyvene

    model = copy_sharing_weights(backbone)

    def intervention(grid: FrozenGrid, layer: int) -> Callable[[Tensor, Any], Tensor]:
        return lambda base, _source: grid.overwrite(base, layer, layer * grid.num_latents)

    def run(grid: FrozenGrid) -> Tensor:
        interventions = [
            {
                "layer": layer,
                "component": _PYVENE_COMPONENTS[grid.site],
                "intervention": intervention(grid, layer),
            }
            for layer in grid.layers
        ]
        patched = pyvene.IntervenableModel(interventions, model)
        base = arguments(model, grid, read_prompt(model, grid), grid.num_rows)
        return grid.shaped(patched(base)[1].logits)

    return run


def pyvene_vanilla(backbone: PreTrainedModel) -> RunGrid:
    """pyvene: its `VanillaIntervention`, which has one layer at a time and so K rows a batch."""
    import pyvene

    model = copy_sharing_weights(backbone)

    def run(grid: FrozenGrid) -> Tensor:
        cache, rows = read_prompt(model, grid), grid.num_latents
        positions = [[[position] for position in range(rows)]]
        logits = []
        for layer in grid.layers:
            where = {"layer": layer, "component": _PYVENE_COMPONENTS[grid.site]}
            kind = {"intervention_type": pyvene.VanillaIntervention}
            patched = pyvene.IntervenableModel([where | kind], model)
            _, output = patched(
                arguments(model, grid, cache, rows),
                unit_locations={"sources->base": (None, positions)},
                source_representations=grid.source[layer][:, None],
            )
            logits.append(output.logits)
        return grid.shaped(torch.cat(logits))

    return run


def transformer_bridge(backbone: PreTrainedModel) -> RunGrid:
    """TransformerLens' bridge to transformers' own modules, all rows in one batch."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    shared = copy_sharing_weights(backbone)
    name = type(backbone).__name__
    model = build_bridge_from_module(shared, name, hf_config=shared.config)

    def run(grid: FrozenGrid) -> Tensor:
        batch = arguments(model, grid, read_prompt(shared, grid), grid.num_rows)
        embeddings = batch.pop("inputs_embeds")
        logits = model.run_with_hooks(embeddings, fwd_hooks=lens_hooks(grid, grid.layers), **batch)
        return grid.shaped(logits)

    return run


def lens_hooks(grid: FrozenGrid, layers: Sequence[int]) -> list[tuple[str, Callable[..., Tensor]]]:
    """TransformerLens' hooks for a batch of the K rows of each of some layers."""

    def overwrite(layer: int, first_row: int) -> Callable[..., Tensor]:
        return lambda activations, hook: grid.overwrite(activations, layer, first_row)

    return [
        (f"blocks.{layer}.hook_{grid.site}", overwrite(layer, index * grid.num_latents))
        for index, layer in enumerate(layers)
    ]


@lru_cache(maxsize=1)
def hooked_transformer(backbone: PreTrainedModel) -> Any:
    """The backbone as HookedTransformer, with weights of its own, neither folded nor centred.

    What `from_pretrained_no_processing` does for the models whose names it knows.
    """
    from transformer_lens import HookedTransformer, loading_from_pretrained

    config = copy.deepcopy(backbone.config)
    config.architectures = [type(backbone).__name__]
    config.n_ctx = config.max_position_embeddings  # files of published GPT-2 models have it
    like: dict[str, Any] = {"dtype": backbone.dtype, "device": str(backbone.device)}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        settings = loading_from_pretrained.get_pretrained_model_config(folder, **like)
        weights = loading_from_pretrained.get_pretrained_state_dict(
            folder, settings, backbone, dtype=backbone.dtype
        )
    settings.tokenizer_name = None
    model = HookedTransformer(settings)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


class HookedRuns:
    """Passes of a HookedTransformer after a prompt, which is read once."""

    def __init__(self, model: Any, grid: FrozenGrid) -> None:
        from transformer_lens import TransformerLensKeyValueCache

        self.model, self.grid = model, grid
        self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, grid.prompt.device)
        prompt = self.embedded(grid.prompt[None], 0)
        model(prompt, return_type=None, start_at_layer=0, past_kv_cache=self.cache)
        self.cache.freeze()

    def embedded(self, embeddings: Tensor, offset: int) -> Tensor:
        """What layer 0 reads of input embeddings that come after `offset` tokens."""
        return self.model.get_residual(embeddings, offset, return_shortformer_pos_embed=False)

    def suffix(self, rows: int) -> Tensor:
        """What layer 0 reads of the suffix, `(rows, S, hidden)`."""
        return self.embedded(self.grid.rows(rows), len(self.grid.prompt))

    def arguments(self, first_layer: int, rows: int) -> dict[str, Any]:
        """Of a pass from a layer on to the end of the last one, for several rows."""
        cache = copy.copy(self.cache)
        cache.entries = [copy.copy(entry) for entry in self.cache.entries]
        for entry in cache.entries:
            entry.past_keys = entry.past_keys.expand(rows, -1, -1, -1)
            entry.past_values = entry.past_values.expand(rows, -1, -1, -1)
        return {
            "start_at_layer": first_layer,
            "stop_at_layer": self.model.cfg.n_layers,
            "past_kv_cache": cache,
        }

    def read(self, residual: Tensor) -> Tensor:
        """Logits of the last token, `(rows, 1, vocabulary)`."""
        return self.model.unembed(self.model.ln_final(residual[:, -1:]))


def hooked_one_batch(backbone: PreTrainedModel) -> RunGrid:
    """HookedTransformer, all rows in one batch."""
    model = hooked_transformer(backbone)

    def run(grid: FrozenGrid) -> Tensor:
        runs = HookedRuns(model, grid)
        residual = model.run_with_hooks(
            runs.suffix(grid.num_rows),
            fwd_hooks=lens_hooks(grid, grid.layers),
            **runs.arguments(0, grid.num_rows),
        )
        return grid.shaped(runs.read(residual))

    return run


def hooked_resumed(backbone: PreTrainedModel) -> RunGrid:
    """HookedTransformer, the K rows of each layer resumed at that layer."""
    model = hooked_transformer(backbone)

    def run(grid: FrozenGrid) -> Tensor:
        runs, rows = HookedRuns(model, grid), grid.num_latents
        _, base = model.run_with_cache(
            runs.suffix(1),
            names_filter=lambda name: name.endswith(("resid_pre", "resid_post")),
            **runs.arguments(0, 1),
        )
        logits = []
        for layer in grid.layers:
            if grid.site == "resid_post":  # nothing of this layer is left to run
                states = base["resid_post", layer].expand(rows, -1, -1)
                states = grid.overwrite(states, layer)
                residual = model(states, **runs.arguments(layer + 1, rows))
            else:
                states = base["resid_pre", layer].expand(rows, -1, -1)
                residual = model.run_with_hooks(
                    states, fwd_hooks=lens_hooks(grid, [layer]), **runs.arguments(layer, rows)
                )
            logits.append(runs.read(residual))
        return grid.shaped(torch.cat(logits))

    return run


PEERS: dict[str, Callable[[PreTrainedModel], RunGrid]] = {
    "plain hooks, one batch": plain_hooks,
    "TransformerBridge, one batch": transformer_bridge,
    "HookedTransformer, one batch": hooked_one_batch,
    "HookedTransformer, resumed": hooked_resumed,
    "nnsight, one batch": nnsight_one_batch,
    "nnsight, resumed": nnsight_resumed,
    "pyvene, one batch": pyvene_one_batch,
    "pyvene, vanilla": pyvene_vanilla,
}
"""Each prepares a backbone, once for any number of grids.

The backbone's modules are left as they are; HookedTransformer and pyvene switch off gradients of
its weights.
"""


def package_of(peer: str) -> str:
    """What must be installed for a peer; nothing for plain hooks."""
    library = peer.split(",")[0]
    lens = ("TransformerBridge", "HookedTransformer")
    return {"plain hooks": "", **dict.fromkeys(lens, "transformer_lens")}.get(library, library)


# -- by this package's engines ----------------------------------------------------------------


def unpatched_runs(
    engine: Engine, prompts: Sequence[Sequence[int]], readout: Readout, site: PeerSite
) -> tuple[Unpatched, Unpatched]:
    """The base and the source run of two prompts."""
    base, source = engine.unpatched([(ids, readout) for ids in prompts], extra_sites([site]))
    return base, source


def frozen_grid(
    model: CodiModel, prompt: Sequence[int], base: Unpatched, source: Unpatched, site: PeerSite
) -> FrozenGrid:
    """The grid of two unpatched runs; the answer's first token is read."""

    def embedded(ids: Sequence[int]) -> Tensor:
        return model.embed(torch.tensor(ids, device=model.device))

    suffix = torch.cat([base.run.thoughts[0], embedded(base.readout.prefix)])
    activations = source.run.activations().of_site(site)
    return FrozenGrid(embedded(prompt), suffix, activations, site)


def engine_logits(engine: Engine, base: Unpatched, source: Unpatched, site: PeerSite) -> Tensor:
    """What an engine gives for the grid of two runs that it made, `(L, K, vocabulary)`."""
    activations = source.run.activations()
    layers, latents = activations.resid.shape[:2]
    cells = itertools.product(range(layers), range(latents))
    rows = [patches_from(activations, layer, [position], site) for layer, position in cells]
    logits = engine.patched(base, rows, "frozen").answer_logits[0]
    return logits[:, 0].view(layers, latents, -1)
