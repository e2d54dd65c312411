"""Faults by the hundred, by hand.

    python -m tests.chaos --events 200 --seed 1            on a throw-away Slurm python -m
    tests.chaos --events 200 --seed 1 --local    on this machine alone python -m tests.chaos
    --submit                         `cldctl submit` dies at each of its writes

Ends with a table of what was done, what the ledger says about it and how many steps were lost.
Exits with 1 if a promise was broken.
"""

import argparse
import contextlib
import random
import signal
import sys

from tests.slurm.cluster import SlurmCluster

from . import submitting
from .campaign import Campaign
from .events import LOCAL, SLURM, draw
from .shim import library
from .stage import stage


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=20, help="how many (default 20)")
    parser.add_argument(
        "--seed", type=int, default=1, help="decides which ones, and when (default 1)"
    )
    parser.add_argument("--local", action="store_true", help="without Slurm")
    parser.add_argument(
        "--only",
        metavar="WORD",
        action="append",
        default=[],
        help="events with this in their names",
    )
    parser.add_argument(
        "--submit", action="store_true", help="kill the submitting command instead, at each write"
    )
    options = parser.parse_args()
    every = LOCAL if options.local else SLURM
    kinds = [
        event
        for event in every
        if not options.only or any(word in event.name for word in options.only)
    ]
    if library() is None:
        print("needs a C compiler: install gcc", file=sys.stderr)
        return 2
    if not kinds:
        parser.error("no event has such a name")
    # SIGTERM ends the processes and the cluster of the campaign, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        slurm = None if options.local or options.submit else stack.enter_context(SlurmCluster())
        place = stack.enter_context(stage(options.seed, slurm))
        if options.submit:
            broken = submitting.sweep(place, range(1, submitting.count(place) + 1))
        else:
            try:
                broken = Campaign(place, rng).run(draw(rng, kinds, options.events))
            except BaseException:
                print(place.describe(), file=sys.stderr)
                raise
        if broken:
            print(place.describe(), file=sys.stderr)
    print("\n".join([f"BROKEN: {problem}" for problem in broken] or ["Every promise was kept."]))
    if broken and not options.submit:
        words = "".join(f" --only '{word}'" for word in options.only) + " --local" * options.local
        print(
            f"Again: python -m tests.chaos --events {options.events} --seed {options.seed}{words}"
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
