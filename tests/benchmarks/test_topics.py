"""The benchmarks run, print their results and write them to a file. Tests never judge how long anything takes."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.ncsnpp_step import step_flops
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.images import image_recipe

TOPICS = ("limits", "toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step", "gpu")


@pytest.mark.by_hand
def test_the_topics_run_and_write_their_results(tmp_path):
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks", *TOPICS, "--quick", "--threads", "1", "--json", str(file)]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert list(report["topics"]) == list(TOPICS)
    assert report["machine"]["cores"] >= 1
    for name in ("toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step"):
        rows = report["topics"][name]["rows"]
        assert all(row["seconds"] > 0 for row in rows), name
        assert any(row["ratio"] is not None for row in rows), name


def test_an_unknown_topic_is_refused_with_the_list_of_topics(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "toystep"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "unknown topic 'toystep'; choose from limits, cli, data, toy_step" in capsys.readouterr().err


def test_rows_that_do_not_fit_into_memory_are_halved(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def fits(rows, most):
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"{rows} rows"

    assert gpu.halved(8, lambda rows: fits(rows, 3)) == (2, "2 rows")
    assert gpu.halved(8, lambda rows: fits(rows, 0)) is None


@pytest.mark.parametrize("name", ["cifar10", "celebahq256"])
def test_flops_are_those_of_a_step(tmp_path, name):
    recipe = image_recipe(tmp_path, name, "train.precision=fp32", small=True, gpus=0)
    trainer = Trainer(recipe, Ranks())
    # torch does not count the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH):
        expected = step_flops(trainer, recipe.train.batch_size)
    assert gpu.flops(recipe) == expected
    trainer.close()
