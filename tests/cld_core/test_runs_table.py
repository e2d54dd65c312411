"""Runs as a table."""

import subprocess
import sys

import pytest

import cld_core
from cld_core.errors import NotFoundError, UsageError
from cld_core.files import write_json
from tests.support.made_up import (
    bound,
    ended,
    note,
    queued,
    requested,
    run_with,
    started,
)


def attempt(run, cause=None, step=10, number=0):
    note(run, queued("1", cluster="slurm"), started(number, job_id="1"))
    if cause is not None:
        note(run, ended(cause, step, attempt=number))
    return run


def made(run, created):
    write_json(run.identity_file, {**run.identity(), "created": float(created)})
    return run


@pytest.fixture
def root(tmp_path):
    """Three runs, the newest one first by name."""
    root = tmp_path / "runs"
    waiting = made(run_with(root / "c-waiting", overrides=("train.steps=900",)), 1)
    note(waiting, requested(900, cluster="local"))
    done = made(attempt(run_with(root / "b-done", 1000, 2000), "finished", 2000), 2)
    losses = {"loss": 0.25, "smoothed_loss": 0.3}
    write_json(done.progress_file, {"step": 2000, "steps": 2000, "attempt": 0, **losses})
    for step, nll in ((1000, 0.75), (2000, 0.5)):
        bound(done, step, nll)
    made(attempt(run_with(root / "a-new", overrides=("sde.name=vpsde", "objective.name=dsm"))), 3)
    return root


def test_a_row_says_what_the_folder_tells(root):
    about = {"name": "b-done", "path": str(root / "b-done"), "recipe": "toy", "sde": "cld"}
    progress = {"step": 2000, "steps": 2000, "loss": 0.25, "smoothed_loss": 0.3}
    assert cld_core.runs(root).to_dicts()[1] == {
        **about,
        "data": "multimodal_swissroll",
        **progress,
        "state": "FINISHED",
        "cause": "finished",
        "nll": 0.5,
        **dict.fromkeys(("bpd", "fid", "problem")),
    }


def test_rows_are_found_by_age_by_name_and_by_what_they_hold(root):
    runs = cld_core.runs(root)
    assert [run.name for run in runs] == ["c-waiting", "b-done", "a-new"]
    assert [run.state for run in runs] == ["PENDING", "FINISHED", "RUNNING"]
    assert (runs[-1].name, runs["b-done"].step, len(runs[:2])) == ("a-new", 2000, 2)
    assert [run.name for run in runs.filter(sde="vpsde")] == ["a-new"]
    assert [run.name for run in runs.filter(lambda run: run.step > 0, sde="cld")] == ["b-done"]
    assert runs["c-waiting"].steps == 900
    with pytest.raises(NotFoundError, match=r"no run 'b-don' in .*runs\. Did you mean 'b-done'\?"):
        runs["b-don"]
    words = r"Runs\.filter: there is no column 'stat'\. Did you mean 'state'\?"
    with pytest.raises(UsageError, match=words):
        runs.filter(stat="FINISHED")


def test_a_damaged_folder_is_a_row_with_the_reason(root):
    (root / "b-done" / "run.json").write_text("{")
    (root / "a-new" / "recipe.yaml").write_text("train: {stepz: 1}")
    runs = cld_core.runs(root)
    assert len(runs) == 3
    assert "run.json is damaged" in runs["b-done"].problem
    assert runs["b-done"].state == "LOST"
    assert "stepz" in runs["a-new"].problem
    assert (runs["a-new"].state, runs["c-waiting"].problem) == ("RUNNING", None)


def test_texts_of_others_stay_texts(root):
    (root / "b-done" / "recipe.yaml").write_text('name: "<b>\\e[31m</b>"\n')
    (root / "a-new").rename(root / "a-\x1b[31m")
    shown = repr(cld_core.runs(root))
    assert "\x1b" not in shown
    assert "<b>" in shown
    assert "a-" in shown


def test_no_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CLDCTL_RUNS", str(tmp_path / "none"))
    runs = cld_core.runs()
    assert (len(runs), runs.to_dicts()) == (0, [])
    assert "there is no such folder" in repr(runs)


def test_listing_loads_no_torch(root):
    heavy = "{'torch', 'numpy'} & set(sys.modules)"
    code = f"import sys, cld_core, cld_core.stop; print(len(cld_core.runs({str(root)!r})), {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "set()"]
