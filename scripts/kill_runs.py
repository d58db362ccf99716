"""Kill a run with SIGKILL at random moments, then let the same command finish.

    python scripts/kill_runs.py --kills 20 predict --config position --results.dir out

Every run is a fork of this process, so that the imports are paid once. Ends with the exit status of
the last run, which is not killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time

from codi_patching import cli


def main() -> int:
    """Run, kill, and so on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=8.0, help="seconds before a kill")
    parser.add_argument("--seed", type=int, default=0)
    options, command = parser.parse_known_args()
    rng = random.Random(options.seed)
    killed = 0
    while True:
        pid = os.fork()
        if pid == 0:
            sys.argv = ["codi-patching", *command]
            cli.main()
        end = time.monotonic() + rng.uniform(0.2, options.longest)
        while killed < options.kills and time.monotonic() < end:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        if killed == options.kills:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed += 1
        print(f"killed {killed} of {options.kills}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
