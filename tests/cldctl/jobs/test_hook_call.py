"""A command of somebody's may do what it likes: it ends, it is heard in part, and leaves nothing behind."""

import os

import pytest

from cld_core.run.process import find
from cldctl.jobs.hook_call import KEPT_BYTES, call
from tests.support.tools import wait_for


def called(command, tmp_path, timeout_s=60.0, content="{}"):
    return call(command, environment=dict(os.environ), content=content, timeout_s=timeout_s, folder=tmp_path)


def test_it_reads_what_it_is_told_and_says_something(tmp_path):
    result = called("cat; echo; pwd; echo problem >&2", tmp_path, content='{"state": "FAILED"}')
    assert result.output.splitlines() == ['{"state": "FAILED"}', str(tmp_path), "problem"]
    assert result.problem is None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("exit 3", "ended with exit code 3"),
        ("no-such-command-at-all", "ended with exit code 127"),
        ("kill -9 $$", "was ended by signal 9"),
        ("nul\0", "could not be started"),
    ],
)
def test_it_may_fail(tmp_path, command, problem):
    assert problem in called(command, tmp_path).problem


def test_it_is_ended_with_everything_that_it_started(tmp_path):
    result = called("sleep 600 & echo $!; exec sleep 600", tmp_path, timeout_s=0.5)
    assert "did not end within 0.5 s" in result.problem
    wait_for(lambda: find(int(result.output)) is None)


def test_of_a_flood_little_is_kept(tmp_path):
    result = called("yes", tmp_path)
    assert "wrote more than" in result.problem
    assert len(result.output) == KEPT_BYTES
