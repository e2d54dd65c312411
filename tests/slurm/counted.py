"""Clients of Slurm that are counted, and slow on request: wrappers that come first in PATH."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from .errors import search_path

CLIENTS = ("squeue", "sacct", "scontrol")


class Counted:
    """Wrappers of `CLIENTS` in ``folder``: each call leaves a line, and takes `slow` seconds more."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._calls, self._slow = folder / "calls", folder / "slow"
        self._calls.touch()
        self.path = f"{folder}:{search_path()}"
        for name in CLIENTS:
            real = shutil.which(name, path=search_path())
            wrapper = folder / name
            wrapper.write_text(
                f"#!/bin/sh\necho {name} >> {self._calls}\n"
                f'if [ -e {self._slow} ]; then sleep "$(cat {self._slow})"; fi\nexec {real} "$@"\n'
            )
            wrapper.chmod(0o755)

    def slow(self, seconds: float) -> None:
        self._slow.write_text(str(seconds))

    def calls(self) -> Counter[str]:
        return Counter(self._calls.read_text().split())
