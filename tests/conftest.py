"""The whole run: the Slurm tests, which mostly wait, on two workers, everything else beside them on another."""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

# The tensors of the tests are small: a second thread costs more than it brings, and much where others compute.
torch.set_num_threads(1)

# Jobs of tests run functions of tests, and nothing is imported from the working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))

# What commands remember between calls is not that of the user, nor of another test.
_caches = tempfile.mkdtemp(prefix="cldctl-caches-")
_numbers = itertools.count()
os.environ["CLDCTL_CACHE"] = os.path.join(_caches, "shared")

# A shell that starts the tests behind its back lets them, and what they start, ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Jobs that run inside a test export their place; processes that later tests start would inherit it."""
    with mock.patch.dict(os.environ, {"CLDCTL_CACHE": os.path.join(_caches, str(next(_numbers)))}):
        yield


# The Slurm tests of these files have a cluster of their own; all others share one.
_ON_ONE_CLUSTER = ("test_interruptions.py", "test_chaos.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two workers for Slurm tests, each with a cluster, which begin with them: the largest scope is dealt first."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if not nodeid.startswith("tests/slurm/"):
                return nodeid
            return "slurm 1" if any(name in nodeid for name in _ON_ONE_CLUSTER) else "slurm 2"

    return Rooms(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_caches, ignore_errors=True)
    """End the Slurm cluster of a worker that was killed, as by Ctrl-C: its jobs would keep this machine busy."""
    if not hasattr(config, "workerinput"):
        from tests.slurm import machine

        machine.sweep()
