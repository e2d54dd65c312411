"""A task for tests: records each signal that it gets, and ends when told to.

    python probe.py FOLDER [--stop-on SIGNAL] [--last SECONDS]

Each rank of each start appends lines "<signal> <unix time>" to FOLDER/<restart>.<rank>, the first being "start".
Other signals than the one to stop on are only recorded; SIGKILL cannot be.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

NOTED = (signal.SIGCONT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-on", default="", help="name of the signal at which to exit with 0")
    parser.add_argument("--last", type=float, default=300, help="exit with 0 after so many seconds")
    args = parser.parse_args()

    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    notes = args.folder / f"{restart}.{os.environ.get('SLURM_PROCID', '0')}"

    # Blocked signals wait for sigtimedwait: none is lost, and no handler is needed.
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTED)
    note(notes, "start")
    deadline = time.monotonic() + args.last
    while (left := deadline - time.monotonic()) > 0:
        arrived = signal.sigtimedwait(NOTED, left)
        if arrived is None:
            break
        name = signal.Signals(arrived.si_signo).name
        note(notes, name)
        if name == args.stop_on:
            break
    return 0


def note(notes: Path, event: str) -> None:
    with open(notes, "a") as file:
        file.write(f"{event} {time.time():.3f}\n")


def signals(folder: Path, restart: int, rank: int) -> list[str]:
    """What the task `rank` of the job's start number `restart` has recorded so far."""
    notes = folder / f"{restart}.{rank}"
    return [line.split()[0] for line in notes.read_text().splitlines()] if notes.exists() else []


if __name__ == "__main__":
    sys.exit(main())
