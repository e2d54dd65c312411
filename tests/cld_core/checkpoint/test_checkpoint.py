"""Checkpoints: written behind the training, whole or not at all, and never believed unchecked."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from cld_core import checkpoint
from cld_core.errors import CheckpointError, LeaseLostError, NotFoundError, SaveError
from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def state(value: float = 1.0) -> dict:
    return {"model": {"w": torch.full((100,), value)}, "nested": [{"a": torch.ones(3)}], "model_digest": "abc"}


def fill(run: RunFolder, *steps: int) -> None:
    for step in steps:
        checkpoint.write(run, step, state(step))


def test_what_was_saved_is_loaded(run):
    fill(run, 10)
    loaded = checkpoint.load(run, 10, model_digest="abc")
    assert torch.equal(loaded["model"]["w"], torch.full((100,), 10.0))
    assert loaded["step"] == 10
    sidecar = json.loads(run.checkpoint_file(10).with_suffix(".json").read_text())
    assert sidecar["bytes"] == run.checkpoint_file(10).stat().st_size


def test_the_snapshot_is_of_the_moment_of_the_call(run):
    writer = checkpoint.CheckpointWriter(run, keep=3)
    content = state(1.0)
    writer.save(5, content)
    content["model"]["w"].zero_()
    writer.save(6, content)
    writer.wait()
    assert checkpoint.load(run, 5)["model"]["w"][0] == 1.0
    assert checkpoint.load(run, 6)["model"]["w"][0] == 0.0


def test_a_state_that_is_held_still_is_copied_behind_until_settled(run, monkeypatch):
    gate, copy = threading.Event(), checkpoint._copy
    monkeypatch.setattr(checkpoint, "_copy", lambda pairs: (gate.wait(10), copy(pairs)))
    writer = checkpoint.CheckpointWriter(run, keep=3)
    content = {"w": torch.ones(4)}
    writer.save(5, content, held_still=True)
    assert not writer._copied.is_set()
    gate.set()
    writer.settled()
    content["w"].zero_()
    writer.wait()
    assert torch.equal(checkpoint.load(run, 5)["w"], torch.ones(4))


def test_saving_does_not_wait_for_the_disk_but_for_the_save_before(run):
    gate = threading.Event()
    writer = checkpoint.CheckpointWriter(run, keep=3, check_owner=lambda: gate.wait(10) and None)
    writer.save(1, state())
    assert run.checkpoint_steps() == []
    second = threading.Thread(target=writer.save, args=(2, state()))
    second.start()
    time.sleep(0.1)
    assert second.is_alive(), "a second write must not be in flight with the first"
    gate.set()
    second.join()
    writer.wait()
    assert run.checkpoint_steps() == [1, 2]


def test_the_last_k_and_the_milestones_are_kept(run):
    writer = checkpoint.CheckpointWriter(run, keep=2, milestone=lambda step: step == 20)
    for step in (10, 20, 30, 40, 50):
        writer.save(step, state())
    writer.wait()
    assert run.checkpoint_steps() == [20, 40, 50]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == sorted(
        f"step_{step:08d}.{suffix}" for step in (20, 40, 50) for suffix in ("pt", "json")
    )


def test_an_owner_that_lost_the_lease_writes_nothing(run):
    def lost():
        raise LeaseLostError("taken over")

    writer = checkpoint.CheckpointWriter(run, keep=2, check_owner=lost)
    writer.save(10, state())
    with pytest.raises(LeaseLostError):
        writer.wait()
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_said_and_leaves_the_earlier_checkpoints(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        run = RunFolder.create(small / "mine", load(TOY), {"created": 1.0})
        writer = checkpoint.CheckpointWriter(run, keep=3)
        writer.save(1, state())
        writer.save(2, {"model": {"w": torch.zeros(1_000_000)}})
        with pytest.raises(SaveError, match=r"step_00000002.*no space left.*cldctl resume"):
            writer.wait()
        assert run.checkpoint_steps() == [1]
        assert sorted(os.listdir(run.checkpoints)) == ["step_00000001.json", "step_00000001.pt"]
        assert checkpoint.newest_good(run) == (1, [])
        writer.save(3, state())
        writer.wait()
        assert run.checkpoint_steps() == [1, 3]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def age_format(path: Path) -> None:
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "format": 99}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "truncated"),
        (flip, "damaged"),
        (Path.unlink, "missing, though its sidecar"),
        (lambda path: path.with_suffix(".json").unlink(), "sidecar"),
        (lambda path: path.with_suffix(".json").write_text("{"), "sidecar"),
        (age_format, "format version 99"),
    ],
    ids=["truncated", "flipped byte", "missing file", "missing sidecar", "broken sidecar", "unknown version"],
)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(run, damage, words):
    fill(run, 10, 20)
    damage(run.checkpoint_file(20))
    step, damaged = checkpoint.newest_good(run, "abc")
    assert step == 10
    assert [entry.step for entry in damaged] == [20]
    assert words in damaged[0].reason
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(run, 20)


def test_another_recipes_checkpoint_is_refused_not_passed_over(run):
    fill(run, 10)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        checkpoint.newest_good(run, "another")


def test_no_such_step_names_those_there_are(run):
    fill(run, 10, 20)
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 15.*10, 20"):
        checkpoint.load(run, 15)


def test_later_checkpoints_are_set_aside_not_lost(run):
    fill(run, 10, 20, 30)
    assert checkpoint.set_aside(run, after=10) == [20, 30]
    assert run.checkpoint_steps() == [10]
    assert len(list((run.checkpoints / "set_aside").iterdir())) == 4


def test_a_write_that_was_killed_leaves_nothing_to_be_believed(run):
    fill(run, 10)
    (run.checkpoints / ".step_00000020.pt.1.tmp").write_bytes(b"half")
    run.checkpoint_file(30).write_bytes(b"whole, but its sidecar was never written")
    step, damaged = checkpoint.newest_good(run)
    assert step == 10
    assert [entry.step for entry in damaged] == [30]


def test_a_checkpoint_that_an_evaluation_waits_for_is_kept(run):
    for step in (10, 20, 30):
        checkpoint.write(run, step, {"x": torch.zeros(1)})
    for step, done in ((10, False), (20, True)):
        folder = run.evals / f"elbo-{step}"
        folder.mkdir()
        write_json(folder / "request.json", {"checkpoint_step": step})
        if done:
            write_json(folder / "report.json", {})
    checkpoint.prune(run, keep=1)
    assert run.checkpoint_steps() == [10, 30]
