"""Memory and rate of position patching by the number of pairs.

    python scripts/load.py 100 1000 10000

Pairs are drawn from the generator of word problems. Each number of pairs is a run of the program;
its memory and the batches it has kept are looked at ten times a second. Printed is a table: peak
memory while pairs run, and to the end of the run; that of `load_results` and of `report` on what
was written, each in a process of its own; pairs a second in each fifth of the pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import psutil
from draw_shipped_pairs import DIFFERENT, as_record, draw_triple

_BATCH = 8


def write_pairs(path: Path, count: int) -> None:
    """A file of so many pairs with different answers."""
    rng, kinds = Random(0), list(DIFFERENT)
    records = (
        as_record(f"pair_{i:05d}", draw_triple(rng, *rng.choice(kinds), equal=False))
        for i in range(count)
    )
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def peak(*arguments: str) -> int:
    """Bytes that a process of Python holds at most, looked at ten times a second."""
    held = 0
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            held = max(held, watched.memory_info().rss)
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with exit status {process.returncode}")
    return held


def measure(count: int, folder: Path) -> str:
    """Run so many pairs; a row of the table."""
    write_pairs(folder / "pairs.jsonl", count)
    partial = folder / f"out{count}" / "partial"
    command = [
        *(sys.executable, "-m", "codi_patching", "predict", "--config=position"),
        *(f"--data.pairs={folder}/pairs.jsonl", f"--data.batch_size={_BATCH}"),
        *(f"--results.dir={partial.parent}", "--report.pair_sheets=false"),
    ]
    running = ending = 0
    times: list[float] = []
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            done = len(list(partial.glob("*.safetensors"))) if partial.exists() else 0
            times += [time.monotonic()] * (done - len(times))
            memory = watched.memory_info().rss
            if len(times) * _BATCH < count:
                running = max(running, memory)
            ending = max(ending, memory)
            time.sleep(0.1)
        if process.returncode:
            sys.exit(log.read_text())
    fifth = max(1, len(times) // 5)
    steps = [(times[i], times[i + fifth]) for i in range(0, len(times) - fifth, fifth)]
    rates = ", ".join(f"{fifth * _BATCH / (b - a):.1f}" for a, b in steps if b > a)
    out = str(partial.parent)
    load = f"import codi_patching; codi_patching.load_results({out!r})"
    held = [running, ending, peak("-c", load), peak("-m", "codi_patching", "report", out)]
    return f"| {count:,} | {' | '.join(f'{size / 1e6:.0f} MB' for size in held)} | {rates} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("counts", type=int, nargs="+", help="numbers of pairs")
    print("| pairs | while pairs run | whole run | load_results | report | pairs a second |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for count in parser.parse_args().counts:
            print(measure(count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
