"""An estimate before submission, from runs of the same kind."""

import time

import pytest

from cld_core.config import load
from cld_core.files import write_json
from cldctl.runs.estimate import estimate
from cldctl.show.usage import estimate_line
from tests.support.made_up import TOY, run_with

STEPS = ("train.steps=3600",)


def rated(path, rate, *overrides):
    run = run_with(path, overrides=overrides)
    write_json(run.progress_file, {"attempt": 0, "step": 10, "steps": 20, "steps_per_s": rate, "time": 1.0})


def test_the_median_rate_of_comparable_runs(tmp_path):
    for number, rate in enumerate((1.0, 2.0, 30.0)):
        rated(tmp_path / f"a{number}", rate)
    rated(tmp_path / "wider", 900.0, "cluster.tasks_per_node=2")
    rated(tmp_path / "larger", 900.0, "network.width=999")
    rated(tmp_path / "batch", 900.0, "train.batch_size=7")
    (tmp_path / "no-run").mkdir()
    found = estimate(tmp_path, load(TOY, STEPS))
    assert (found.rate, found.seconds, found.hours, found.unit) == (2.0, 1800.0, 0.5, "core-hours")
    assert set(found.runs) == {"a0", "a1", "a2"}
    assert estimate(tmp_path, load(TOY, [*STEPS, "network.width=7"])) is None


def test_gpus_are_counted_and_a_gres_says_how_many(tmp_path):
    size = ("cluster.nodes=2", "cluster.tasks_per_node=4")
    for name, key in (("a", "cluster.gpus_per_node=4"), ("b", "cluster.gres=gpu:a100:4")):
        rated(tmp_path / name, 1.0, *size, key)
        found = estimate(tmp_path, load(TOY, [*STEPS, *size, key]))
        assert (found.hours, found.unit) == (8.0, "GPU-hours")


def test_the_line_says_what_is_known(tmp_path):
    rated(tmp_path / "a", 2.0)
    found = estimate(tmp_path, load(TOY, STEPS))
    line = "estimate: 30m00s of training, 0.5 core-hours, at 2 steps/s as in a"
    assert estimate_line(found, None) == line
    assert estimate_line(found, time.time()) == f"{line}; begins at once"
    unknown = "estimate: no comparable run yet"
    assert estimate_line(None, time.time() + 7230).startswith(f"{unknown}; begins in about 2h0")
    assert estimate_line(None, time.time()) == f"{unknown}; begins at once"
    assert estimate_line(None, None) == unknown


@pytest.mark.parametrize("rate", [None, 0.0, -1.0])
def test_a_run_without_a_rate_measures_nothing(tmp_path, rate):
    rated(tmp_path / "a", rate)
    assert estimate(tmp_path, load(TOY)) is None
