"""A file system of which one call fails: the n-th, once, with an input/output error, maybe after it was done."""

import builtins
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

# The calls by which files are found, read and named.
CALLS = ((os, "open"), (os, "listdir"), (os, "link"), (os, "rename"), (os, "replace"), (builtins, "open"))


class OneFailure:
    """Counts the calls about paths with ``part`` in them, and lets number ``at`` fail."""

    def __init__(self, part: str, at: int = -1, *, done: bool = False) -> None:
        self.part, self.at, self.done, self.count, self.failed = part, at, done, 0, ""

    def install(self, patched: pytest.MonkeyPatch) -> None:
        for module, name in CALLS:
            patched.setattr(module, name, self._around(getattr(module, name)))

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if not any(self.part in str(it) for it in (path, *arguments[:1])):
                return real(path, *arguments, **options)
            self.count += 1
            if self.count - 1 != self.at:
                return real(path, *arguments, **options)
            self.failed = f"{real.__name__} {path}"
            if self.done and real.__name__ in ("link", "rename", "replace"):
                real(path, *arguments, **options)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        return call


def same_whatever_fails(
    part: str, work: Callable[[], Any], patch: Callable[[], Any], look: Callable[[], Any] = lambda: None
) -> int:
    """Do ``work`` without a failure, and then with each call failing once; the results are the same.

    Args:
        patch: a context in which the calls are replaced, for example ``monkeypatch.context``.
        look: what else to compare, looked at when nothing fails any more.

    Returns:
        The number of calls that failed.
    """
    counting = OneFailure(part)
    with patch() as patched:
        counting.install(patched)
        expected = work()
    looks = look()
    for at in range(counting.count):
        for done in (False, True):
            failing = OneFailure(part, at, done=done)
            with patch() as patched:
                failing.install(patched)
                found = work()
            assert failing.count > at, "the call was made"
            assert (found, look()) == (expected, looks), f"{failing.failed} failed, done: {done}"
    return counting.count
