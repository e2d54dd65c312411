"""Ledgers that earlier versions wrote fold to the same histories."""

import json
from pathlib import Path

import pytest

from cld_core.run.history import History
from cld_core.run.ledger import parse

# Written and folded by the code of 30 November 2026 (commit 3e6daefb).
LEDGERS = json.loads((Path(__file__).parents[2] / "fixtures/ledgers.json").read_text())


def summary(history):
    """What readers ask of a history, as JSON has it."""
    attempts = [
        [
            attempt.attempt,
            attempt.job_id,
            attempt.cause,
            attempt.first_step,
            attempt.last_step,
            attempt.started,
            attempt.ended,
            attempt.detail,
        ]
        for attempt in history.attempts
    ]
    return {
        "attempts": attempts,
        "state": history.state,
        "jobs": [event.job.job_id for event in history.jobs],
        "steps": history.steps,
        "overrides": list(history.overrides),
        "from_step": history.from_step,
        "code": history.code,
        "crashes_in_a_row": history.crashes_in_a_row,
        "crashes": dict(history.crashes),
        "cancelled": sorted(history.cancelled),
        "given_up": history.given_up,
        "not_requeued": history.not_requeued,
        "avoided": {job: list(nodes) for job, nodes in sorted(history.avoided.items())},
        "rolled_back_to": list(history.rolled_back_to),
        "unfit": len(history.unfit),
        "tags": list(history.tags),
        "note": history.note,
    }


@pytest.mark.parametrize("number", range(len(LEDGERS)))
def test_a_ledger_of_an_earlier_version_folds_as_it_did(number):
    lines = LEDGERS[number]["lines"]
    assert summary(History.of(map(parse, lines))) == LEDGERS[number]["history"]
