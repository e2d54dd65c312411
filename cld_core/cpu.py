"""Precisions that this machine's processor supports, and how threads wait. Loads no torch."""

import os
import platform
from pathlib import Path

_INFORMATION = Path("/proc/cpuinfo")
# By architecture, the kernel's names of the instructions for products in half precision.
# `torch.cpu.get_capabilities` has the same information, but older versions lack it, and torch takes
# seconds to load.
_INSTRUCTIONS = {
    "x86_64": {"bf16": {"avx512_bf16", "amx_bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}},
    "aarch64": {"bf16": {"bf16"}, "fp16": {"asimdhp"}},
}

# Of GNU's OpenMP, which torch's packages for Linux use. By default, threads spin for milliseconds
# before they sleep. With more threads than cores, that is time that other threads need. Without any
# spinning, small networks take twice as long on an idle machine.
_SPINS = ("GOMP_SPINCOUNT", "1000")
_POLICY = "OMP_WAIT_POLICY"


def emulates(precision: str) -> bool:
    """Whether torch emulates a `train.precision`, because this processor lacks the instructions.

    A step may then take 20 times as long as in float32. False if the kernel does not name them.
    """
    wanted = _INSTRUCTIONS.get(platform.machine(), {}).get(precision)
    flags = _flags()
    return wanted is not None and bool(flags) and not wanted & flags


def warning(precision: str, processor: str = "this processor") -> str:
    """A warning about a precision that a processor emulates, with the fix."""
    return (
        f"train.precision={precision} is emulated by {processor}: a step can take 20 times as "
        "long as in float32. Set train.precision=fp32"
    )


def _flags() -> frozenset[str]:
    """The instructions of the first core, by the kernel's names; empty if they are unknown."""
    try:
        lines = _INFORMATION.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    words = (
        line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))
    )
    return frozenset(next(words, ()))


def wait_briefly() -> None:
    """Let waiting threads of OpenMP sleep early, which speeds up small networks if cores are busy.

    It has an effect if torch is not loaded yet, and on child processes. Variables that are set are
    kept.
    """
    if _POLICY not in os.environ:
        os.environ.setdefault(*_SPINS)
