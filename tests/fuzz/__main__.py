"""`python -m tests.fuzz`: campaigns of any length, and single cases again."""

from __future__ import annotations

import argparse
import sys

from .campaign import campaign, describe, one
from .targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, help="for each target")
    parser.add_argument("--seconds", type=float, help="for each target; default 60 without --cases")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one case and print all that it says")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        (target,) = chosen
        target.prepare()
        verdict = one(target, *map(int, options.replay.split(":")))
        print(f"{verdict.outcome}\n{verdict.detail}")
        return 0 if verdict.is_good else 1
    seconds = options.seconds if options.seconds or options.cases else 60.0
    is_good = True
    for target in chosen:
        result = campaign(target, options.seed, cases=options.cases, seconds=seconds)
        print(describe(result), flush=True)
        is_good &= not result.bad
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
