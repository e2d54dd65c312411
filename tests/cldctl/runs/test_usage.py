"""Hours used, kept and lost."""

import time

import pytest

from cld_core.files import write_json
from cld_core.run.groups import Group
from cldctl.runs.plan import estimate
from cldctl.runs.usage import usage_of
from cldctl.show.submission import estimate_line
from tests.support.made_up import ended, note, queued, run_with, started, wished
from tests.support.recipes import toy_recipe
from tests.support.tools import invoke, json_of

GPUS = {"ranks": 8, "gpus": 8, "cores": 8}


def trained(path, **size):
    """An hour of which 0.1 was start-up, preempted at step 90 of which 80 are saved; then half an
    hour to the end."""
    run = run_with(path, 160)
    note(
        run,
        queued(time=0.0),
        started(time=3960.0, began=3600.0, **size),
        ended("preempted", 90, time=7200.0),
        wished("preempted", time=7200.0),
        started(1, 80, time=9180.0, began=9000.0, restart=1, **size),
        ended("finished", 160, attempt=1, time=10800.0),
    )
    return run


def test_gpu_hours_of_a_run_that_was_preempted(tmp_path):
    usage = usage_of(trained(tmp_path / "mine", **GPUS))
    assert (usage.unit, usage.attempts) == ("GPU-hours", 2)
    assert usage.used == pytest.approx(12.0)
    assert usage.startup == pytest.approx(0.8), (
        "of the first start; that of the second is lost to the preemption"
    )
    assert usage.lost_to_preemption == pytest.approx(8 * 0.9 / 9 + 0.4)
    assert usage.useful == pytest.approx(8 * 0.9 * 8 / 9 + 8 * 0.45)
    assert usage.lost_to_crashes == usage.set_aside == 0
    assert usage.waited_s == 3600.0 + 1800.0
    parts = (
        usage.useful
        + usage.startup
        + usage.lost_to_preemption
        + usage.lost_to_crashes
        + usage.set_aside
    )
    assert parts == pytest.approx(usage.used)
    assert usage.goodput == pytest.approx(usage.useful / 12)


def test_runs_groups_and_the_total_as_a_table_and_as_json(tmp_path, scripted):
    members = {"a": {}, "b": {}}
    scripted.phases["7"] = "gone"
    for name in "abc":
        run = trained(tmp_path / name, **GPUS)
        write_json(
            run.identity_file, run.identity() | ({"group": "pair"} if name in members else {})
        )
    Group(tmp_path, "pair").add(members)
    document = json_of("usage --json")
    assert [row["name"] for row in document["runs"]] == ["a", "b", "c"]
    assert [(row["name"], row["used"]) for row in document["groups"]] == [
        ("pair", pytest.approx(24.0))
    ]
    assert document["totals"][0]["used"] == pytest.approx(36.0)
    of_group = json_of("usage pair a --json")
    assert [row["name"] for row in of_group["runs"]] == ["a", "b"], "each run once"
    assert "group pair" in invoke("usage").stdout
    assert "12 GPU-hours: " in invoke("status a").stdout
    invoke("usage nobody", code=3)


STEPS = ("train.steps=3600",)


def rated(path, rate, *overrides):
    run = run_with(path, overrides=overrides)
    write_json(
        run.progress_file, {"attempt": 0, "step": 10, "steps": 20, "steps_per_s": rate, "time": 1.0}
    )


def test_the_median_rate_of_comparable_runs(tmp_path):
    for number, rate in enumerate((1.0, 2.0, 30.0)):
        rated(tmp_path / f"a{number}", rate)
    rated(tmp_path / "wider", 900.0, "cluster.tasks_per_node=2")
    rated(tmp_path / "larger", 900.0, "network.width=999")
    rated(tmp_path / "batch", 900.0, "train.batch_size=7")
    found = estimate(tmp_path, toy_recipe(*STEPS))
    assert (found.rate, found.seconds, found.hours, found.unit) == (2.0, 1800.0, 0.5, "core-hours")
    assert set(found.runs) == {"a0", "a1", "a2"}
    line = "estimate: 30m00s of training, 0.5 core-hours, at 2 steps/s as in a"
    assert estimate_line(found, time.time()).startswith(line)
    assert estimate(tmp_path, toy_recipe(*STEPS, "network.width=7")) is None
    assert "or earlier if other jobs end" in estimate_line(None, time.time() + 900)
