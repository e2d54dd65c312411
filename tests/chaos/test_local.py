"""A minute of chaos without Slurm; `python -m tests.chaos --local` goes on for hours."""

import random

import pytest

from . import submitting
from .campaign import Campaign
from .events import LOCAL, named
from .shim import library
from .stage import stage

pytestmark = [
    pytest.mark.by_hand,
    pytest.mark.skipif(library() is None, reason="needs a C compiler"),
]
SEED = 5
EVENTS = ("full disk", "ESTALE, some calls", "clock -1 h", "two resumes at once")


@pytest.fixture
def place():
    with stage(SEED) as place:
        yield place


def test_every_promise_is_kept(place):
    assert Campaign(place, random.Random(SEED)).run(named(LOCAL, EVENTS)) == [], place.describe()


def test_a_submission_may_die_at_any_write(place):
    """Some of them: within the folder, around the ledger's lines, and at the last one."""
    last = submitting.count(place)
    assert last > 20
    chosen = [*random.Random(SEED).sample(range(1, last), 2), last]
    assert submitting.sweep(place, chosen) == []
