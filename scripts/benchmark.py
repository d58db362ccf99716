"""How fast the experiments run, beside the textbook procedure, in one process and one run.

    python scripts/benchmark.py --shape llama-1b
    python scripts/benchmark.py --shape llama-1b --site kv
    python scripts/benchmark.py --shape llama-1b --grid position_frozen --peers

Weights and token ids are random: neither changes the work. The changed token comes after 41 % of
the prompt, as in the shipped pairs. Everything from prompt to metrics is included. Seconds a pair,
medians of a few turns in which the arms take turns, plans made in the first one:

    textbook   batch of one; the whole sequence again for every patched run, logits at every token
               as transformers gives them; one pass a layer to record the source run. Measured on a
               sample of runs and scaled; of `resid_post` alone.
    batched    rows in batches over a cached prompt, by the reference engine: one pair.
    sweep      what the package does, with all pairs side by side: own rows alone, as the two
               before; and own and control rows, as experiments have it.
    peers      see `peers.py`: the same frozen grid by other libraries, given the thoughts and the
               source run, after a check that their logits are ours; beside them the sweep with one
               pair, to which nothing is given.

The limit is the machine's own rate of matrix products in that precision, measured just before and
after each arm, since on a shared machine it is not the same for long.
Least token-layers: each prompt once (beginnings in common once) and its thoughts and readout, and
of each patched run the tokens from its patch on, at the layers above it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil
import torch
from peers import PEERS, SITES, engine_logits, frozen_grid, package_of, unpatched_runs
from shapes import (
    READOUT,
    SHAPES,
    DrawnPrompts,
    build_model,
    draw_pairs,
    draw_prompts,
    flop_per_token_layer,
)
from textbook import Textbook

from codi_patching.data.pairs import Pair
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.measuring.measurement import Measurement
from codi_patching.measuring.patch_grid import PatchGrid
from codi_patching.measuring.prompts import Prompts
from codi_patching.metrics import functional as F
from codi_patching.models.at_once import rows_at_once
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Engine
from codi_patching.patching.interventions import SITE_NAMES
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.results.records import PairRecord

GRIDS: dict[str, Callable[..., PatchingExperiment]] = {
    "layer": LayerPatching,
    "position_frozen": partial(PositionPatching, latents="frozen"),
    "position": PositionPatching,
    "relay": IterativePatching,
    "cumulative": partial(IterativePatching, strategy="cumulative"),
}
"""Experiments, by the name of their results in a study but for the defaults."""

CHAINS = ("relay", "cumulative")
"""They have no site but `resid_post`."""

ONE_PAIR = "sweep, own, one pair"

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""How far a peer's logits may be from the sweep's, as a part of the largest."""


@dataclass
class Report:
    """What was measured of a grid.

    Attributes:
        seconds: By arm, a pair.
        peak_mb: By arm, memory beyond what was held before; on a CPU alone.
        token_layers: Of a pair's own rows: unpatched runs, least, computed; the textbook's.
        matrix_product_gflops: The machine's, beside each arm.
        share_of_matrix_product_rate: Of the sweep, by arm.
        largest_difference: By peer, of logits.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    token_layers: dict[str, float] = field(default_factory=dict)
    matrix_product_gflops: dict[str, float] = field(default_factory=dict)
    share_of_matrix_product_rate: dict[str, float] = field(default_factory=dict)
    largest_difference: dict[str, float] = field(default_factory=dict)

    def row(self, grid: str) -> list[str]:
        """As in the table."""
        own, both = self.seconds["sweep, own"], self.seconds["sweep, own and control"]
        textbook, batched = self.seconds.get("textbook"), self.seconds.get("batched")
        tokens = self.token_layers
        return [
            grid,
            f"{textbook:.1f} s" if textbook else "",
            f"{batched:.1f} s" if batched else "",
            f"{own:.2f} s",
            f"{textbook / own:.1f} ×" if textbook else "",
            f"{batched / own:.1f} ×" if batched else "",
            f"{both:.2f} s",
            " / ".join(f"{share:.0%}" for share in self.share_of_matrix_product_rate.values()),
            f"{tokens['unpatched'] + tokens['computed']:,.0f} of "
            f"{tokens['unpatched'] + tokens['least']:,.0f}",
            f"{self.peak_mb.get('sweep, own and control', 0):.0f} MB",
        ]


HEADS = (
    "grid", "textbook", "batched", "sweep, own", "to the textbook", "to batched",
    "sweep, own and control", "of the product rate, own / both", "token-layers, of the least",
    "memory beyond the model",
)  # fmt: skip


class Bench:
    """One model, measured again and again.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.dtype = DTYPES[args.dtype]
        self.model = build_model(args.shape, args.num_latents, self.dtype, self.device)
        self.prompts = draw_prompts(args.pairs, args.prompt, args.shared, seed=1)
        self.pairs = draw_pairs(args.pairs)
        self.sweep = SweepEngine(self.model, args.max_rows or rows_at_once(self.model))
        self.reference = ReferenceEngine(self.model, 40)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, grid: str) -> Report:
        """One experiment by all arms."""
        args, report = self.args, Report()
        cells = self.cells(grid)
        measure = partial(self.seconds, cells)
        arms: dict[str, Callable[[], float]] = {
            "sweep, own": partial(measure, self.sweep, self.pairs),
            "sweep, own and control": partial(measure, self.sweep, self.pairs, control=True),
        }
        if not args.sweep_only:
            arms["batched"] = partial(measure, self.reference, self.pairs[:1])
        if not args.sweep_only and args.site == "resid_post":
            textbook = Textbook(self.model, cells, self.wait)
            arms["textbook"] = lambda: textbook.seconds(self.prompts[0], args.sample)
        if args.peers and grid == "position_frozen" and args.site in SITES:
            arms[ONE_PAIR] = partial(measure, self.sweep, self.pairs[:1])
            arms |= self._peers(report)
        turns: dict[str, list[float]] = {arm: [] for arm in arms}
        rates: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(args.repeats):
            for arm, run in arms.items():
                before = self.sweep.token_layers
                rates[arm] += matrix_product_rates(self.model, self.dtype, self.wait)
                with peak_memory(report.peak_mb, arm):
                    turns[arm].append(run())
                rates[arm] += matrix_product_rates(self.model, self.dtype, self.wait)
                if arm == "sweep, own":
                    computed = (self.sweep.token_layers - before) / args.pairs
        report.seconds = {arm: median(seconds) for arm, seconds in turns.items()}
        report.matrix_product_gflops = {arm: median(seen) / 1e9 for arm, seen in rates.items()}
        self._count_work(cells, computed, report)
        return report

    def cells(self, grid: str) -> PatchGrid:
        """The cells of an experiment and their patches."""
        experiment = GRIDS[grid](site=self.args.site)
        experiment.use(self.model, self.sweep)
        return experiment.patch_grid

    def seconds(
        self, cells: PatchGrid, engine: Engine, pairs: Sequence[Pair], control: bool = False
    ) -> float:
        """Seconds a pair of some pairs side by side, from token ids to metrics."""
        preparation = DrawnPrompts(
            engine=engine,
            prompts=Prompts(self.model, "denoising"),
            record=cells.record,
            drawn=self.prompts,
            has_control=control,
        )
        measurement = Measurement(model=self.model, preparation=preparation, cells=cells)
        seconds, results = self._timed(partial(measurement.pairs, pairs))
        assert all(isinstance(result, PairRecord) for result in results), results
        return seconds / len(pairs)

    def _peers(self, report: Report) -> dict[str, Callable[[], float]]:
        """The peers that are installed and give our logits; the others are named."""
        site = self.args.site
        base, source = unpatched_runs(self.sweep, self.prompts[0], READOUT, site)
        grid = frozen_grid(self.model, self.prompts[0][0], base, source, site)
        ours = engine_logits(self.sweep, base, source, site)
        arms: dict[str, Callable[[], float]] = {}
        for name, prepare in PEERS.items():
            if package_of(name) and not find_spec(package_of(name)):
                continue
            try:
                run = prepare(self.model.backbone)
            except ImportError as error:  # TransformerLens 4 has no HookedTransformer
                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            difference = float((run(grid) - ours).abs().max())
            if difference > CLOSE[self.dtype] * float(ours.abs().max()):
                print(f"{name}: left out, logits differ by up to {difference:.1e}", file=sys.stderr)
                continue
            report.largest_difference[name] = difference
            arms[name] = partial(lambda run: self._timed(run)[0], partial(run, grid))
        return arms

    def _timed(self, run: Callable[[], T]) -> tuple[float, T]:
        """Seconds that a call takes, and what it gives."""
        self.wait()
        begun = time.perf_counter()
        given = run()
        self.wait()
        return time.perf_counter() - begun, given

    def _count_work(self, cells: PatchGrid, computed: float, report: Report) -> None:
        """Token-layers, and shares of the machine's rate."""
        args, config = self.args, self.model.backbone.config
        layers, rows = len(self.model.blocks), cells.grid.size
        unpatched, least = least_token_layers(self.model, cells, args.prompt, args.shared)
        whole = args.prompt + self.model.num_latents + len(READOUT.prefix)
        report.token_layers = {
            "unpatched": unpatched,
            "least": least,
            "computed": computed,
            "textbook": (rows + 1 + layers) * layers * whole,
        }
        third = layers * (self.model.num_latents + 1)  # nothing is read after its thoughts
        head = 2 * config.hidden_size * config.vocab_size
        for arm, tokens, read in (
            ("sweep, own", unpatched + computed, rows + 3),
            ("sweep, own and control", unpatched + third + 2 * computed, 2 * rows + 4),
        ):
            flop = tokens * flop_per_token_layer(config) + read * head
            rate = flop / report.seconds[arm] / 1e9
            report.share_of_matrix_product_rate[arm] = rate / report.matrix_product_gflops[arm]

    def check_device(self) -> float:
        """Largest KL between answers here and on a CPU in float32, over a pair's patched runs."""
        asked = [(ids, READOUT) for ids in self.prompts[0]]
        cpu = build_model(self.args.shape, self.args.num_latents, self.dtype, self.device)
        twin = SweepEngine(cpu.to(device="cpu", dtype=torch.float32), self.sweep.max_rows)
        logits = []
        for engine in (self.sweep, twin):
            base, source = engine.unpatched(asked)
            sets = self.cells("position").patch_sets(source.run.activations())
            logits.append(engine.patched(base, sets).answer_logits[0].cpu())
        return F.compute_kl_divergence(*logits).abs().max().item()


def matrix_product_rates(
    model: CodiModel, dtype: torch.dtype, wait: Callable[[], None]
) -> list[float]:
    """FLOP/s of products of the size that linear layers have, of many rows."""
    width = model.backbone.config.hidden_size
    rows, inner = 512, 4 * width
    a = torch.randn(rows, width, device=model.device).to(dtype)
    b = torch.randn(inner, width, device=model.device).to(dtype)
    rates = []
    for _ in range(20):
        wait()
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        wait()
        rates.append(2 * rows * width * inner / (time.perf_counter() - start))
    return rates[5:]


@contextmanager
def peak_memory(peaks: dict[str, float], arm: str) -> Iterator[None]:
    """Record how far the process's memory rises above where it is, in MB."""
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(0.01):
            rise = (process.memory_info().rss - before) / 1e6
            peaks[arm] = max(peaks.get(arm, 0.0), rise)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def least_token_layers(
    model: CodiModel, cells: PatchGrid, length: int, shared: int
) -> tuple[float, float]:
    """Token-layers of a pair's unpatched runs, and the least of all its own patched runs."""
    layers, latents = len(model.blocks), model.num_latents
    readout = len(READOUT.prefix)
    unpatched = layers * (2 * length - shared + 2 * (latents + readout))
    above = [layers - 1 - layer for layer in range(layers)]
    if cells.grid.whole_layers:
        return unpatched, sum(above) * (latents + readout)
    if cells.latents == "frozen":
        return unpatched, sum(above) * sum(latents + readout - p for p in range(latents))
    later = layers * sum((latents - 1 - p) + readout for p in range(latents - 1))
    return unpatched, sum(above) * latents + layers * later + sum(above) * readout


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_peers(report: Report) -> None:
    """Seconds of each peer, and the largest difference of its logits from the sweep's."""
    arms = {"sweep, own": 0.0, ONE_PAIR: 0.0, **report.largest_difference}
    print_table(
        ("position_frozen", "seconds", "to the sweep", "largest difference of logits"),
        [
            (
                name,
                f"{report.seconds[name]:.2f}",
                f"{report.seconds[name] / report.seconds['sweep, own']:.1f} ×",
                f"{difference:.1e}" if difference else "",
            )
            for name, difference in arms.items()
        ],
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="codi-tiny")
    parser.add_argument("--grid", choices=GRIDS, action="append", help="else all")
    sites = [site for site in SITE_NAMES if site != "head"]
    parser.add_argument("--site", choices=sites, default="resid_post")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--num_latents", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=80, help="tokens a prompt")
    parser.add_argument("--shared", type=int, default=33, help="tokens before the changed one")
    parser.add_argument("--pairs", type=int, default=8, help="side by side")
    parser.add_argument("--sample", type=int, default=4, help="textbook runs measured each time")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--max_rows", type=int, help="patched runs a batch")
    parser.add_argument("--sweep_only", action="store_true", help="neither textbook nor batched")
    parser.add_argument(
        "--peers", action="store_true", help="with position_frozen, other libraries"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args(argv)
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        parser.error(f"expected --device to be one of this machine's, got {args.device}: {reason}")
    return args


@torch.inference_mode()
def main() -> None:
    """Print tables, and write the numbers."""
    args = parse()
    bench = Bench(args)
    if bench.device.type != "cpu":
        print(f"largest KL to a CPU's float32: {bench.check_device():.1e} nats")
    grids = args.grid or [g for g in GRIDS if args.site == "resid_post" or g not in CHAINS]
    reports = {grid: bench.measure(grid) for grid in grids}
    rate = median(rate for r in reports.values() for rate in r.matrix_product_gflops.values())
    print(
        f"{args.shape}, {args.site}, {args.dtype}, {args.device}, {torch.get_num_threads()} "
        f"threads, prompts of {args.prompt} tokens, {args.pairs} pairs; {rate:,.0f} GFLOP/s in "
        "matrix products\n"
    )
    print_table(HEADS, [report.row(grid) for grid, report in reports.items()])
    for report in reports.values():
        if report.largest_difference:
            print_peers(report)
    if args.json:
        numbers: dict[str, Any] = {grid: asdict(report) for grid, report in reports.items()}
        args.json.write_text(json.dumps({**vars(args), "grids": numbers}, indent=2, default=str))


if __name__ == "__main__":
    main()
