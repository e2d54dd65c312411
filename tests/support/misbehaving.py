"""A data set for tests that does what a file tells it, once: crash a rank, take memory, or hang.

CLDCTL_TEST_BAD_NODE: a node on which it always crashes. CLDCTL_TEST_PACE: seconds that each batch
takes at least, so that a run neither keeps the processor busy while a test waits, nor gets too far
to be repeated.
"""

import os
import signal
import time
from pathlib import Path

import torch

from cld_core.data import source
from cld_core.data.toy import toy


@toy("misbehaving")
def misbehaving(n, generator):
    if n in (source.COUNT, source.MANY, source.TRIED):
        # No batch has so many: who submits or starts a job looks at what the data are, and is not
        # to be disturbed.
        return torch.randn(n, 2, generator=generator)
    time.sleep(float(os.environ.get("CLDCTL_TEST_PACE", "0.01")))
    if os.environ.get("SLURMD_NODENAME", "none") == os.environ.get("CLDCTL_TEST_BAD_NODE"):
        raise RuntimeError("this node is broken")
    rank = os.environ.get("SLURM_PROCID", os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0"))
    order = Path(os.environ.get("CLDCTL_TEST_ORDERS", "/nonexistent")) / f"rank{rank}"
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
            case "sleep":
                time.sleep(600)
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
