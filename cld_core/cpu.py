"""What the processor of this machine computes in itself, and how threads wait for each other. Loads
no torch."""

import os
import platform
from pathlib import Path

_INFORMATION = Path("/proc/cpuinfo")
# What the kernel calls the instructions for products in half precision, by the machine's
# architecture. torch tells the same (`torch.cpu.get_capabilities`, which older versions lack), but
# takes seconds to load.
_INSTRUCTIONS = {
    "x86_64": {"bf16": {"avx512_bf16", "amx_bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}},
    "aarch64": {"bf16": {"bf16"}, "fp16": {"asimdhp"}},
}

# Of GNU's OpenMP, that of torch's packages for Linux. Threads spin for milliseconds there before
# they sleep: time that whoever they wait for needs, where there are more threads than cores. Not
# spinning at all halves the rate of small networks on an idle machine.
_SPINS = ("GOMP_SPINCOUNT", "1000")
_POLICY = "OMP_WAIT_POLICY"


def emulates(precision: str) -> bool:
    """Whether this processor has no instructions for a `train.precision`, so that torch emulates
    it.

    A step may then take 20 times as long as in float32. False if the kernel does not tell.
    """
    wanted = _INSTRUCTIONS.get(platform.machine(), {}).get(precision)
    flags = _flags()
    return wanted is not None and bool(flags) and not wanted & flags


def warning(precision: str, processor: str = "this processor") -> str:
    """What to know about a precision that a processor emulates, and what to do about it."""
    text = (
        f"train.precision={precision} is emulated by {processor}: a step can take 20 times as "
        f"long as in float32"
    )
    return f"{text}. Set train.precision=fp32"


def _flags() -> frozenset[str]:
    """The instructions of the first core, as the kernel calls them; none where it does not tell."""
    try:
        lines = _INFORMATION.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (
        line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))
    )
    return frozenset(next(found, ()))


def wait_briefly() -> None:
    """Let threads of OpenMP that wait for others soon sleep, so that a busy machine slows small
    networks down less.

    Only a process that has not loaded torch yet heeds it. Its children inherit it, and what is set
    is kept.
    """
    if _POLICY not in os.environ:
        os.environ.setdefault(*_SPINS)
