"""Numbers that no machine could serve, and words that are no numbers, are refused before anything is computed."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluation import grids
from cld_core.run import RunFolder
from cldctl.cli.sample import _require_room
from cldctl.evals import plan
from cldctl.evals.sweep import parse
from tests.support.paths import FIXTURES
from tests.support.tools import invoke

ODD = [
    "\u00b2",
    "\u0967\u0968\u0966",
    "-120",
    "+120",
    "0120",
    "1_20",
    "120.0",
    "1e2",
    "",
    " 120",
    "120\n",
    "9" * 5000,
    "\x1b[2J",
]


@pytest.mark.parametrize("step", ODD)
def test_a_checkpoint_is_last_or_a_number(tmp_path, step):
    shutil.copytree(FIXTURES / "run", tmp_path / "run")
    done = invoke("sample", "run", f"--checkpoint={step}", runs=tmp_path, code=3)
    assert "is not a checkpoint of run" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.strip().isprintable()
    assert len(done.stderr) < 1000
    with pytest.raises(NotFoundError, match="has no checkpoint"):
        plan.checkpoints(RunFolder(tmp_path / "run"), step)


def test_samples_fit_into_the_memory_and_into_the_picture(monkeypatch):
    images = SimpleNamespace(is_image=True, data_shape=(3, 256, 256))
    points = SimpleNamespace(is_image=False, data_shape=(2,))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 2**30))
    _require_room(4096, images, Path("x.png"))
    with pytest.raises(UsageError, match=r"4097 images are too many for one picture\. Draw at most 4096"):
        _require_room(4097, images, Path("x.png"))
    _require_room(20_000, images, Path("x.npz"))
    with pytest.raises(UsageError, match=r"-n 30000: so many samples do not fit into the memory\. Draw at most 21845"):
        _require_room(30_000, images, Path("x.npz"))
    _require_room(10_000_000, points, Path("x.png"))


def test_a_grid_of_too_many_images_is_not_made():
    import torch

    with pytest.raises(UsageError, match="too many for one picture"):
        grids.tile(torch.zeros(1, dtype=torch.uint8).expand(2**20, 3, 32, 32))


def test_a_sweep_has_a_bounded_number_of_cells():
    numbers = ",".join(map(str, range(1000)))
    with pytest.raises(UsageError, match="1000000000 combinations are more than 10000"):
        parse([f"eval.seed={numbers}", f"sampling.nfe={numbers}", f"eval.samples={numbers}"])
