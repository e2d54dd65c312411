"""Ledgers that earlier versions wrote fold to the same histories."""

import json
from pathlib import Path

import pytest

from cld_core.run.history import History
from cld_core.run.ledger import parse

# Written and folded by the code of 30 November 2026 (commit 3e6daefb).
LEDGERS = json.loads((Path(__file__).parents[2] / "fixtures/ledgers.json").read_text())


ATTEMPT = ["attempt", "job_id", "cause", "first_step", "last_step", "started", "ended", "detail"]
PLAIN = [
    "state",
    "steps",
    "from_step",
    "code",
    "crashes_in_a_row",
    "given_up",
    "not_requeued",
    "note",
]
LISTS = ("overrides", "rolled_back_to", "tags")


def summary(history):
    """What readers take from a history, as JSON has it."""
    return {
        **{name: getattr(history, name) for name in PLAIN},
        **{name: list(getattr(history, name)) for name in LISTS},
        "attempts": [[getattr(one, name) for name in ATTEMPT] for one in history.attempts],
        "jobs": [event.job.job_id for event in history.jobs],
        "crashes": dict(history.crashes),
        "cancelled": sorted(history.cancelled),
        "avoided": {job: list(nodes) for job, nodes in sorted(history.avoided.items())},
        "unfit": len(history.unfit),
    }


@pytest.mark.parametrize("number", range(len(LEDGERS)))
def test_a_ledger_of_an_earlier_version_folds_as_it_did(number):
    lines = LEDGERS[number]["lines"]
    assert summary(History.of(map(parse, lines))) == LEDGERS[number]["history"]
