"""Checkpoints are never used unverified; which of them stay."""

import json
from pathlib import Path

import pytest

from cld_core.checkpoint.files import (
    all_whole,
    newest_good,
    pick_checkpoint,
    prune,
    set_aside,
    verify,
    weights_digest,
    weights_file,
)
from cld_core.checkpoint.tensors import load as load_checkpoint
from cld_core.errors import CheckpointError, NotFoundError
from cld_core.files import write_json
from cld_core.run import RunFolder
from tests.cld_core.checkpoint.conftest import fill


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
    step, damaged = newest_good(run, "abc")
    assert step == 10
    assert [entry.step for entry in damaged] == [20]
    assert words in damaged[0].reason
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(run, 20)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_training_needs_the_averaged_weights_and_who_samples_needs_nothing_else(run, damage, caplog):
    fill(run, 10, 20, 30)
    damage(weights_file(run, 30))
    damage(run.checkpoint_file(20))
    step, damaged = newest_good(run, "abc")
    assert (step, [entry.step for entry in damaged]) == (10, [30, 20])
    assert weights_file(run, 30).name in damaged[0].reason
    assert pick_checkpoint(run, "abc", "last") == pick_checkpoint(run, "abc", 20) == 20
    assert caplog.messages[0].startswith("skipped the checkpoint of step 30")
    with pytest.raises(CheckpointError):
        pick_checkpoint(run, "abc", 30)
    with pytest.raises(CheckpointError):
        verify(run, 20)


def test_a_checkpoint_is_what_its_averaged_weights_are(run):
    fill(run, 10)
    digest = weights_digest(run, 10)
    again = RunFolder(run.path)
    fill(again, 10)
    assert weights_digest(again, 10) == digest, "whoever writes them"
    fill(run, 20)
    assert weights_digest(run, 20) not in (digest, None)
    assert weights_digest(run, 30) is None


def test_a_checkpoint_of_another_recipe_is_refused_not_skipped(run):
    fill(run, 10)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        newest_good(run, "another")


def test_a_missing_step_names_the_existing_ones(run):
    fill(run, 10, 20)
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 15.*10, 20"):
        load_checkpoint(run, 15)


def test_a_write_that_was_killed_leaves_nothing_usable(run):
    fill(run, 10)
    (run.checkpoints / ".step_00000020.pt.1.tmp").write_bytes(b"half")
    run.checkpoint_file(30).write_bytes(b"complete, but its sidecar was never written")
    step, damaged = newest_good(run)
    assert step == 10
    assert [entry.step for entry in damaged] == [30]


def test_all_intact_ones_are_listed_with_the_damaged(run):
    fill(run, 10, 20, 30)
    cut(run.checkpoint_file(20))
    run.checkpoint_file(40).write_bytes(b"its sidecar was never written")
    whole, damaged = all_whole(run)
    assert whole == [10, 30]
    assert [(entry.step, entry.finished) for entry in damaged] == [(20, True)]


def test_later_checkpoints_are_set_aside_not_lost(run):
    fill(run, 10, 20, 30)
    assert set_aside(run, after=10) == [20, 30]
    assert run.checkpoint_steps() == [10]
    assert len(list((run.checkpoints / "set_aside").iterdir())) == 6


def test_a_checkpoint_that_an_evaluation_waits_for_is_kept(run):
    fill(run, 10, 20, 30)
    for step, done in ((10, False), (20, True)):
        folder = run.evals / f"elbo-{step}"
        folder.mkdir()
        write_json(folder / "request.json", {"checkpoint_step": step})
        if done:
            write_json(folder / "report.json", {})
    for step in (10, 20):
        weights_file(run, step, 0.1).touch()
    prune(run, keep=1)
    assert run.checkpoint_steps() == [10, 30]
    assert weights_file(run, 10, 0.1).exists()
    assert not list(run.checkpoints.glob("step_00000020*"))
