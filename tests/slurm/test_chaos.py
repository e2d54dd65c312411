"""A minute of chaos on Slurm; `python -m tests.chaos` goes on for hours."""

import random

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.events import SLURM, named
from tests.chaos.shim import library
from tests.chaos.stage import stage

SEED = 3
EVENTS = (
    "EIO, some calls",
    "slurmctld down at a notice",
    "slurmctld down at a kill",
    "preempted, no grace",
)


@pytest.mark.by_hand
@pytest.mark.skipif(library() is None, reason="needs a C compiler")
def test_every_promise_is_kept(slurm):
    with stage(SEED, slurm) as place:
        assert Campaign(place, random.Random(SEED)).run(named(SLURM, EVENTS)) == [], (
            place.describe()
        )
