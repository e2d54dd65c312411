"""Attempts of a run in this process: their starts, their lines in the ledger, and damage."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from cld_core import cpu
from cld_core.checkpoint import Writer, read_tensors
from cld_core.checkpoint import load as load_checkpoint
from cld_core.errors import (
    CheckpointError,
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    NotFoundError,
    SaveError,
)
from cld_core.files import read_object, write_json
from cld_core.run import Lease
from cld_core.run.checkpoints import StoredAverages, sidecar_of, usable, verify
from cld_core.run.lease import newest
from cld_core.stop import StopCode, StopFlag
from cld_core.train import loggers, session
from cld_core.train.step import Trainer
from tests.cld_core.train.conftest import at_step, attempt, remarks
from tests.support.clock import Clock
from tests.support.failing import FULL_DISK
from tests.support.made_up import note, requested, run_with, started, vouch
from tests.support.tools import same, signal_handlers, wait_for


def stop_at(step, monkeypatch, code=StopCode.USR2):
    """A flag that is set while optimiser step ``step`` is computed."""
    flag = StopFlag()
    at_step(monkeypatch, step, lambda: flag.request(code))
    return flag


def attempts(run):
    return run.ledger.history().attempts


def first_steps(run):
    return [entry.first_step for entry in attempts(run)]


def causes(run):
    return [entry.cause for entry in attempts(run)]


@pytest.mark.parametrize(
    "more", [(), ("data.labels=true", "train.ema_every=4", "train.ema_lengths=[0.05,0.1]")]
)
def test_a_stopped_and_resumed_run_in_exact_mode_ends_bit_identical(make, monkeypatch, more):
    whole, parts = (make("train.on_resume=exact", *more, name=name) for name in ("whole", "parts"))
    attempt(whole)
    for step in (3, 17, 24):
        # The flag is exchanged at the start of a step, so a signal during it counts at the next.
        assert attempt(parts, stop_at(step, monkeypatch)) == ("terminated", step + 2)
        assert parts.checkpoint_steps()[-1] == step + 2
        monkeypatch.undo()
    assert attempt(parts) == ("finished", 40)
    assert same(load_checkpoint(whole, 40), load_checkpoint(parts, 40))
    steps = list(range(4, 41, 4)) if more else []
    assert whole.snapshot_steps() == parts.snapshot_steps() == steps
    for step in steps:
        assert same(*(read_tensors(run.snapshot_file(step)) for run in (whole, parts)))
    assert causes(parts) == ["terminated"] * 3 + ["finished"]


@pytest.fixture
def pauses(monkeypatch):
    """Lets minutes pass on a made-up clock during steps; and the steps that are saved, at once."""
    saved = []
    clock = Clock()
    save = Writer.save

    def saving(self, step, state):
        saved.append(step)
        save(self, step, state)
        self.wait(60.0)

    def pause(minutes):
        for step, number in minutes.items():
            at_step(monkeypatch, step, partial(clock.sleep, 60.0 * number))

    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(Writer, "save", saving)
    return pause, saved


def test_minutes_without_a_save_lead_to_one_which_changes_no_bit(make, pauses):
    pause, saved = pauses
    # The save of step 20 lies between the last two.
    pause({3: 9.0, 4: 1.0, 16: 6.0, 24: 6.0})
    whole = make("train.on_resume=exact", "train.checkpoint_minutes=null", name="whole")
    killed = make("train.on_resume=exact", name="killed")
    attempt(whole)
    assert saved == [10, 20, 30, 40]
    saved.clear()
    # As a signal, the time is looked at when a step begins.
    crash(killed, 8)
    attempt(killed)
    assert first_steps(killed) == [0, 6]
    assert saved == [6, 10, 20, 30, 40]
    assert same(*(load_checkpoint(run, 40) for run in (whole, killed)))
    assert killed.checkpoint_steps() == [20, 30, 40]


@pytest.mark.parametrize(("mode", "target"), [("reseed", 15), ("exact", 10)])
def test_in_exact_mode_a_rollback_does_not_depend_on_time(make, pauses, monkeypatch, mode, target):
    pauses[0]({13: 10.0})
    run = make(f"train.on_resume={mode}", "train.max_rollbacks=0", "train.log_every=1")
    at_step(monkeypatch, 18, Mock(side_effect=NonFiniteError("it explodes")))
    with pytest.raises(NonFiniteError, match=f"0 rollbacks to step {target}"):
        attempt(run)


def test_reseeded_attempts_have_fresh_noise_and_the_loss_no_jump(make, monkeypatch):
    """The mean losses before and after an interruption agree to the noise of a mean."""
    settings = ("train.steps=600", "train.log_every=1", "train.batch_size=64")
    run = make(*settings, "train.checkpoint_every=300")
    losses = []
    keys = []
    take = Trainer.take_scalars

    def taking(self):
        scalars = take(self)
        losses.append(scalars["loss"])
        keys.append(self._key)
        return scalars

    monkeypatch.setattr(Trainer, "take_scalars", taking)
    with monkeypatch.context() as patched:
        assert attempt(run, stop_at(399, patched)) == ("terminated", 401)
    attempt(run)
    assert len(losses) == 600
    assert {key[1] for key in keys[:401]} == {0}
    assert {key[1] for key in keys[401:]} == {1}
    before = torch.tensor(losses[301:401])
    after = torch.tensor(losses[401:501])
    scatter = (before.var() / 100 + after.var() / 100).sqrt()
    assert abs(float(before.mean() - after.mean())) < 4 * float(scatter)


def test_a_finished_run_ends_at_once_and_goes_on_with_more_steps(make):
    run = make()
    attempt(run)
    assert attempt(run) == ("finished", 40)
    assert causes(run) == ["finished"], "nothing was done, so there is no attempt"
    assert run.ledger.events()[-1].why == "finished"
    note(run, requested(50, "train.steps=50"))
    assert attempt(run) == ("finished", 50)
    assert first_steps(run) == [0, 40]


def test_a_damaged_newest_checkpoint_is_reported_and_the_run_goes_on_from_the_one_before(
    make, capsys
):
    run = make()
    attempt(run)
    path = run.checkpoint_file(40)
    path.write_bytes(path.read_bytes()[:100])
    attempt(run)
    assert [what for what, *_ in remarks(run)] == ["step 40"]
    assert "skipped the checkpoint of step 40" in capsys.readouterr().out
    assert first_steps(run) == [0, 30]
    verify(run, 40)


def test_without_an_intact_checkpoint_it_does_not_start_over_unasked(make):
    run = make()
    attempt(run)
    for step in run.checkpoint_steps():
        run.checkpoint_file(step).unlink()
    words = "none of its 3 checkpoints is intact.*submit the recipe again"
    with pytest.raises(CheckpointError, match=words):
        attempt(run)


def test_a_folder_that_a_live_job_holds(make):
    run = make()
    lease = Lease.acquire(run.leases, job_id="other")
    with pytest.raises(LeaseHeldError, match="job other"):
        attempt(run)
    assert run.ledger.events()[-1].why == "held"
    command = [sys.executable, "-m", "cld_core.train", str(run.path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "is alive and writes into this run" in refused.stderr
    lease.release()
    assert attempt(run)[0] == "finished"


def test_an_owner_that_lost_the_run_ends_without_writing(make, monkeypatch):
    run = make("train.steps=100000")
    seen = {}

    def files():
        kept = [*run.checkpoints.glob("*"), run.progress_file, run.ledger.path]
        return {path.name: path.read_bytes() for path in kept}

    def steal():
        # The last checkpoint is still being written in the background.
        wait_for(lambda: 10 in run.checkpoint_steps() and not any(run.checkpoints.glob(".*")))
        number, holder = newest(run.leases)
        thief = {**holder, "job_id": "thief", "host": "elsewhere"}
        write_json(run.leases / f"{number + 1:08d}.json", thief)
        seen.update(files())

    at_step(monkeypatch, 15, steal)
    with pytest.raises(LeaseLostError, match="job thief on elsewhere has taken over this run"):
        attempt(run)
    assert files() == seen
    assert newest(run.leases)[1]["job_id"] == "thief"


def test_a_save_that_fails_ends_the_attempt_and_is_the_cause(make, monkeypatch):
    run = make("train.steps=100000")
    monkeypatch.setattr(torch, "save", Mock(side_effect=FULL_DISK))
    monkeypatch.setattr("cld_core.checkpoint._GIVE_UP_S", -1.0)
    with pytest.raises(SaveError, match="no space left on the disk"):
        attempt(run)
    assert causes(run) == ["save_failed"]
    assert attempts(run)[-1].last_step == run.recipe().train.checkpoint_every, (
        "the step that was not saved was reached"
    )
    assert run.progress()["step"] < 1000, "it ends soon after the failed save, not with the run"
    monkeypatch.undo()
    note(run, requested(20, "train.steps=20"))
    assert attempt(run) == ("finished", 20)


@pytest.mark.parametrize(
    ("error", "bug"), [(ZeroDivisionError("by zero"), True), (RuntimeError("device lost"), False)]
)
def test_a_crash_is_a_bug_unless_the_machine_may_be_to_blame(make, monkeypatch, error, bug):
    run = make()
    monkeypatch.setattr(Trainer, "step", Mock(side_effect=error))
    with pytest.raises(type(error)):
        attempt(run)
    last = attempts(run)[-1]
    detail = f"{type(error).__name__}: {error}"
    assert (last.cause, last.detail, last.bug) == ("crashed", detail, bug)


def test_resuming_from_a_chosen_step_sets_the_later_checkpoints_aside(make, capsys):
    run = make()
    attempt(run)
    note(run, requested(40, from_step=30))
    attempt(run)
    assert "set aside the checkpoints of steps 40" in capsys.readouterr().out
    assert first_steps(run) == [0, 30]
    assert run.ledger.history().from_step is None, "the request is met"


def test_a_step_without_a_checkpoint_cannot_be_resumed_from(make):
    run = make()
    attempt(run)
    note(run, requested(40, from_step=7))
    with pytest.raises(NotFoundError, match="no checkpoint of step 7"):
        attempt(run, job_id="again")
    assert "no checkpoint of step 7" in run.ledger.history().not_begun["again"]


def test_an_attempt_notes_where_its_own_notices_begin(make, tmp_path):
    run = make("train.steps=5")
    log = tmp_path / "log.err"
    log.write_text("an earlier start")
    attempt(run, restart=1, log=log)
    assert [(entry.restart, entry.log_offset) for entry in attempts(run)] == [(1, 16)]


@pytest.mark.parametrize(("reported", "reached"), [(3, 10), (17, 17)])
def test_the_last_step_of_a_silent_attempt_is_at_least_that_of_its_newest_checkpoint(
    make, reported, reached
):
    """Reports are written once a second, checkpoints when they are due."""
    run = make("train.steps=10")
    attempt(run)
    lines = run.ledger.path.read_text().splitlines(keepends=True)
    assert '"ended"' in lines[-1]
    run.ledger.path.write_text("".join(lines[:-1]))
    write_json(run.progress_file, {"attempt": 0, "step": reported, "steps": 20, "time": 1234.5})
    note(run, requested(20, "train.steps=20"))
    attempt(run)
    silent, last = attempts(run)
    assert (silent.cause, silent.last_step, silent.ended) == ("killed", reached, 1234.5)
    assert (last.first_step, last.last_step) == (10, 20)


def test_a_precision_that_the_processor_emulates_is_a_warning_of_the_attempt(
    make, monkeypatch, capsys
):
    monkeypatch.setattr(cpu, "emulates", lambda precision: precision == "bf16")
    run = make("train.precision=bf16", "train.steps=5")
    attempt(run)
    assert "emulated" in attempts(run)[0].warning
    assert "warning: train.precision=bf16 is emulated" in capsys.readouterr().out


def test_progress_and_tensorboard(make):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make()
    attempt(run)
    progress = read_object(run.progress_file)
    assert (progress["step"], progress["steps"], progress["attempt"]) == (40, 40, 0)
    assert progress["loss"] > 0
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    assert [point.step for point in board.Scalars("train/loss")] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert {"train/grad_norm", "train/lr", "train/steps_per_s"} <= set(board.Tags()["scalars"])
    assert [point.step for point in board.Scalars("train/first_step_s")] == [1]


def test_a_training_tells_what_it_does(make, monkeypatch):
    """On a slow disk, where it waits for its saves."""
    phases = []
    write = loggers.write_json

    def noted(path, content):
        if content["phase"] not in phases[-1:]:
            phases.append(content["phase"])
        write(path, content)

    monkeypatch.setattr(loggers, "write_json", noted)
    monkeypatch.setattr(Writer, "is_busy", True)
    few = ("periodic.samples=4", "periodic.elbo_points=4", "sampling.method=em", "sampling.nfe=2")
    few += ("eval.elbo.rtol=0.05", "eval.elbo.atol=0.05")
    run = make(
        "train.steps=8",
        "train.checkpoint_every=8",
        "periodic.samples_every=4",
        "periodic.elbo_every=8",
        *few,
    )
    attempt(run)
    first = ["starting", "training", "drawing samples", "training", "saving", "training"]
    assert phases == [*first, "drawing samples", "evaluating", "training", "saving"]


def test_a_rank_without_progress_shows_its_stacks_and_ends(tmp_path):
    code = "import time; from cld_core.train.health import Watchdog; Watchdog(0.3); time.sleep(600)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "line 1 in <module>" in done.stderr


def test_handlers_set_the_flag():
    with signal_handlers():
        flag = StopFlag().listen()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert flag.code is StopCode.USR2
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.code is StopCode.TERM


@pytest.fixture
def run(tmp_path):
    run = run_with(tmp_path / "mine", 10, 20)
    for step in (10, 20):
        vouch(run, step, model=run.recipe().model_digest())
    return run


@pytest.mark.parametrize("failing", ["listdir", "open"])
def test_checkpoints_that_cannot_be_read_are_neither_missing_nor_damaged(run, monkeypatch, failing):
    """The run would begin again at step 0, or at an earlier one, and set them aside."""
    real = getattr(os, failing)

    def stale(path, *arguments, **options):
        if failing == "open" and not str(path).endswith("step_00000020.json"):
            return real(path, *arguments, **options)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, stale)
        with pytest.raises(OSError, match="Stale"):
            session.choose(run, run.recipe())
    assert session.choose(run, run.recipe())[1] == 20
    assert run.checkpoint_steps() == [10, 20]


def test_an_empty_folder_that_a_copy_left_out(tmp_path):
    run = run_with(tmp_path / "new")
    run.checkpoints.rmdir()
    assert session.choose(run, run.recipe())[1] is None
    assert run.checkpoints.is_dir()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_run_whose_end_is_not_in_its_ledger_is_finished_when_it_starts_again(tmp_path, is_killed):
    run = run_with(tmp_path / "mine", 10, overrides=("train.steps=10",))
    vouch(run, 10, model=run.recipe().model_digest())
    if is_killed:
        note(run, started(job_id="1"))
    assert attempt(run) == ("finished", 10)
    assert run.ledger.history().state == "FINISHED"
    assert causes(run) == ["killed"] * is_killed + ["finished"]


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


def test_lengths_that_are_added_begin_where_the_run_continues(make, capsys):
    run = make("train.steps=20")
    attempt(run)
    longer = ("train.steps=40", "train.ema_lengths=[0.1]", "train.ema_every=4")
    note(run, requested(40, *longer))
    attempt(run)
    assert "the power-function averages begin at step 20" in capsys.readouterr().out
    assert sidecar_of(run.checkpoint_file(40)).averages == StoredAverages((0.1,), 20, 20)
    assert [one.step for one in usable(run, 40)] == [24, 28, 32, 36, 40]


def test_what_a_crash_or_a_request_gives_up_is_set_aside(make):
    run = make(*KEPT)
    crash(run, 19)
    # Each kind has a writer of its own.
    wait_for(lambda: run.snapshot_steps() == [4, 8, 12, 16] and run.checkpoint_steps() == [10])
    crash(run, 11)
    assert run.snapshot_steps() == [4, 8]
    aside = {path.stem for path in (run.averages / "set_aside").iterdir()}
    assert aside == {"step_00000012", "step_00000016"}
    attempt(run)
    note(run, requested(40, from_step=20))
    crash(run, 20)
    assert run.snapshot_steps() == [4, 8, 12, 16, 20]


def test_a_rollback_sets_aside_what_it_gives_up(make, monkeypatch):
    run = make(*KEPT, "train.max_rollbacks=1", "train.log_every=1")
    original = Trainer._backward
    seen = []

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


def test_a_rank_that_fails_with_its_peers_names_the_command_that_shows_their_output():
    message = session._message(RuntimeError("[gloo] Connection closed by peer"), "mine")
    assert message.startswith("another rank is gone")
    assert "`cldctl logs mine --rank N`" in message
