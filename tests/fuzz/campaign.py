"""Many cases of a target, seeded and replayable.

    python -m tests.fuzz --target recipes --cases 2000 --seed 7     a campaign
    python -m tests.fuzz --target recipes --replay 7:1234           one case of it again

A target (`TARGETS` in `tests.fuzz.targets`) makes case number i of a seed from `random.Random(f"{seed}:{i}")` alone.
"""

from __future__ import annotations

import collections
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .verdict import TIME_S, Verdict, run


@dataclass(frozen=True)
class Target:
    """One reader under fuzz.

    Attributes:
        make: gets the generator of the case and an empty folder, writes the damaged input there, and returns what
            reads it: a function without arguments that raises CldError to refuse.
        prepare: called once, before any case: imports and valid inputs; forks share them.
        time_s: how long one case may take.
    """

    name: str
    make: Callable[[random.Random, Path], Callable[[], Any]]
    prepare: Callable[[], Any] = lambda: None
    time_s: float = TIME_S


@dataclass
class Result:
    """Counts of outcomes, and every bad case as ``SEED:NUMBER`` with its verdict."""

    target: str
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[tuple[str, Verdict]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.counts.values())


def one(target: Target, seed: int, number: int) -> Verdict:
    """Case ``number`` of a seed, in a temporary folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target.name}-"))
    try:
        case = target.make(random.Random(f"{seed}:{number}"), folder)
        return run(case, folder, time_s=target.time_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def campaign(
    target: Target, seed: int, *, cases: int | None = None, seconds: float | None = None, first: int = 0
) -> Result:
    """Run cases of a target until ``cases`` are done or ``seconds`` are over."""
    target.prepare()
    result, began, number = Result(target.name), time.monotonic(), first
    while (cases is None or number - first < cases) and (seconds is None or time.monotonic() - began < seconds):
        verdict = one(target, seed, number)
        result.counts[verdict.outcome] += 1
        if not verdict.is_good:
            result.bad.append((f"{seed}:{number}", verdict))
        number += 1
    return result


def describe(result: Result, most: int = 10) -> str:
    """A line of counts, and the first bad cases with how to see them again."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.counts.items()))
    lines = [f"{result.target}: {result.cases} cases: {counts}"]
    for case, verdict in result.bad[:most]:
        last = verdict.detail.strip().splitlines()[-1:] or [""]
        lines.append(f"  {verdict.outcome}: {last[0][:200]}  (--target {result.target} --replay {case})")
    return "\n".join(lines)
