"""What a check is given and what it answers. Loads no torch."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

NO_CARD = "no card on this machine"
Verdict = Literal["ok", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and how thoroughly to check.

    Attributes:
        work: an existing folder for generated data and runs.
        device: "cuda", or "cpu" to try the checks themselves.
        scale: "full" for networks of the recipes' size, "small" for ones that a CPU computes in no time.
        clock: seconds, for what is timed.
    """

    work: Path
    device: str = "cuda"
    scale: Literal["full", "small"] = "full"
    clock: Callable[[], float] = time.perf_counter

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def small(self) -> bool:
        return self.scale == "small"


@dataclass(frozen=True)
class Finding:
    """The answer of one check: what was found, with numbers, and what to do about it; ``name`` is that of the check."""

    verdict: Verdict
    found: str
    advice: str = ""
    name: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def without_card(checks: int) -> str:
    """The one line for all checks where torch sees no card."""
    return f"gpu: {NO_CARD}, {counted(checks)} skipped"


def counted(checks: int) -> str:
    return f"{checks} {'check' if checks == 1 else 'checks'}"


def judged(good: bool, found: str, advice: str = "") -> Finding:
    """Ok without advice, or a failure with it."""
    return Finding("ok", found) if good else Finding("fail", found, advice)
