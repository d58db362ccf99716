"""How fast the experiments run, against the textbook procedure, in one process and one run.

    python scripts/benchmark.py --shape llama-1b --experiment position --latents frozen

Weights and token ids are random: neither changes the work. The changed token comes after 41 % of
the prompt, as in the shipped pairs. Everything from prompt to metrics is
included. Side by side, medians of a few turns:

    textbook   batch of one; the whole sequence again for every patched run, logits at every token
               as transformers gives them; one pass a layer to record the source run. Measured on a
               sample of runs and scaled.
    batched    rows in batches over a cached prompt, by the reference engine. One batch, scaled.
    engine     what the package does.

The limit is the machine's own rate of matrix products in that precision, measured before and after.
Least token-layers: each prompt once (beginnings in common once) and its thoughts and readout, and
of each patched run the tokens from its patch on, at the layers above it.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from codi_patching.data.pairs import Pair, Question
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.pair_runs import Measured, PairStart
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.metrics.grid import grid_metrics
from codi_patching.metrics.inputs import AnswerLogits, GeneratedActivations, MetricInputs
from codi_patching.models.codi import CodiModel, CodiSettings, build_projection
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.memory import rows_in_memory
from codi_patching.patching.engine import Engine, Readout
from codi_patching.patching.hooks import capture, patch
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

EXPERIMENTS: dict[str, Callable[..., PatchingExperiment]] = {
    "layer": LayerPatching,
    "position": PositionPatching,
    "iterative": IterativePatching,
}
_PAIR = Pair("0", Question("", 0.0), Question("", 1.0))
READOUT = Readout((2, 5, 6, 7, 8), ((9,), (10,)))


@dataclass
class Timing:
    """Seconds a pair, and memory beyond what was held before."""

    seconds: float
    peak_mb: float = 0.0


def build(shape: str, num_latents: int) -> CodiModel:
    """The shipped model, or one of LLaMA-3.2-1B's shape with random weights in bf16."""
    if shape == "codi-tiny":
        return load_checkpoint("codi-tiny", num_latents)[0]
    config = LlamaConfig(
        vocab_size=128259,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    with no_init_weights():
        backbone = LlamaForCausalLM(config).bfloat16()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in backbone.parameters():
            value.normal_(0, 0.02, generator=generator) if value.ndim > 1 else value.fill_(1)
    projection = build_projection(2048, 2048).bfloat16()
    settings = CodiSettings(num_latents, bot_ids=(1,), eot_ids=(2,), eos_id=3)
    model = CodiModel(backbone, projection, None, settings)
    return model.eval().requires_grad_(False)


def draw_prompts(pairs: int, length: int, shared: int, seed: int) -> list[tuple[list[int], ...]]:
    """For each pair two prompts of random tokens that differ in one, after `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[tuple[list[int], ...]] = []
    for _ in range(pairs):
        first = torch.randint(20, 400, (length,), generator=generator).tolist()
        second = list(first)
        second[shared] = 11
        drawn.append((first, second))
    return drawn


@contextmanager
def peak_memory(timing: Timing) -> Iterator[None]:
    """Record how far memory rises above where it is."""
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(0.01):
            rise = (process.memory_info().rss - before) / 1e6
            timing.peak_mb = max(timing.peak_mb, rise)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def matrix_product_rates(dtype: torch.dtype, width: int) -> list[float]:
    """FLOP/s of products of the size that linear layers have."""
    rows, inner = 512, 4 * width
    a, b = torch.randn(rows, width).to(dtype), torch.randn(inner, width).to(dtype)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        rates.append(2 * rows * width * inner / (time.perf_counter() - start))
    return rates[5:]


def run_engine(
    experiment: PatchingExperiment, engine: Engine, prompts: list[tuple[list[int], ...]]
) -> Timing:
    """All patched runs of some pairs side by side, from token ids to metrics: a pair's share."""
    experiment.engine = engine
    timing = Timing(0.0)
    with peak_memory(timing):
        began = time.perf_counter()
        runs = engine.unpatched([(ids, READOUT) for pair in prompts for ids in pair])
        starts = []
        for index in range(0, len(runs), 2):
            base, source = runs[index : index + 2]
            own = source.run.activations()
            control = runs[index - 2].run.activations() if experiment.control != "none" else None
            starts.append(PairStart(_PAIR, "denoising", base, source, own, control))
        for found in experiment.measure(starts):
            assert isinstance(found, Measured), found
        timing.seconds = (time.perf_counter() - began) / len(prompts)
    return timing


class Textbook:
    """One sequence at a time, all of it."""

    def __init__(self, experiment: PatchingExperiment) -> None:
        self.experiment, self.model = experiment, experiment.model

    def run(self, ids: list[int], thoughts: Tensor | None, layer: int, cells: list[int]) -> Tensor:
        """Logits before the answer; positions `cells` of a layer are overwritten (by zeros)."""
        model, latents = self.model, self.model.num_latents
        tokens = torch.tensor([[*ids, *READOUT.prefix]])
        embeddings = model.embed(tokens)
        if thoughts is None:  # generated: prompt, one latent position after the other, readout
            hidden, context = model.encode([ids])
            for position in range(latents):
                mask = torch.full((1, 1), position in cells)
                edit = {layer: (mask, torch.zeros(1, 1, hidden.shape[-1]).to(hidden))}
                with patch(model.blocks, edit):
                    step, context = model.advance(context, model.next_thought(hidden)[:, None])
                hidden = step[:, 0]
            states, _ = model.advance(context, embeddings[:, len(ids) :])
            return model.backbone.get_output_embeddings()(states)[:, -1]
        parts = [embeddings[:, : len(ids)], thoughts, embeddings[:, len(ids) :]]
        whole = torch.cat(parts, dim=1)
        mask = torch.zeros(1, whole.shape[1], dtype=torch.bool)
        mask[0, [len(ids) + cell for cell in cells]] = True
        with patch(model.blocks, {layer: (mask, torch.zeros_like(whole))}):
            return model.backbone(inputs_embeds=whole, use_cache=False).logits[:, -1]

    def record(self, ids: list[int], thoughts: Tensor, layer: int) -> Tensor:
        """The whole sequence again, to keep one layer's activations."""
        tokens = torch.tensor([[*ids, *READOUT.prefix]])
        embeddings = self.model.embed(tokens)
        parts = [embeddings[:, : len(ids)], thoughts, embeddings[:, len(ids) :]]
        with capture(self.model.blocks) as records:
            self.model.backbone(inputs_embeds=torch.cat(parts, dim=1), use_cache=False)
        return records[layer][0]

    def seconds(self, prompts: tuple[list[int], ...], sample: int) -> Timing:
        """A pair, scaled from the median of a sample of its runs; metrics included."""
        experiment, timing = self.experiment, Timing(0.0)
        layers, columns = experiment.grid.shape
        cells = list(range(self.model.num_latents)) if columns == 1 else [2]
        recording, patched = [], []
        with peak_memory(timing):
            start = time.perf_counter()
            thoughts = [self.model.think(*self.model.encode([ids]))[0] for ids in prompts]
            thinking = time.perf_counter() - start
            frozen = thoughts[0] if experiment.latents == "frozen" else None
            base = self.run(prompts[0], frozen, 0, []).float()
            for index in range(sample):
                layer = index * layers // sample
                start = time.perf_counter()
                self.record(prompts[1], thoughts[1], layer)
                recording.append(time.perf_counter() - start)
                start = time.perf_counter()
                logits = self.run(prompts[0], frozen, layer, cells).float()
                patched.append(time.perf_counter() - start)
            start = time.perf_counter()
            grid = logits[:, None].expand(layers * columns, 1, -1)
            experiment.metrics(self._metric_inputs(grid, base))
            measuring = time.perf_counter() - start
        runs = layers * columns + 1
        timing.seconds = thinking + layers * median(recording) + runs * median(patched) + measuring
        return timing

    def _metric_inputs(self, patched: Tensor, base: Tensor) -> MetricInputs:
        unpatched = AnswerLogits(base, base)
        ids = [torch.tensor(answer) for answer in READOUT.answers]
        chain = GeneratedActivations(*[torch.zeros(len(patched), 4)] * 3)
        rows = AnswerLogits(patched, patched)
        return MetricInputs(rows, unpatched, unpatched, ids[0], ids[1], True, chain)


def least_token_layers(
    experiment: PatchingExperiment, length: int, shared: int
) -> tuple[float, float]:
    """Token-layers of a pair's unpatched runs, and the least of all its patched runs."""
    layers, latents = len(experiment.model.blocks), experiment.model.num_latents
    readout = len(READOUT.prefix)
    unpatched = layers * (2 * length - shared + 2 * (latents + readout))
    above = [layers - 1 - layer for layer in range(layers)]
    if experiment.grid.whole_layers:
        if experiment.latents == "frozen":
            return unpatched, sum(above) * (latents + readout)
        return unpatched, latents * sum(above) + layers * (
            sum(range(layers)) / layers * (latents - 1) + layers * readout
        )
    if experiment.latents == "frozen":
        return unpatched, sum(above) * sum(latents + readout - p for p in range(latents))
    later = layers * sum((latents - 1 - p) + readout for p in range(latents - 1))
    return unpatched, sum(above) * latents + layers * later + sum(above) * readout


def flop_per_token_layer(config: PreTrainedConfig) -> float:
    """Of the linear layers of a block."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = config.head_dim or hidden // heads
    attention = 2 * hidden * size * (heads + config.num_key_value_heads)
    return 2 * (attention + 3 * hidden * config.intermediate_size)


def benchmark(args: argparse.Namespace, name: str, model: CodiModel) -> dict[str, Any]:
    """One experiment."""
    options: dict[str, Any] = {"control": "sibling" if args.control else "none"}
    if name == "iterative":
        options["strategy"] = args.strategy
    elif args.latents:
        options["latents"] = args.latents
    experiment = EXPERIMENTS[name](**options)
    experiment.model = model
    experiment.metrics = grid_metrics(experiment.grid.shape, experiment.metric_classes)
    sweep = SweepEngine(model, args.max_rows or rows_in_memory(model))
    reference = ReferenceEngine(model, 40)
    prompts = draw_prompts(args.pairs, args.prompt, args.shared, seed=1)
    dtype = next(model.parameters()).dtype
    width = model.backbone.config.hidden_size
    run_engine(experiment, sweep, prompts)  # the plan is made once for all pairs
    rates, engines, textbooks, batched = [], [], [], None
    for repeat in range(args.repeats):
        rates += matrix_product_rates(dtype, width)
        before = sweep.token_layers
        engines.append(run_engine(experiment, sweep, prompts))
        computed = (sweep.token_layers - before) / args.pairs
        textbooks.append(Textbook(experiment).seconds(prompts[repeat], args.sample))
    engine = Timing(median(t.seconds for t in engines), max(t.peak_mb for t in engines))
    textbook = Timing(median(t.seconds for t in textbooks), max(t.peak_mb for t in textbooks))
    if not args.no_batched:
        batched = run_engine(experiment, reference, prompts[:1])
    unpatched, least = least_token_layers(experiment, args.prompt, args.shared)
    rows = experiment.grid.size
    flop = (unpatched + computed) * flop_per_token_layer(model.backbone.config)
    flop += (rows + 2) * 2 * width * model.backbone.config.vocab_size
    return {
        "experiment": name,
        "latents": experiment.latents,
        "strategy": experiment.strategy,
        "seconds_a_pair": {
            "textbook": textbook.seconds,
            "batched": batched.seconds if batched else None,
            "engine": engine.seconds,
        },
        "times_faster_than_textbook": textbook.seconds / engine.seconds,
        "times_faster_than_batched": batched.seconds / engine.seconds if batched else None,
        "peak_mb_beyond_the_model": {
            "textbook": textbook.peak_mb,
            "batched": batched.peak_mb if batched else None,
            "engine": engine.peak_mb,
        },
        "token_layers": {
            "unpatched": unpatched,
            "least": least,
            "computed": computed,
            "textbook": (rows + 1 + len(model.blocks))
            * len(model.blocks)
            * (args.prompt + model.num_latents + len(READOUT.prefix)),
        },
        "matrix_product_gflops": median(rates) / 1e9,
        "engine_gflops": flop / engine.seconds / 1e9,
        "fraction_of_matrix_product_rate": flop / engine.seconds / median(rates),
    }


def main() -> None:
    """Print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("codi-tiny", "llama-1b"), default="codi-tiny")
    parser.add_argument("--experiment", choices=(*EXPERIMENTS, "all"), default="all")
    parser.add_argument("--latents", choices=("frozen", "recomputed"), help="else the default")
    parser.add_argument("--strategy", choices=("relay", "cumulative"), default="relay")
    parser.add_argument("--num_latents", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=80, help="tokens a prompt")
    parser.add_argument("--shared", type=int, default=33, help="tokens before the changed one")
    parser.add_argument("--pairs", type=int, default=8, help="pairs side by side")
    parser.add_argument(
        "--sample", type=int, default=4, help="textbook runs, and pairs, measured each time"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of everything, in turn")
    parser.add_argument("--max_rows", type=int, help="patched runs a batch")
    parser.add_argument("--control", action="store_true", help="every run twice, own and control")
    parser.add_argument("--no_batched", action="store_true", help="leave out the batched rows")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    model = build(args.shape, args.num_latents)
    names = list(EXPERIMENTS) if args.experiment == "all" else [args.experiment]
    with torch.inference_mode():
        results = [benchmark(args, name, model) for name in names]
    print(f"{args.shape}, prompts of {args.prompt} tokens, {torch.get_num_threads()} threads")
    for result in results:
        print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps({**vars(args), "results": results}, indent=2, default=str))


if __name__ == "__main__":
    main()
