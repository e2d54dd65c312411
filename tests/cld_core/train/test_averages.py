"""Power-function averages in trainings: what is stored, and what a continuation does."""

from unittest.mock import Mock

import pytest
import torch

from cld_core.checkpoint import load as load_checkpoint
from cld_core.checkpoint import read_tensors
from cld_core.errors import NonFiniteError
from cld_core.run import events
from cld_core.run.checkpoints import StoredAverages, sidecar_of, usable
from cld_core.train.step import Trainer
from tests.cld_core.train.conftest import at_step, attempt
from tests.support.tools import same, wait_for

KEPT = ("train.ema_every=4", "train.ema_lengths=[0.05,0.1]")


def crash(run, step):
    """An attempt that crashes while it computes a step."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, Mock(side_effect=MemoryError("no more")))
        with pytest.raises(MemoryError):
            attempt(run)


def test_snapshots_are_the_averages_of_their_steps_and_outlive_checkpoints(make):
    run = make(*KEPT, "train.keep=1")
    attempt(run)
    assert run.snapshot_steps() == list(range(4, 41, 4))
    assert run.checkpoint_steps() == [40]
    assert same(read_tensors(run.snapshot_file(40))["power"], load_checkpoint(run, 40)["power"])
    assert sidecar_of(run.checkpoint_file(40)).averages == StoredAverages((0.05, 0.1), 0, 40)
    assert [one.step for one in usable(run, 40)] == [*range(4, 40, 4), 40]


def test_lengths_that_are_added_or_changed_begin_where_the_run_continues(make, capsys):
    run = make("train.steps=20")
    attempt(run)
    longer = ("train.steps=40", "train.ema_lengths=[0.1]", "train.ema_every=4")
    run.ledger.append(events.Requested(steps=40, overrides=longer))
    attempt(run)
    assert "the power-function averages begin at step 20" in capsys.readouterr().out
    assert sidecar_of(run.checkpoint_file(40)).averages == StoredAverages((0.1,), 20, 20)
    assert [one.step for one in usable(run, 40)] == [24, 28, 32, 36, 40]
    run.ledger.append(events.Requested(steps=50, overrides=("train.steps=50", "train.ema_lengths=[0.1,0.2]")))
    attempt(run)
    assert sidecar_of(run.checkpoint_file(50)).averages == StoredAverages((0.1, 0.2), 40, 10)
    assert [one.step for one in usable(run, 50)] == [44, 48, 50]


def test_what_a_crash_or_a_request_gives_up_is_set_aside(make):
    run = make(*KEPT)

    crash(run, 19)
    wait_for(lambda: run.snapshot_steps() == [4, 8, 12, 16])
    assert run.checkpoint_steps() == [10]
    crash(run, 11)
    assert run.snapshot_steps() == [4, 8]
    assert {path.stem for path in (run.averages / "set_aside").iterdir()} == {"step_00000012", "step_00000016"}
    attempt(run)
    run.ledger.append(events.Requested(steps=40, from_step=20))
    crash(run, 20)
    assert run.snapshot_steps() == [4, 8, 12, 16, 20]


def test_a_rollback_sets_aside_what_it_gives_up(make, monkeypatch):
    run, original, seen = make(*KEPT, "train.max_rollbacks=1", "train.log_every=1"), Trainer._backward, []

    def poisoned(self, step):
        loss = original(self, step)
        if step == 18:
            next(self.net.parameters()).grad.fill_(torch.nan)
        if step == 10:
            seen.append(run.snapshot_steps())
        return loss

    monkeypatch.setattr(Trainer, "_backward", poisoned)
    with pytest.raises(NonFiniteError, match="1 rollbacks to step 10"):
        attempt(run)
    assert seen[1] == [4, 8], "what was stored at 12 and 16 belongs to another trajectory"
    assert (run.averages / "set_aside" / "step_00000012.pt").exists()
