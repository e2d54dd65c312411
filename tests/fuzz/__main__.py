"""`python -m tests.fuzz`: campaigns of any length, and single cases again."""

import argparse
import sys

from .campaign import campaign, one
from .targets import TARGETS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--target", action="append", choices=list(TARGETS), help="default: all of them"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument(
        "--replay", metavar="SEED:NUMBER", help="run one case and print all that it says"
    )
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        (target,) = chosen
        target.prepare()
        verdict = one(target, *map(int, options.replay.split(":")))
        print(f"{verdict.outcome}\n{verdict.detail}")
        return int(not verdict.is_good)
    bad = [campaign(target, options.seed, seconds=options.seconds) for target in chosen]
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
