"""From command to report: where the time of whole runs goes.

    python scripts/end_to_end.py --pairs 57
    python scripts/make_random_checkpoint.py --family llama --size full out/llama-1b
    python scripts/end_to_end.py --checkpoint out/llama-1b/pytorch_model.bin \
        --base_model out/llama-1b/base --num_latents 5

Runs `codi-patching predict` for both experiments of the requirement, layer and position patching,
on the shipped pairs, and looks at when it says what. Start-up is up to the seed (imports, command
line), loading up to the model's line, measuring up to the tables on stdout, the rest is drawing,
report and page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

CONFIGS = ("layer", "position")
STAGES = ("start-up", "loading", "measuring", "drawing and report")


def stages(command: Sequence[str]) -> list[float]:
    """Seconds of each of `STAGES`.

    Raises:
        SystemExit: The command failed.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: dict[str, float] = {}
    said: list[str] = []

    def follow(stream: IO[str], marks: dict[str, str]) -> None:
        for line in stream:
            said.append(line)
            for mark, stage in marks.items():
                if line.startswith(mark):
                    seen.setdefault(stage, time.perf_counter() - begun)

    assert process.stdout is not None
    assert process.stderr is not None
    of_errors = {"Seed set": STAGES[0], "loaded ": STAGES[1]}
    threads = [
        threading.Thread(target=follow, args=(process.stdout, {"": STAGES[2]})),
        threading.Thread(target=follow, args=(process.stderr, of_errors)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if process.wait() not in (0, 3):  # 3: a check of validity fails, as it may on random weights
        raise SystemExit("".join(said))
    ends = [seen[stage] for stage in STAGES[:3]] + [time.perf_counter() - begun]
    return [end - start for start, end in zip([0.0, *ends], ends)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", default="codi-tiny")
    parser.add_argument("--base_model")
    parser.add_argument("--num_latents", type=int)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--pairs", type=int, default=57, help="of the shipped ones")
    args = parser.parse_args()
    model = {key: getattr(args, key) for key in ("checkpoint", "base_model", "num_latents")}
    options = [f"--model.{key}={value}" for key, value in model.items() if value is not None]
    options += [f"--trainer.precision={args.precision}", f"--data.max_pairs={args.pairs}"]
    print("| experiment | " + " | ".join(STAGES) + " | in all |")
    print("|" + "---|" * (len(STAGES) + 2))
    for config in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "codi_patching", "predict", f"--config={config}"]
            command += [f"--results.dir={folder}/out", "--data.pairs=shipped"]
            spent = stages([*command, *options, "--trainer.logger=false"])
        cells = [f"{seconds:.1f} s" for seconds in [*spent, sum(spent)]]
        print(f"| {config}, {args.pairs} pairs | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
