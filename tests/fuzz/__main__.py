"""`python -m tests.fuzz`: campaigns of any length, and single cases again."""

import argparse
import sys

from .campaign import campaign, one
from .targets import TARGETS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="for each target, at most")
    parser.add_argument("--seconds", type=float, help="for each target; default 60 without --cases")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one case and print all that it says")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        (target,) = chosen
        target.prepare()
        verdict = one(target, *map(int, options.replay.split(":")))
        print(f"{verdict.outcome}\n{verdict.detail}")
        return int(not verdict.is_good)
    seconds = options.seconds or (60.0 if options.cases == sys.maxsize else float("inf"))
    bad = [line for target in chosen for line in campaign(target, options.seed, options.cases, seconds)]
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
