"""The frame notices what it is there for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cld_core.errors import DataError

from .verdict import run

pytestmark = pytest.mark.by_hand


def _refuse(text: str) -> Callable[[], None]:
    def case() -> None:
        raise DataError(text)

    return case


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (lambda: None, "ok"),
        (_refuse("x: it is damaged. Remove it."), "refused"),
        (_refuse("x: it is damaged.\nRemove it."), "several lines"),
        (lambda: {}["missing"], "traceback"),
        (lambda: bytes(2**40), "memory"),
        (lambda: os._exit(0), "killed"),
        (lambda: subprocess.run(["true"], check=False), "started a process"),
        (lambda: os.system("true"), "started a process"),
    ],
)
def test_outcomes(case: Callable[[], Any], outcome: str, tmp_path: Path) -> None:
    assert run(case, tmp_path).outcome == outcome


def test_a_hang(tmp_path: Path) -> None:
    assert run(lambda: time.sleep(600), tmp_path, time_s=0.1).outcome == "hang"


def test_writing_is_allowed_in_the_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    assert run(lambda: (inside / "file").write_text("x"), inside).outcome == "ok"
    assert run(lambda: outside.write_text("x"), inside).outcome == "wrote outside"
    assert run(lambda: (inside / "../outside").write_text("x"), inside).outcome == "wrote outside"
    assert run(lambda: (inside / "file").rename(outside), inside).outcome == "wrote outside"
    (inside / "link").symlink_to(outside)
    assert run(lambda: (inside / "link").write_text("x"), inside).outcome == "wrote outside"
    assert not outside.exists()


def test_a_path_may_be_relative_to_an_open_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()

    def make(folder: Path) -> None:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=opened))
        os.unlink("file", dir_fd=opened)

    assert run(lambda: make(inside), inside).outcome == "ok"
    assert run(lambda: make(tmp_path), inside).outcome == "wrote outside"
