"""The pictures of the documentation that scripts make."""

import re
from pathlib import Path

from benchmarks import screenshot_status, screenshot_top
from cldctl.clusters.slurm import client
from cldctl.show.console import out
from tests.support import on_screen


def text_of(file: Path) -> str:
    """The words of a picture, which loads nothing from elsewhere."""
    picture = file.read_text()
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == []
    return re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")


def test_the_picture_of_status_shows_runs_and_asks_nobody(tmp_path):
    before = (out.width, out.is_terminal)
    screenshot_status.record(tmp_path / "status.svg")
    text = text_of(tmp_path / "status.svg")
    states = "1 RUNNING, 1 PENDING, 1 FINISHED"
    for words in ("cldctl status", "RUNNING", "FID 2.27 (50k samples)", "node_failed", states):
        assert words in text
    assert (out.width, out.is_terminal) == before


def test_the_picture_of_top_shows_runs(tmp_path, monkeypatch):
    fleet = on_screen.everything(tmp_path / "runs")
    monkeypatch.setattr(client, "run", fleet.slurm)
    screenshot_top.record(fleet.root, "celebahq-cld-1125-0911-k3fa", tmp_path / "top.svg")
    text = text_of(tmp_path / "top.svg")
    for words in ("cldctl top", "RUNNING", "P preempted", "Quit"):
        assert words in text
