"""A data set for tests that does what a file tells it, once: crash a rank, take memory, or hang."""

import os
import signal
import time
from pathlib import Path

import torch

from cld_core.data.toy import toy

_orders = Path(os.environ.get("CLDCTL_TEST_ORDERS", "/nonexistent"))


@toy("misbehaving")
def misbehaving(n: int, generator: torch.Generator) -> torch.Tensor:
    order = _orders / f"rank{os.environ.get('SLURM_PROCID', '0')}"
    if order.exists():
        what = order.read_text().strip()
        if not what.startswith("always "):
            order.unlink()
        match what.removeprefix("always "):
            case "raise":
                raise RuntimeError("this rank was told to crash")
            case "bug":
                raise TypeError("this rank has a bug")
            case "nap":
                time.sleep(20)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hog":
                hog = torch.ones(500_000_000)  # 2 GB
                time.sleep(30)
                del hog
            case "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            case unknown:
                raise AssertionError(f"unknown order {unknown!r}")
    return torch.randn(n, 2, generator=generator)
