"""What a GPU makes of the experiments: numbers checked, speed, what limits it, from end to end.

    python scripts/gpu_report.py --out gpu_report
    python scripts/gpu_report.py --device cpu --shape codi-tiny --pairs 2 --out gpu_report

Four parts, in at most `--seconds` in all; a part that does not fit any more is left out by name.

    numbers     every shipped experiment again on the device, against the shipped results; the
                shape's answers against a CPU's float32; the first experiment twice, byte for byte
    speed       `benchmark.py`'s arms in float32 and bf16, peers that are installed among them,
                beside the rate of a matrix product that fills the chip
    profile     each grid: share of the time in which the device computes, launches, transfers,
                and what waits for it
    end to end  `predict` of the shape with 57 pairs, from command to report

Writes `report.md` and `report.json`, and a profile a grid, into `--out`; after each part, so that
what was measured is there if the machine goes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import benchmark
import lightning.pytorch as pl
import numpy as np
import torch
import xarray as xr
from shapes import SHAPES, draw_prompts
from torch.profiler import ProfilerActivity, profile

from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.results.dataset import patches, run_of
from codi_patching.results.read import read_results

ROOT = Path(__file__).parents[1]
FILLING = 8192
"""Rows and columns of a matrix product that fills a chip."""

Table = list[dict[str, Any]]


@dataclass
class Findings:
    """What was measured, by part.

    Attributes:
        device: What it was measured on.
        numbers: A row an experiment: how far it is from the shipped results.
        device_kl: Largest KL of the shape's answers to a CPU's, both in float32, in nats.
        speed: A row a precision and grid.
        profiles: A row a grid.
        end_to_end: What `end_to_end.py` printed.
        left_out: Parts that did not fit, with the reason.
        seconds: By part.
    """

    device: dict[str, Any] = field(default_factory=dict)
    numbers: Table = field(default_factory=list)
    device_kl: float | None = None
    speed: Table = field(default_factory=list)
    profiles: Table = field(default_factory=list)
    end_to_end: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class GpuReport:
    """The parts, and how much time is left for them.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.begun = args, time.perf_counter()
        self.found = Findings(device=self._device())
        args.out.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """All parts, each with its share of the time at the most."""
        self._part("numbers", self.numbers)
        for dtype in ("float32", "bfloat16"):
            bench = self._bench(dtype)
            if dtype == "float32":
                self._part("answers against a CPU", partial(self.against_cpu, bench))
            for grid in benchmark.GRIDS:
                self._part(f"{dtype}, {grid}", partial(self.speed, bench, grid))
                self._part(f"{dtype}, {grid}, one batch", partial(self.one_batch, bench, grid))
            if dtype == "bfloat16":
                for grid in benchmark.GRIDS:
                    self._part(f"profile, {grid}", partial(self.profile, bench, grid))
            del bench
        self._part("end to end", self.end_to_end)

    # -- the parts --------------------------------------------------------------------------------

    def numbers(self) -> None:
        """Every shipped experiment again, against the shipped results."""
        shipped_runs = ROOT / "docs" / "results" / "codi-tiny"
        folders = sorted(path.parent for path in shipped_runs.glob("*/SHA256SUMS"))
        for index, folder in enumerate(folders):
            shipped = read_results(folder)
            again = self._measured(shipped)
            row = {"experiment": folder.name, **difference(shipped, again)}
            if not index:
                row["second run"] = same_bytes(again, self._measured(shipped))
            self.found.numbers.append(row)

    @torch.inference_mode()
    def against_cpu(self, bench: benchmark.Bench) -> None:
        """The shape's answers here against a CPU's, both in float32."""
        self.found.device_kl = bench.check_device()

    @torch.inference_mode()
    def speed(self, bench: benchmark.Bench, grid: str) -> None:
        """One grid by all arms, with the time in which the device computes."""
        report = bench.measure(grid)
        share = busy_share(bench, grid)
        self.found.speed.append(
            {
                "precision": bench.args.dtype,
                "grid": grid,
                **{f"{arm}, s": seconds for arm, seconds in report.seconds.items()},
                "device busy, own and control": share,
                **{
                    f"of the filling product rate, {arm}": part
                    * report.matrix_product_gflops[arm]
                    / self.found.device[f"{bench.args.dtype} GFLOP/s"]
                    for arm, part in report.share_of_matrix_product_rate.items()
                },
                **{f"{k}, difference": v for k, v in report.largest_difference.items()},
            }
        )

    @torch.inference_mode()
    def one_batch(self, bench: benchmark.Bench, grid: str) -> None:
        """The same with all patched runs of all pairs in one batch, once planned; the memory."""
        cells, cuda = bench.cells(grid), bench.device.type == "cuda"
        engine = SweepEngine(bench.model, bench.args.pairs * 2 * (cells.grid.size + 1))
        bench.seconds(cells, engine, bench.pairs, control=True)
        if cuda:
            torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device) if cuda else 0
        row = {"precision": bench.args.dtype, "grid": f"{grid}, one batch"}
        row["sweep, own and control, s"] = bench.seconds(cells, engine, bench.pairs, control=True)
        if cuda:
            row["GB"] = (torch.cuda.max_memory_allocated(bench.device) - before) / 1e9
        self.found.speed.append(row)

    @torch.inference_mode()
    def profile(self, bench: benchmark.Bench, grid: str) -> None:
        """What a grid's time goes to; the two tables are written as text."""
        events, wall = profiled(bench, grid)
        averages = events.key_averages()
        on_device = sum(e.self_device_time_total for e in averages) / 1e6
        self.found.profiles.append(
            {
                "grid": grid,
                "seconds, profiled": wall,
                "device busy, s": on_device,
                "launches": counted(averages, "LaunchKernel"),
                "copies to and fro": counted(averages, "Memcpy HtoD", "Memcpy DtoH"),
                "waits": counted(averages, "Synchronize", "_local_scalar_dense"),
            }
        )
        tables = [
            averages.table(sort_by=by, row_limit=25, max_name_column_width=60)
            for by in ("self_device_time_total", "self_cpu_time_total")
        ]
        (self.args.out / f"profile_{grid}.txt").write_text("\n".join(tables), encoding="utf-8")

    def end_to_end(self) -> None:
        """`predict` of the shape, from command to report."""
        with tempfile.TemporaryDirectory() as folder:
            model = [] if self.args.shape == "codi-tiny" else _random_checkpoint(Path(folder))
            run = [sys.executable, str(ROOT / "scripts" / "end_to_end.py"), *model]
            run += [f"--pairs={self.args.end_pairs}"]
            done = subprocess.run(
                run, capture_output=True, text=True, check=False, timeout=max(1.0, self.left())
            )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.found.end_to_end = done.stdout

    # -- around them ------------------------------------------------------------------------------

    def left(self) -> float:
        """Seconds that are left."""
        return self.args.seconds - (time.perf_counter() - self.begun)

    def _part(self, name: str, measure: Callable[[], None]) -> None:
        """A part, if there is time; what fails in it is written down, and the next one begins."""
        begun = time.perf_counter()
        if self.left() <= 0:
            self.found.left_out[name] = "no time was left"
            return
        try:
            measure()
        except Exception as error:  # a part that fails must not take the others along
            self.found.left_out[name] = f"{type(error).__name__}: {str(error)[:300]}"
        self.found.seconds[name] = time.perf_counter() - begun
        print(f"{name}: {self.found.seconds[name]:.1f} s, {self.left():.0f} s left", flush=True)
        self._write()

    def _bench(self, dtype: str) -> benchmark.Bench:
        options = [f"--shape={self.args.shape}", f"--device={self.args.device}"]
        options += [f"--dtype={dtype}", f"--pairs={self.args.pairs}", "--repeats=1", "--sample=1"]
        peers = ["--peers"] if dtype == "float32" else []
        return benchmark.Bench(benchmark.parse([*options, *peers]))

    def _measured(self, shipped: xr.Dataset) -> xr.Dataset:
        """The run of shipped results again, on the device."""
        config = run_of(shipped).config["model"]
        room, _, name = config["class_path"].rpartition(".")
        experiment = getattr(importlib.import_module(room), name)(**config["init_args"])
        with tempfile.TemporaryDirectory() as folder:
            pl.seed_everything(run_of(shipped).seed, verbose=False)
            trainer = pl.Trainer(
                accelerator="cpu" if self.args.device == "cpu" else "gpu",
                devices=1,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[ResultsWriter(folder)],
            )
            data = PairsDataModule(max_pairs=self.args.check_pairs)
            trainer.predict(experiment, data, return_predictions=False)
            return read_results(Path(folder)).load()

    def _device(self) -> dict[str, Any]:
        device = torch.device(self.args.device)
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else "CPU"
        rates = {
            f"{dtype} GFLOP/s": filling_rate(device, getattr(torch, dtype), self.args.filling)
            for dtype in ("float32", "bfloat16")
        }
        return {"name": name, "torch": torch.__version__, "cuda": torch.version.cuda, **rates}

    def _write(self) -> None:
        content = asdict(self.found)
        path = self.args.out / "report.json"
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
        text = "\n".join(markdown(self.found, self.args))
        (self.args.out / "report.md").write_text(text, encoding="utf-8")


def difference(shipped: xr.Dataset, again: xr.Dataset) -> dict[str, Any]:
    """How far a run is from the shipped results, over the pairs that both have."""
    pairs = again["pair"].values
    ours = shipped.sel(pair=pairs)
    found: dict[str, Any] = {"pairs": len(pairs)}
    if not patches(shipped):
        names = [name for name in ("rank", "attention") if name in shipped]
        return found | {name: _largest(ours[name], again[name]) for name in names}
    for name, metric in (
        ("probability", "clean_probability"),
        ("KL, nats", "kl_divergence"),
        ("logit difference", "answer_logit_difference"),
    ):
        found[name] = _largest(ours[metric], again[metric])
    said = [data["predicts_clean"].values for data in (ours, again)]
    found["predictions that differ"] = int((said[0] != said[1])[np.isfinite(said[0])].sum())
    return found


def _largest(one: xr.DataArray, other: xr.DataArray) -> float:
    gaps = np.abs(one.values - other.values)
    if (np.isfinite(one.values) != np.isfinite(other.values)).any():
        return float("inf")
    return float(np.nanmax(gaps)) if np.isfinite(gaps).any() else 0.0


def same_bytes(one: xr.Dataset, other: xr.Dataset) -> str:
    """Whether every number of two runs is the same to the last bit."""
    names = [name for name in one.data_vars if one[name].dtype.kind == "f"]
    odd = [str(n) for n in names if one[n].values.tobytes() != other[n].values.tobytes()]
    return f"differs in {', '.join(odd)}" if odd else "the same bytes"


def filling_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """GFLOP/s of a square matrix product, median of a few turns."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    rates = []
    for _ in range(6):
        _wait(device)
        begun = time.perf_counter()
        a @ b
        _wait(device)
        rates.append(2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return median(rates[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profiled(bench: benchmark.Bench, grid: str) -> tuple[profile, float]:
    """A profile of the sweep's own and control rows, and its seconds."""
    prompts = draw_prompts(bench.args.pairs, bench.args.prompt, bench.args.shared, seed=1)
    assert prompts == bench.prompts
    cells = bench.cells(grid)
    activities = [ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as events:
        begun = time.perf_counter()
        bench.seconds(cells, bench.sweep, bench.pairs, control=True)
        wall = time.perf_counter() - begun
    return events, wall


def busy_share(bench: benchmark.Bench, grid: str) -> float | None:
    """Share of the time, not profiled, in which the device computes; None on a CPU."""
    if bench.device.type != "cuda":
        return None
    events, _ = profiled(bench, grid)
    busy = sum(e.self_device_time_total for e in events.key_averages()) / 1e6
    seconds = bench.seconds(bench.cells(grid), bench.sweep, bench.pairs, control=True)
    return busy / (seconds * bench.args.pairs)


def counted(averages: Any, *names: str) -> int:
    """How often events of these names came."""
    return sum(e.count for e in averages if any(name in e.key for name in names))


def _random_checkpoint(folder: Path) -> list[str]:
    """Options for a checkpoint of the 1B shape with random weights, in bf16."""
    make = [sys.executable, str(ROOT / "scripts" / "make_random_checkpoint.py")]
    make += ["--family=llama", "--size=full", str(folder)]
    subprocess.run(make, check=True, capture_output=True)
    where = [f"--checkpoint={folder}/pytorch_model.bin", f"--base_model={folder}/base"]
    return [*where, "--num_latents=5", "--precision=bf16-true"]


def markdown(found: Findings, args: argparse.Namespace) -> Iterator[str]:
    """The report's text."""
    device = found.device
    yield f"# {device['name']}, torch {device['torch']}\n"
    yield (
        f"Products of {args.filling} rows and columns: {device['float32 GFLOP/s'] / 1e3:.3g} "
        f"TFLOP/s in float32, {device['bfloat16 GFLOP/s'] / 1e3:.3g} in bf16. Shape {args.shape}, "
        f"{args.pairs} pairs side by side.\n"
    )
    if found.device_kl is not None:
        yield f"Largest KL of answers to a CPU's, both in float32: {found.device_kl:.1e} nats.\n"
    for title, rows in (
        ("Numbers, against the shipped results", found.numbers),
        ("Speed, seconds a pair", found.speed),
        ("Profile, own and control rows in bf16", found.profiles),
    ):
        if rows:
            yield f"## {title}\n"
            yield from table(rows)
    if found.end_to_end:
        yield f"## From command to report\n\n{found.end_to_end}"
    for name, reason in found.left_out.items():
        yield f"Left out: {name}, {reason}"


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rows of the same or other keys, in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(name)) for name in names)} |"
    yield ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--pairs", type=int, default=57, help="side by side")
    parser.add_argument("--check_pairs", type=int, default=57, help="of the shipped ones, checked")
    parser.add_argument("--end_pairs", type=int, default=57, help="from end to end")
    parser.add_argument("--filling", type=int, default=FILLING, help="size of the product")
    parser.add_argument("--seconds", type=float, default=480, help="at most")
    args = parser.parse_args()
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError):
        parser.error(f"expected --device to be one of this machine's, got {args.device}")
    return args


if __name__ == "__main__":
    GpuReport(parse()).run()
