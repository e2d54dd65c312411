"""`python -m cld_core.train`, as launchers start it: its exit codes, signals, and a second
start."""

import errno
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest

from cld_core.checkpoint import load as load_checkpoint
from cld_core.run import RunFolder
from cld_core.run.work import Start, Training
from cld_core.stop import StopCode, StopFlag
from cld_core.train import __main__
from tests.support.paths import MISBEHAVING
from tests.support.plugin import toy_plugin
from tests.support.spawned import spawned
from tests.support.tools import same, wait_for

QUICK = (
    "train.steps=4",
    "train.checkpoint_every=2",
    "periodic.samples_every=null",
    "train.on_resume=exact",
)
TOY = ("--recipe", "toy", *QUICK, "network.width=8", "network.layers=2")
TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "cld_core.train",
)


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Calls the command in this process, with a flag that is set if a signal is given; returns the
    exit code."""
    monkeypatch.chdir(tmp_path)

    def launched(*words, code=StopCode.NONE):
        def listen(self):
            self.request(code)
            return self

        monkeypatch.setattr("sys.argv", ["train", *words])
        monkeypatch.setattr(StopFlag, "listen", listen)
        return __main__.main()

    return launched


@pytest.mark.parametrize("code", [StopCode.USR2, StopCode.TERM])
def test_a_run_that_was_asked_to_end_starts_again_until_it_is_done(launched, code):
    assert launched("mine", *TOY, code=code) == 75
    assert RunFolder("mine").checkpoint_steps() == [1]
    assert launched("mine", *TOY) == 0
    assert launched("mine") == 0, "nothing is left to do"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("mine", "--recipe", "toy", "optim.lr=fast"), 2, "optim.lr"),
        (("mine", "--recipe", "neverheard"), 2, "neverheard"),
        (("mine",), 3, "Pass --recipe RECIPE"),
    ],
)
def test_what_another_start_would_meet_again_has_a_code_of_its_own(
    launched, capsys, words, code, message
):
    assert launched(*words) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
def test_a_file_system_that_fails_is_a_reason_to_start_again_unless_it_says_no(
    launched, monkeypatch, capsys, number
):
    monkeypatch.setattr(RunFolder, "create", Mock(side_effect=OSError(number, os.strerror(number))))
    if number == errno.ESTALE:
        assert launched("mine", *TOY) == 75
        assert "Stale file handle" in capsys.readouterr().err
        return
    with pytest.raises(PermissionError):
        launched("mine", *TOY)


def test_a_relative_path_is_recorded_as_an_absolute_one(launched, tmp_path):
    toy_plugin(tmp_path / "mine.py", "from_a_file")
    assert launched("runs/mine", *TOY, "data.name=from_a_file", "plugins=mine.py") == 0
    assert RunFolder("runs/mine").recipe().plugins[0] == str(tmp_path / "mine.py")


def started(*arguments, pace=0.0):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CLDCTL_TEST_PACE": str(pace)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, code=0):
    said, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    return said + errors


def _trained(ranks, path):
    Training(path).compute(ranks, start=Start(job_id="whole"))
    return {}


@pytest.mark.slow
def test_torchrun_that_is_ended_saves_and_the_same_command_comes_to_the_same_result(tmp_path):
    parts = RunFolder(tmp_path / "parts")
    words = (
        *TOY,
        *MISBEHAVING,
        "train.steps=300",
        "train.checkpoint_every=300",
        "train.log_every=1",
    )
    # At this pace the run does not end while the test is at work.
    first = started(*TORCHRUN, str(parts.path), *words, pace=2.0)
    wait_for(lambda: parts.exists and parts.progress().get("step", 0) > 1, timeout=300)
    second = ended(started(*TORCHRUN, str(parts.path)), code=1)
    assert second.count("is alive and writes into this run") >= 2, "all ranks say so"
    first.send_signal(signal.SIGTERM)
    # That of torchrun, whatever its processes say.
    ended(first, code=1)
    (stopped,) = parts.ledger.history().attempts
    assert (stopped.cause, parts.checkpoint_steps()) == ("terminated", [stopped.last_step])
    ended(started(*TORCHRUN, str(parts.path), *words))
    whole = RunFolder.create(tmp_path / "whole", parts.recipe(), {"created": 1.0})
    spawned(_trained, tmp_path, 2, whole.path)
    assert [entry.cause for entry in parts.ledger.history().attempts] == ["terminated", "finished"]
    assert same(load_checkpoint(whole, 300), load_checkpoint(parts, 300))
