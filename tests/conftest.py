"""The whole run: the Slurm tests, which mostly wait, on one worker, everything else beside them on another."""

import os
import signal
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

# A shell that starts the tests behind its back lets them, and what they start, ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Jobs that run inside a test export their place; processes that later tests start would inherit it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One cluster for all Slurm tests, hence one worker, which begins with them: the largest scope is dealt first."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "slurm" if nodeid.startswith("tests/slurm/") else nodeid

    return Rooms(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the Slurm cluster of a worker that was killed, as by Ctrl-C: its jobs would keep this machine busy."""
    if not hasattr(config, "workerinput"):
        from tests.slurm import machine

        machine.sweep()
