"""Every target for some seconds; a bad case is printed with the command that runs it again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cld_core.errors import DataError

from .campaign import campaign, describe
from .targets import TARGETS
from .verdict import run

pytestmark = pytest.mark.by_hand
# The whole of it takes a minute; `make fuzz` runs for hours.
SECONDS = 60.0


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks(name: str) -> None:
    result = campaign(TARGETS[name], seed=1, seconds=SECONDS / len(TARGETS))
    assert result.cases > 0
    assert not result.bad, describe(result)


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
        (lambda: time.sleep(600), "hang"),
        (lambda: subprocess.run(["true"], check=False), "started a process"),
    ],
)
def test_the_frame_notices_what_it_is_there_for(case: Callable[[], Any], outcome: str, tmp_path: Path) -> None:
    assert run(case, tmp_path, time_s=1.0 if outcome == "hang" else 20.0).outcome == outcome


def test_writing_is_allowed_in_the_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    assert run(lambda: (inside / "file").write_text("x"), inside).outcome == "ok"
    for case in (
        lambda: outside.write_text("x"),
        lambda: (inside / "../outside").write_text("x"),
        lambda: (inside / "file").rename(outside),
        lambda: (inside / "link").write_text("x"),
    ):
        assert run(case, inside).outcome == "wrote outside"
    assert not outside.exists()
