"""Fixtures of the tests of `cldctl top`."""

import pytest

from cldctl.clusters.slurm import client, poll
from cldctl.top.selected import Command
from tests.support import on_screen


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """A run of every state, and the Slurm that knows their jobs."""
    fleet = on_screen.everything(tmp_path / "runs")
    monkeypatch.setattr(client, "run", fleet.slurm)
    monkeypatch.delenv("CLDCTL_ASK_EVERY_S", raising=False)
    yield fleet
    poll._memory.cache_clear()


@pytest.fixture
def ran(monkeypatch):
    """The commands that were started; each of them says something and ends, unless a test lets it
    speak."""
    ran = []

    def run(self, printed):
        ran.append(list(self.words))
        self.output = f"{self.words[0]} it is\nnext:\n  cldctl logs mine -f\n"
        self.code = 0

    monkeypatch.setattr(Command, "_run", run)
    return ran
