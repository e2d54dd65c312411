"""Fixtures of the command-line tests."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def fresh_runs(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs of one test; whatever still runs in it afterwards is killed."""
    yield tmp_path / "runs"
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ()):
            process.kill()
