"""Clients of Slurm that are counted: wrappers that come first in PATH."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from .errors import search_path

CLIENTS = ("squeue", "sacct", "scontrol")


class Counted:
    """Wrappers of `CLIENTS` in ``folder``: each call leaves a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._calls = folder / "calls"
        self._calls.touch()
        self.path = f"{folder}:{search_path()}"
        for name in CLIENTS:
            real = shutil.which(name, path=search_path())
            wrapper = folder / name
            wrapper.write_text(f'#!/bin/sh\necho {name} >> {self._calls}\nexec {real} "$@"\n')
            wrapper.chmod(0o755)

    def calls(self) -> Counter[str]:
        return Counter(self._calls.read_text().split())
