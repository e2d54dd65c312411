"""The pictures of the documentation that a script makes."""

import re
from pathlib import Path

import pytest

from benchmarks import screenshots
from cldctl.clusters.slurm import client
from cldctl.show.console import out
from tests.support import on_screen

SELECTED = "celebahq-cld-1125-0911-k3fa"


def text_of(file: Path) -> str:
    """The words of a picture, which loads nothing from elsewhere."""
    picture = file.read_text()
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == []
    return re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (screenshots.record_status, ("$ cldctl status", f"$ cldctl status {SELECTED}", "RUNNING", "preempted")),
        (screenshots.record_top, ("cldctl top", "RUNNING", "P preempted", "Quit")),
    ],
)
def test_a_picture_shows_runs(tmp_path, monkeypatch, record, words):
    fleet = on_screen.everything(tmp_path / "runs")
    monkeypatch.setattr(client, "run", fleet.slurm)
    before = (out.width, out.is_terminal)
    record(fleet.root, SELECTED, tmp_path / "picture.svg")
    text = text_of(tmp_path / "picture.svg")
    for one in words:
        assert one in text
    assert (out.width, out.is_terminal) == before
