"""The pictures of the documentation that scripts make show what the pages say of them."""

import re
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import figure_cld, recording, screenshots
from cld_core import sde
from cld_core.config.sde import CldSpec, VpsdeSpec
from cldctl.clusters.slurm import client
from cldctl.show.console import out
from tests.support import on_screen

SELECTED = "celebahq-cld-1125-0911-k3fa"


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
    picture = (tmp_path / "picture.svg").read_text()
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == [], "it loads nothing from elsewhere"
    text = re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")
    assert [one for one in words if one not in text] == []
    assert (out.width, out.is_terminal) == before


SVG = "{http://www.w3.org/2000/svg}"


def test_a_command_is_typed_and_run_in_a_terminal(tmp_path):
    scenes = [recording.Scene("cldctl --version", 1.0), recording.Scene("cldctl recipes", 1.0)]
    film = recording.record(scenes, tmp_path)
    shown = [text.text or "" for text in ElementTree.fromstring(film.svg()).iter(f"{SVG}text")]
    assert {"cldctl", "cldctl recipes"} <= {text[: len("cldctl recipes")] for text in shown}
    assert any("toy_demo" in text for text in shown)
    typing = len("cldctl recipes") * recording.LETTER_S + 2 * recording.FIRST_S
    assert film.seconds < typing + 2 * (1.0 + recording.READ_S) + 1.0


CLD, VPSDE = sde.build(CldSpec()), sde.build(VpsdeSpec())


def roughness(path):
    """Sum of the squared increments of paths (T, n): falls with the step of a smooth path, stays for a diffusion."""
    return float((path[1:] - path[:-1]).square().sum(0).mean())


def test_x_of_cld_is_smooth_and_the_halves_with_noise_are_not():
    cld = figure_cld.paths(CLD, torch.Generator().manual_seed(0))
    vpsde = figure_cld.paths(VPSDE, torch.Generator().manual_seed(0))
    # Of a diffusion, the integral of the squared coefficient: 2 Gamma beta = 8, and the mean of beta = 10.05.
    assert roughness(cld[:, 0]) < 0.1
    assert roughness(cld[:, 1]) == pytest.approx(8, rel=0.2)
    assert roughness(vpsde[:, 0]) == pytest.approx(10.05, rel=0.2)


def test_the_figure_is_drawn():
    assert [axes.get_title() for axes in figure_cld.figure().axes][-1] == "What the network has to match"
