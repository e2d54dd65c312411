"""The benchmarks run, print their results and write them to a file. Tests never judge how long
anything takes."""

import importlib
import json
import subprocess
import sys

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import gpu
from benchmarks.ncsnpp_step import step_flops
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.images import image_recipe
from tests.support.paths import ROOT

TOPICS = ("limits", "toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step", "gpu")


def test_all_can_be_imported():
    for file in (ROOT / "benchmarks").glob("[!_]*.py"):
        importlib.import_module(f"benchmarks.{file.stem}")


@pytest.mark.by_hand
def test_the_topics_run_and_write_their_results(tmp_path):
    file = tmp_path / "report.json"
    quick = ("--quick", "--threads", "1", "--device", "cpu", "--json")
    command = [sys.executable, "-m", "benchmarks", *TOPICS, *quick, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert list(report["topics"]) == list(TOPICS)
    assert report["machine"]["cores"] >= 1
    for name in TOPICS[1:-1]:
        assert all(row["seconds"] > 0 for row in report["topics"][name]["rows"]), name


@pytest.mark.parametrize("name", ["cifar10", "celebahq256"])
def test_flops_are_those_of_a_step(tmp_path, name):
    recipe = image_recipe(tmp_path, name, "train.precision=fp32", small=True, gpus=0)
    trainer = Trainer(recipe, Ranks())
    # torch does not count the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH):
        expected = step_flops(trainer, recipe.train.batch_size)
    assert gpu.flops(recipe) == expected
    trainer.close()
