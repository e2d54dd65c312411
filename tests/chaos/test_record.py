"""Each promise that a campaign checks, broken on purpose in a scripted history."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cld_core.checkpoint.write import write
from cld_core.run import RunFolder
from cld_core.run.events import Damaged, Ended, Event, GivenUp, Started

from .record import Begun, Record, Row
from .watch import not_whole

pytestmark = pytest.mark.by_hand

DONE = {"state": "FINISHED", "step": 900, "steps": 900}


def started(attempt: int, step: int) -> Started:
    return Started(attempt=attempt, job_id="1", step=step, host="here", pid=1)


def ended(attempt: int, cause: Any, step: int) -> Ended:
    return Ended(attempt=attempt, cause=cause, step=step)


def row(name: str = "kill", **changes: Any) -> Row:
    usual = {"causes": ("crashed",), "before": 340, "after": 300, "found": ("crashed",)}
    return Row(name, **{**usual, **changes})


def healthy() -> Record:
    ledger: list[Event] = [started(0, 0), ended(0, "crashed", 340), started(1, 300), ended(1, "finished", 900)]
    return Record(
        100, rows=[row()], begun=[Begun(0, 0, 0), Begun(1, 300, 300)], writers=[0, 1], ledger=ledger, same=True,
        final=DONE,
    )  # fmt: skip


def test_a_history_in_which_nothing_is_broken() -> None:
    assert healthy().broken() == []


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("wrong cause", {"rows": [row(found=("node_failure",))]}, "the ledger says node_failure"),
    ("ended, was to survive", {"rows": [row(causes=(None,), found=("crashed",))]}, "the ledger says crashed"),
    ("survived, was to end", {"rows": [row(found=(None,))]}, "the ledger says None"),
    ("unexplained", {"rows": [row(causes=(None, "save_failed"), strict=True, found=("killed",))]}, "says killed"),
    ("many steps lost", {"rows": [row(before=520)]}, "220 steps were trained twice, from 300 to 520"),
    ("announced, yet lost", {"rows": [row(before=301, announced=True)]}, "1 steps were trained twice"),
    ("a checkpoint lost", {"begun": [Begun(1, 200, 300)]}, "attempt 1 began at 200, but 300 was saved"),
    ("two writers", {"writers": [0, 1, 0]}, "attempt 0 wrote its progress after attempt 1"),
    ("one number twice", {"ledger": [started(0, 0), started(0, 0)]}, "attempt 0 began after attempt 0"),
    (
        "a loser writes",
        {"ledger": [started(0, 0), started(1, 300), ended(0, "crashed", 340)]},
        "attempt 0 noted its end after attempt 1 had begun",
    ),
    ("damaged", {"ledger": [Damaged(step=300, reason="cut")]}, "the checkpoint of step 300 is damaged: cut"),
    ("given up", {"ledger": [GivenUp(reason="no requeue")]}, "the run was given up: no requeue"),
    ("a process", {"orphans": ["17 python"]}, "left behind: 17 python"),
    ("other numbers", {"same": False}, "the run ended with other numbers than its undisturbed twin"),
    ("not finished", {"final": {**DONE, "state": "LOST"}}, "the run did not finish"),
    ("not all steps", {"final": {**DONE, "step": 800}}, "the run did not finish"),
    ("seen meanwhile", {"noted": ["status took 31 s"]}, "status took 31 s"),
]


@pytest.mark.parametrize(("change", "problem"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_promise_is_reported(change: dict[str, Any], problem: str) -> None:
    (found,) = dataclasses.replace(healthy(), **change).broken()
    assert problem in found


def test_unknown_is_a_right_cause_where_nobody_could_know() -> None:
    assert dataclasses.replace(healthy(), rows=[row(found=("killed",))]).broken() == []


def test_a_damaged_checkpoint_with_a_sidecar_is_noticed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    for step in (10, 20):
        write(run, step, {"model": {"w": torch.zeros(8)}, "ema": {"updates": 1, "average": {"w": torch.ones(8)}}})
    assert not_whole(run) == []
    with run.checkpoint_file(10).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    run.checkpoint_file(20).unlink()
    assert [problem.split(":")[0].split("_")[-1] for problem in not_whole(run)] == ["00000010.pt", "00000020.pt"]
