"""The pictures of the documentation that scripts make show what the pages say of them."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks import recording, screenshots
from cldctl.clusters.slurm import client
from tests.support import on_screen

SELECTED = "celebahq-cld-1125-0911-k3fa"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            screenshots.record_status,
            ("$ cldctl status", f"$ cldctl status {SELECTED}", "RUNNING", "preempted"),
        ),
        (screenshots.record_top, ("cldctl top", "RUNNING", "P preempted", "Quit")),
    ],
)
def test_a_picture_shows_runs(tmp_path, monkeypatch, record, words):
    fleet = on_screen.everything(tmp_path / "runs")
    monkeypatch.setattr(client, "run", fleet.slurm)
    record(fleet.root, SELECTED, tmp_path / "picture.svg")
    picture = (tmp_path / "picture.svg").read_text()
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == [], (
        "it loads nothing from elsewhere"
    )
    text = re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")
    assert [one for one in words if one not in text] == []


SVG = "{http://www.w3.org/2000/svg}"


def test_a_command_is_typed_and_run_in_a_terminal(tmp_path):
    scenes = [recording.Scene("cldctl --version", 1.0), recording.Scene("cldctl recipes", 1.0)]
    film = recording.record(scenes, tmp_path)
    shown = [text.text or "" for text in ElementTree.fromstring(film.svg()).iter(f"{SVG}text")]
    assert {"cldctl", "cldctl recipes"} <= {text[: len("cldctl recipes")] for text in shown}
    assert any("toy_demo" in text for text in shown)
