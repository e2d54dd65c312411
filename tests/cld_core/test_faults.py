"""Faults that pass: what is tried again, and what is dropped and counted."""

import errno
import io
import sys

import pytest

from cld_core import faults
from cld_core.faults import Dropping, forgive_output, passes, retried
from tests.support.clock import Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(faults, "time", clock := Clock())
    return clock


def failing(times: float, error: int = errno.ENOSPC):
    """A call that fails so many times, then returns how often it was called."""
    called = []

    def call():
        called.append(None)
        if len(called) <= times:
            raise OSError(error, "the disk")
        return len(called)

    return call


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN])
def test_a_fault_that_passes_is_waited_for(error, clock):
    assert retried(failing(5, error), 60.0) == 6
    assert 0 < clock.now < 60


def test_it_is_waited_for_no_longer_than_allowed(clock):
    with pytest.raises(OSError, match="the disk"):
        retried(failing(float("inf")), 60.0)
    assert 45 < clock.now <= 60
    clock.now = 0.0
    with pytest.raises(OSError, match="the disk"):
        retried(failing(float("inf")), 60.0, stop=lambda: clock.now > 3)
    assert clock.now < 10


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR])
def test_what_does_not_pass_is_not_waited_for(error, clock):
    with pytest.raises(OSError, match="the disk"):
        retried(failing(1, error), 60.0)
    assert clock.now == 0
    assert not passes(ValueError())


def test_what_is_dropped_is_counted_and_reported_twice(capsys):
    noted = []
    dropping = Dropping("progress.json", lambda count, reason: noted.append((count, reason)))
    call = failing(3)
    assert [dropping.attempt(call) for _ in range(5)] == [False, False, False, True, True]
    assert noted == [(3, "the disk")]
    assert capsys.readouterr().out.splitlines() == [
        "progress.json cannot be written (the disk); going on without",
        "progress.json can be written again; dropped 3 time(s)",
    ]


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "full")

        def flush(self):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    forgive_output()
    forgive_output()
    print("lost", flush=True)
    print("kept", file=sys.stderr, flush=True)
    assert sys.stderr.getvalue() == "kept\n"
