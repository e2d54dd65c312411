"""Checkpoints are written in the background, and whole or not at all."""

import errno
import itertools
import os
import subprocess
import threading
import time

import pytest
import torch

from cld_core.checkpoint import tensors as writing
from cld_core.checkpoint.files import newest_good, sidecar_of, slowest_save_s, weights_file
from cld_core.checkpoint.tensors import KINDS, averaged_weights, checkpoints
from cld_core.checkpoint.tensors import load as load_checkpoint
from cld_core.config import load
from cld_core.errors import LeaseLostError, SaveError
from cld_core.run import RunFolder
from tests.cld_core.checkpoint.conftest import TOY, fill, state


def test_what_was_saved_is_loaded(run):
    fill(run, 10)
    loaded = load_checkpoint(run, 10, model_digest="abc")
    assert torch.equal(loaded["model"]["w"], torch.full((100,), 10.0))
    assert loaded["step"] == 10
    assert (loaded["ema"]["updates"], list(loaded["ema"]["average"])) == (3, ["w"])
    assert torch.equal(loaded["ema"]["average"]["w"], torch.full((100,), 5.0))
    assert "average" not in torch.load(run.checkpoint_file(10), weights_only=True)["ema"], "it is stored once"
    tensors = averaged_weights(run, 10).tensors
    assert sorted(tensors) == ["fixed", "w"], "all that a network has"
    sidecar = sidecar_of(run.checkpoint_file(10))
    assert sidecar is not None
    assert sidecar.state.bytes == run.checkpoint_file(10).stat().st_size
    assert sidecar.weights.bytes == weights_file(run, 10).stat().st_size
    assert sidecar.seconds == slowest_save_s(run)


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
    assert sorted(path.name for path in run.checkpoints.iterdir()) == sorted(
        f"step_{step:08d}.{suffix}" for step in (20, 40, 50) for suffix in ("ema.safetensors", "pt", "json")
    )


def test_an_owner_that_lost_the_lease_writes_nothing(run):
    def lost():
        raise LeaseLostError("taken over")

    writer = checkpoints(run, keep=2, check_owner=lost)
    writer.save(10, state())
    with pytest.raises(LeaseLostError):
        writer.wait()
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_reported_and_leaves_the_earlier_checkpoints(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        run = RunFolder.create(small / "mine", load(TOY), {"created": 1.0})
        writer = checkpoints(run, keep=3)
        writer.save(1, state())
        writer.save(2, {**state(), "more": torch.zeros(1_000_000)})
        with pytest.raises(SaveError, match=r"step_00000002.*no space left.*cldctl resume"):
            writer.wait()
        assert run.checkpoint_steps() == [1]
        assert {name.split(".")[0] for name in os.listdir(run.checkpoints)} == {"step_00000001"}
        assert newest_good(run) == (1, [])
        writer.save(3, state())
        writer.wait()
        assert run.checkpoint_steps() == [1, 3]
    finally:
        subprocess.run(["umount", str(small)], check=True)


class Disk:
    """`torch.save` on a disk that fails while ``fails`` says so."""

    def __init__(self, monkeypatch, error: int = errno.ENOSPC) -> None:
        self.tries, self.fails, self._error, self._save = 0, lambda tries: False, error, torch.save
        monkeypatch.setattr(torch, "save", self)
        monkeypatch.setattr(writing, "pauses", lambda **options: itertools.repeat(0.01))

    def __call__(self, content, file):
        self.tries += 1
        if self.fails(self.tries):
            raise OSError(self._error, os.strerror(self._error))
        self._save(content, file)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN])
def test_a_save_is_repeated_until_the_disk_takes_it(run, monkeypatch, capsys, error):
    disk = Disk(monkeypatch, error)
    disk.fails = lambda tries: tries <= 5
    writer = checkpoints(run, keep=3)
    writer.save(1, state())
    writer.wait(within_s=300)
    assert newest_good(run) == (1, [])
    assert disk.tries == 6
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"the checkpoint of step 1 cannot be written yet ({os.strerror(error)}); trying again",
        "the checkpoint of step 1 is written: the disk takes checkpoints again",
    ]


def test_training_goes_on_while_a_save_is_repeated_and_the_next_one_takes_its_place(run, monkeypatch, capsys):
    disk = Disk(monkeypatch)
    disk.fails = lambda tries: not disk_is_free.is_set()
    disk_is_free = threading.Event()
    writer = checkpoints(run, keep=3)
    writer.save(1, state(1.0))
    while disk.tries < 3:
        time.sleep(0.01)
    assert not writer.failed
    writer.save(2, state(2.0))
    assert "the checkpoint of step 1 was not written" in capsys.readouterr().out
    disk_is_free.set()
    writer.wait(within_s=300)
    assert run.checkpoint_steps() == [2]
    assert torch.equal(load_checkpoint(run, 2)["model"]["w"], torch.full((100,), 2.0))


def test_an_owner_that_cannot_be_known_writes_nothing_until_it_is(run, monkeypatch):
    unknown = [OSError(errno.ESTALE, "stale")] * 3

    def check():
        assert not unknown or not list(run.checkpoints.glob("step_*"))
        if unknown:
            raise unknown.pop()

    monkeypatch.setattr(writing, "pauses", lambda **options: itertools.repeat(0.01))
    writer = checkpoints(run, keep=2, check_owner=check)
    writer.save(10, state())
    writer.wait(within_s=300)
    assert run.checkpoint_steps() == [10]


def test_a_file_that_is_written_again_has_no_sidecar_meanwhile(run, monkeypatch):
    """Whoever is killed between two files leaves no sidecar that promises another file."""
    fill(run, 10)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        writing.write(run, 10, state(2.0))
    assert weights_file(run, 10).exists()
    assert run.checkpoint_steps() == []


def test_tensors_of_every_kind_that_a_network_may_hold_come_back(run):
    ones = {str(kind): torch.ones(3, dtype=kind) for kind in KINDS}
    writing.write(run, 10, {**state(), "model": {**ones, "scalar": torch.tensor(2.0), "none": torch.zeros(0, 2)}})
    tensors = averaged_weights(run, 10).tensors
    assert {name: tensor.dtype for name, tensor in tensors.items() if name in ones} == {str(one): one for one in KINDS}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in ones.items())
    assert (tensors["scalar"], tensors["none"].shape) == (2.0, (0, 2))
