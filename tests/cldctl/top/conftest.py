"""Fixtures of the tests of `cldctl top`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cldctl.clusters.slurm import client, shared
from cldctl.runs import cancel as cancelling
from cldctl.top import actions
from tests.support import on_screen
from tests.support.clock import Clock
from tests.support.on_screen import Fleet
from tests.support.scripted import register


@pytest.fixture
def scripted(monkeypatch):
    return register(monkeypatch)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A run of every state, and the Slurm that knows their jobs."""
    fleet = on_screen.everything(tmp_path / "runs")
    monkeypatch.setattr(client, "run", fleet.slurm)
    monkeypatch.delenv("CLDCTL_ASK_EVERY_S", raising=False)
    yield fleet
    shared._answers.cache_clear()


@pytest.fixture
def clock(monkeypatch):
    """What is cancelled is waited for without taking time."""
    monkeypatch.setattr(cancelling, "time", Clock())


@pytest.fixture
def asked(monkeypatch):
    """What commands were started; each of them submits job 100."""
    asked: list[list[str]] = []
    said = ["mine", "resuming mine from step 20", "job 100 (scripted)", "next:", "  cldctl logs mine -f"]
    monkeypatch.setattr(actions, "command_of", lambda words: asked.append(list(words)) or (0, said))
    return asked
