"""Locks: who waits gets one as soon as it is free, and gives up after a while."""

import fcntl
import threading

import pytest

from cldctl.locks import locked_within


@pytest.fixture
def held(tmp_path):
    """A file that another open file has locked."""
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_a_free_file_is_locked_at_once(tmp_path):
    with (tmp_path / "lock").open("w") as file, (tmp_path / "lock").open("w") as other:
        assert locked_within(file.fileno(), 0.0)
        assert not locked_within(other.fileno(), 0.0)


def test_it_is_locked_once_others_have_let_it_go(held, tmp_path):
    with (tmp_path / "lock").open("w") as file:
        threading.Timer(0.2, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        assert locked_within(file.fileno(), 60.0)
