"""Checkpoints are written in the background, and whole or not at all."""

import errno
import itertools
import os
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.testing import assert_close

from cld_core import checkpoint as writing
from cld_core.checkpoint import KINDS, averaged_weights, checkpoints, files, write
from cld_core.checkpoint import load as load_checkpoint
from cld_core.errors import CheckpointError, LeaseLostError, SaveError
from cld_core.files import read_object, write_json
from tests.support.failing import Failing
from tests.support.made_up import run_with
from tests.support.tools import small_disk


def state(value=1.0):
    """A state whose averaged weights are half of the others; ``fixed`` is not trained."""
    return {
        "model": {"w": torch.full((100,), value), "fixed": torch.ones(2)},
        "ema": {"updates": 3, "average": {"w": torch.full((100,), value / 2)}},
        "nested": [{"a": torch.ones(3)}],
        "model_digest": "abc",
    }


def fill(run, *steps):
    for step in steps:
        write(run, step, state(step))


def test_what_was_saved_is_loaded(run):
    fill(run, 10)
    loaded = load_checkpoint(run, 10, model_digest="abc")
    assert torch.equal(loaded["model"]["w"], torch.full((100,), 10.0))
    assert loaded["step"] == 10
    assert (loaded["ema"]["updates"], list(loaded["ema"]["average"])) == (3, ["w"])
    assert torch.equal(loaded["ema"]["average"]["w"], torch.full((100,), 5.0))
    stored = torch.load(run.checkpoint_file(10), weights_only=True)
    assert "average" not in stored["ema"], "it is stored once"
    tensors = averaged_weights(run, 10).tensors
    assert sorted(tensors) == ["fixed", "w"], "all that a network has"
    sidecar = files.sidecar_of(run.checkpoint_file(10))
    assert sidecar.state.bytes == run.checkpoint_file(10).stat().st_size
    assert sidecar.weights.bytes == files.weights_file(run, 10).stat().st_size
    assert sidecar.seconds == files.slowest_save_s(run)


def test_a_state_may_change_once_it_is_being_saved(run):
    writer, content = checkpoints(run, keep=3), state(1.0)
    writer.save(5, content)
    content["model"]["w"].zero_()
    writer.save(6, content)
    writer.wait()
    assert [load_checkpoint(run, step)["model"]["w"][0] for step in (5, 6)] == [1.0, 0.0]


def test_saving_waits_for_the_save_before_it_only(run):
    gate = threading.Event()
    writer = checkpoints(run, keep=3, check_owner=lambda: gate.wait(10) and None)
    writer.save(1, state())
    assert run.checkpoint_steps() == []
    second = threading.Thread(target=writer.save, args=(2, state()))
    second.start()
    second.join(0.1)
    assert second.is_alive(), "a second write must not be in flight with the first"
    gate.set()
    second.join()
    writer.wait()
    assert run.checkpoint_steps() == [1, 2]


def test_the_last_k_and_the_milestones_are_kept(run):
    writer = checkpoints(run, keep=2, milestone=lambda step: step == 20)
    for step in (10, 20, 30, 40, 50):
        writer.save(step, state())
    writer.wait()
    assert run.checkpoint_steps() == [20, 40, 50]
    kept = {path.name.partition(".")[0] for path in run.checkpoints.iterdir()}
    assert kept == {f"step_{step:08d}" for step in (20, 40, 50)}


def test_an_owner_that_lost_the_lease_writes_nothing(run):
    writer = checkpoints(run, keep=2, check_owner=Mock(side_effect=LeaseLostError("taken over")))
    writer.save(10, state())
    with pytest.raises(LeaseLostError):
        writer.wait()
    assert list(run.checkpoints.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_the_earlier_checkpoints(tmp_path):
    with small_disk(tmp_path, megabytes=1):
        run = run_with(tmp_path / "mine")
        writer = checkpoints(run, keep=3)
        writer.save(1, state())
        writer.save(2, {**state(), "more": torch.zeros(1_000_000)})
        with pytest.raises(SaveError, match=r"step_00000002.*no space left.*cldctl resume"):
            writer.wait()
        assert run.checkpoint_steps() == [1]
        assert {name.split(".")[0] for name in os.listdir(run.checkpoints)} == {"step_00000001"}
        assert files.newest_good(run) == (1, [])
        writer.save(3, state())
        writer.wait()
        assert run.checkpoint_steps() == [1, 3]


@pytest.fixture
def failing_disk(monkeypatch):
    """Let `torch.save` fail at some calls."""

    def let(fails, error=errno.ENOSPC):
        monkeypatch.setattr(writing, "pauses", lambda **options: itertools.repeat(0.01))
        disk = Failing(torch.save, fails, OSError(error, os.strerror(error)))
        monkeypatch.setattr(torch, "save", disk)
        return disk

    return let


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN]
)
def test_a_save_is_repeated_until_the_disk_takes_it(run, failing_disk, capsys, error):
    disk = failing_disk(lambda call: call <= 5, error)
    writer = checkpoints(run, keep=3)
    writer.save(1, state())
    writer.wait(within_s=300)
    assert files.newest_good(run) == (1, [])
    assert disk.calls == 6
    assert capsys.readouterr().out.splitlines() == [
        f"the checkpoint of step 1 cannot be written yet ({os.strerror(error)}); trying again",
        "the checkpoint of step 1 is written: the disk takes checkpoints again",
    ]


def test_training_goes_on_while_a_save_is_repeated_and_the_next_one_takes_its_place(
    run, failing_disk, capsys
):
    disk_is_free = threading.Event()
    disk = failing_disk(lambda call: not disk_is_free.is_set())
    writer = checkpoints(run, keep=3)
    writer.save(1, state(1.0))
    while disk.calls < 3:
        time.sleep(0.01)
    assert not writer.failed
    writer.save(2, state(2.0))
    assert "the checkpoint of step 1 was not written" in capsys.readouterr().out
    disk_is_free.set()
    writer.wait(within_s=300)
    assert run.checkpoint_steps() == [2]
    assert torch.equal(load_checkpoint(run, 2)["model"]["w"], torch.full((100,), 2.0))


def test_a_file_that_is_written_again_has_no_sidecar_meanwhile(run, monkeypatch):
    """A process that is killed between two files leaves no sidecar of another file."""
    fill(run, 10)
    monkeypatch.setattr(writing, "write_json", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        writing.write(run, 10, state(2.0))
    assert files.weights_file(run, 10).exists()
    assert run.checkpoint_steps() == []


def test_tensors_of_every_kind_that_a_network_may_hold_come_back(run):
    ones = {str(kind): torch.ones(3, dtype=kind) for kind in KINDS}
    model = {**ones, "scalar": torch.tensor(2.0), "none": torch.zeros(0, 2)}
    writing.write(run, 10, {**state(), "model": model})
    tensors = averaged_weights(run, 10).tensors
    for name, tensor in model.items():
        assert_close(tensors[name], tensor, rtol=0, atol=0)


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def of_another_version(sidecar):
    write_json(sidecar, {**read_object(sidecar), "format": 99})


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "truncated"),
        (flip, "damaged"),
        (Path.unlink, "missing, though its sidecar"),
        (lambda path: path.with_suffix(".json").unlink(), "sidecar"),
        (lambda path: path.with_suffix(".json").write_text("{"), "sidecar"),
        (lambda path: of_another_version(path.with_suffix(".json")), "format version 99"),
    ],
)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(run, damage, words):
    fill(run, 10, 20)
    damage(run.checkpoint_file(20))
    step, (damaged,) = files.newest_good(run, "abc")
    assert (step, damaged.step) == (10, 20)
    assert words in damaged.reason
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(run, 20)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_training_needs_the_averaged_weights_and_sampling_nothing_else(run, damage, caplog):
    fill(run, 10, 20, 30)
    damage(files.weights_file(run, 30))
    damage(run.checkpoint_file(20))
    step, damaged = files.newest_good(run, "abc")
    assert (step, [entry.step for entry in damaged]) == (10, [30, 20])
    assert files.weights_file(run, 30).name in damaged[0].reason
    assert files.pick_checkpoint(run, "abc", "last") == files.pick_checkpoint(run, "abc", 20) == 20
    assert caplog.messages[0].startswith("skipped the checkpoint of step 30")
    with pytest.raises(CheckpointError):
        files.pick_checkpoint(run, "abc", 30)
    with pytest.raises(CheckpointError):
        files.verify(run, 20)


def test_a_checkpoint_is_what_its_averaged_weights_are(run):
    fill(run, 10)
    digest = files.weights_digest(run, 10)
    fill(run, 10)
    assert files.weights_digest(run, 10) == digest
    fill(run, 20)
    assert files.weights_digest(run, 20) not in (digest, None)
    assert files.weights_digest(run, 30) is None


def test_a_checkpoint_of_another_recipe_is_refused_not_skipped(run):
    fill(run, 10)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        files.newest_good(run, "another")


def test_a_write_that_was_killed_leaves_nothing_usable(run):
    fill(run, 10)
    (run.checkpoints / ".step_00000020.pt.1.tmp").write_bytes(b"half")
    run.checkpoint_file(30).write_bytes(b"complete, but its sidecar was never written")
    step, (damaged,) = files.newest_good(run)
    assert (step, damaged.step) == (10, 30)


def test_regular_checkpoints_stay_before_others(run):
    """Multiples of 10, and those that were saved between them."""
    fill(run, 3, 5, 8)
    kept = []
    for step in (10, 14, 20, 25, 30):
        fill(run, step)
        files.prune(run, keep=2, regular=lambda step: step % 10 == 0)
        kept.append(run.checkpoint_steps())
    assert kept == [[8, 10], [10, 14], [10, 20], [10, 20, 25], [20, 30]]


def test_a_checkpoint_that_an_evaluation_waits_for_is_kept(run):
    fill(run, 10, 20, 30)
    for step, done in ((10, False), (20, True)):
        folder = run.evals / f"elbo-{step}"
        folder.mkdir()
        write_json(folder / "request.json", {"checkpoint_step": step})
        if done:
            write_json(folder / "report.json", {})
    for step in (10, 20):
        files.weights_file(run, step, 0.1).touch()
    files.prune(run, keep=1)
    assert run.checkpoint_steps() == [10, 30]
    assert files.weights_file(run, 10, 0.1).exists()
    assert not list(run.checkpoints.glob("step_00000020*"))
