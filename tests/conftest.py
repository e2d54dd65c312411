"""The whole run: what its tests share, and what one leaves to the next."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings

from cld_core import plugins
from tests.support.clock import Clock

# The tensors of the tests are small: a second thread costs more than it brings, and much where
# others compute.
torch.set_num_threads(1)

# Examples are the same each time, however busy the machine is.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# A plug-in that a test writes anew within a second is not to be taken for what was compiled before.
sys.dont_write_bytecode = True

# Jobs of tests run functions of tests, and nothing is imported from the working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
)

# Nothing of a test has to survive a power failure, and a run that is made is synced dozens of
# times.
os.fsync = lambda descriptor: None

# What commands remember between calls is not that of the user, nor of another test.
_caches = tempfile.mkdtemp(prefix="cldctl-caches-")
os.environ["CLDCTL_CACHE"] = os.path.join(_caches, "shared")

# A shell that starts the tests behind its back lets them, and what they start, ignore Ctrl-C, which
# some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def what_plugins_register():
    """What a test registers is forgotten."""
    before = {name: dict(table) for name, table in plugins._TABLES.items()}
    yield
    for name, table in plugins._TABLES.items():
        for added in table.keys() - before[name].keys() - plugins._SHIPPED[name]:
            del table[added]


@pytest.fixture(autouse=True)
def environment():
    """Jobs that run inside a test or a fixture export their place; what later tests start does not
    inherit it."""
    own = tempfile.mkdtemp(dir=_caches)
    # Nor are their defaults.
    with mock.patch.dict(os.environ, {"CLDCTL_CACHE": own, "XDG_CONFIG_HOME": f"{own}-config"}):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        yield


@pytest.fixture
def disk_clock(monkeypatch):
    """Writes that are tried again wait by this clock, and so not at all."""
    monkeypatch.setattr("cld_core.files.time", clock := Clock())
    return clock


@pytest.fixture
def scripted(monkeypatch):
    """The clusters `scripted` and `other`, whose jobs are in the phases that a test says."""
    from tests.support.scripted import register

    return register(monkeypatch)


@pytest.fixture
def without_slurm(monkeypatch):
    """A machine that has no client of Slurm on PATH, and nothing else either."""
    monkeypatch.setenv("PATH", os.devnull)


@pytest.fixture
def small(monkeypatch, tmp_path_factory):
    """A checkout of two files, which a test may change; storing that of all files takes a while."""
    from cld_core.run import code

    root = tmp_path_factory.mktemp("checkout")
    (root / "cld_core").mkdir()
    (root / "cld_core/__init__.py").write_text("")
    (root / "cld_core/a.py").write_text("A = 1\n")
    monkeypatch.setattr(code, "ROOT", root)
    return root


def pytest_unconfigure(config):
    """End the Slurm cluster of a worker that was killed, as by Ctrl-C: its jobs would keep this
    machine busy."""
    shutil.rmtree(_caches, ignore_errors=True)
    if not hasattr(config, "workerinput"):
        from tests.slurm import cluster

        cluster.sweep()
