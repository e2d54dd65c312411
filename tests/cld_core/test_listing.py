"""Runs as a table; nothing in the texts of others steers a terminal."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cld_core
from cld_core.config import describe
from cld_core.errors import NotFoundError, UsageError, did_you_mean, nearest
from cld_core.evaluate.request import EvalRequest
from cld_core.files import write_json
from cld_core.run.events import Ended, GivenUp, Refused, Requested, Started
from cld_core.sanitize import has_control, is_count, local_time, one_line, printable
from tests.support.made_up import report, run_with


def attempt(run, cause=None, step=10, number=0):
    run.ledger.append(Started(attempt=number, job_id="1", step=0))
    if cause is not None:
        run.ledger.append(Ended(attempt=number, cause=cause, step=step))
    return run


def made(run, created):
    write_json(run.identity_file, {**run.identity(), "created": float(created)})
    return run


@pytest.fixture
def root(tmp_path):
    """Three runs, the newest one first by name."""
    root = tmp_path / "runs"
    waiting = made(run_with(root / "c-waiting", overrides=("train.steps=900",)), 1)
    waiting.ledger.append(Requested(cluster="local", steps=900))
    done = made(attempt(run_with(root / "b-done", 1000, 2000), "finished", 2000), 2)
    write_json(done.progress_file, {"step": 2000, "steps": 2000, "loss": 0.25, "smoothed_loss": 0.3, "attempt": 0})
    for step, nll in ((1000, 0.75), (2000, 0.5)):
        report(done, EvalRequest.of(done.recipe(), ("elbo",), step), elbo={"nll": nll, "stderr": 0.1})
    made(attempt(run_with(root / "a-new", overrides=("sde.name=vpsde", "objective.name=dsm"))), 3)
    return root


def test_a_row_says_what_the_folder_tells(root):
    assert cld_core.runs(root).to_dicts()[1] == {
        "name": "b-done",
        "path": str(root / "b-done"),
        "recipe": "toy",
        "data": "multimodal_swissroll",
        "sde": "cld",
        "step": 2000,
        "steps": 2000,
        "loss": 0.25,
        "smoothed_loss": 0.3,
        "state": "FINISHED",
        "cause": "finished",
        "bpd": None,
        "nll": 0.5,
        "fid": None,
        "problem": None,
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
    with pytest.raises(UsageError, match=r"Runs\.filter: there is no column 'stat'\. Did you mean 'state'\?"):
        runs.filter(stat="FINISHED")


def test_a_table_is_aligned_and_leaves_out_empty_columns(root):
    titles, waiting, done, new = repr(cld_core.runs(root)).splitlines()
    assert titles.split() == ["name", "recipe", "data", "sde", "step", "steps", "loss", "smoothed_loss", "state", "nll"]
    row = ["b-done", "toy", "multimodal_swissroll", "cld", "2,000", "2,000", "0.25", "0.3", "FINISHED", "0.5"]
    assert done.split() == row
    # Texts begin below their titles, numbers end there.
    assert {line.index("toy") for line in (waiting, done, new)} == {titles.index("recipe")}
    assert done.index("2,000") + len("2,000") == titles.index("step") + len("step")


@pytest.mark.parametrize(
    ("cause", "state"),
    [("preempted", "STOPPED"), ("cancelled", "CANCELLED"), ("nonfinite", "FAILED"), ("killed", "LOST")],
)
def test_the_cause_of_the_last_end_is_the_state(tmp_path, cause, state):
    run = attempt(run_with(tmp_path / "one"), cause)
    (row,) = cld_core.runs(tmp_path)
    assert (row.state, row.cause, row.step) == (state, cause, 10)
    run.ledger.append(GivenUp(job_id="1", reason="enough"))
    assert cld_core.runs(tmp_path)[0].state == ("CANCELLED" if cause == "cancelled" else "FAILED")
    run.ledger.append(Requested(cluster="slurm", steps=10))
    run.ledger.append(Refused("submission", reason="no"))
    assert cld_core.runs(tmp_path)[0].state == "FAILED"


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
    where = f"no runs in {tmp_path / 'none'}"
    assert (len(runs), runs.to_dicts(), repr(runs)) == (0, [], f"{where}: there is no such folder")
    (tmp_path / "none").mkdir()
    assert repr(cld_core.runs()) == where


def test_listing_loads_no_torch(root):
    heavy = "{'torch', 'numpy'} & set(sys.modules)"
    code = f"import sys, cld_core, cld_core.stop; print(len(cld_core.runs({str(root)!r})), {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "set()"]


ANY = st.text(st.characters(codec=None), max_size=60)
steadily = settings(derandomize=True, deadline=None, max_examples=300)


@steadily
@given(ANY)
def test_nothing_that_steers_a_terminal_is_left(text):
    assert not has_control(printable(text, keep=""))
    assert printable(printable(text)) == printable(text)
    if not has_control(text):
        assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "31mred"),
        ("a\tb\nc\rd\x08e", "a\tb\ncde"),
        ("\u202eabc\u2066", "abc"),
        ("/data/\udcff.npz", "/data/\ufffd.npz"),
        ("na\u00efve \u6f22 \U0001f600", "na\u00efve \u6f22 \U0001f600"),
    ],
)
def test_what_is_left(text, left):
    assert printable(text) == left


@steadily
@given(ANY, st.integers(2, 80))
def test_one_line_is_short(text, most):
    line = one_line(text, most)
    assert len(line) <= most
    assert not has_control(line)


@steadily
@given(st.integers(0, 10**18 - 1))
def test_a_count_has_one_spelling(number):
    assert is_count(str(number))
    assert not is_count(f"0{number}")
    assert not is_count(f" {number}")


def test_what_is_not_a_count():
    others = ("", "-1", "+1", "1_0", "1e3", "\u00b2", "\u0967", "1.0", "9" * 19, "1\n", "0x1", "00")
    assert not any(map(is_count, others))


@pytest.mark.parametrize("moment", [None, 1e17, -1e17, 1e300, float("inf"), float("nan")])
def test_a_time_that_no_clock_shows_is_unknown(moment):
    assert local_time(moment, "%H", unknown="?") == "?"


def test_a_time_is_that_of_clocks_here():
    noon = time.mktime((2026, 11, 26, 12, 0, 30, 0, 0, -1))
    assert local_time(noon) == "2026-11-26 12:00"
    assert local_time(noon, "%H:%M:%S") == "12:00:30"


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("train.stepz", "train.steps"),
        ("nfe", "sampling.nfe"),
        ("cluster.gpu", "cluster.gpus_per_node"),
        ("network.", "network.name"),
        ("xyzzy", None),
    ],
)
def test_a_key_is_near_by_its_name_and_not_by_its_section(word, close):
    found = nearest(word, [*describe.keys(), *filter(None, describe.sections())])
    assert found == close or (word == "network." and found.startswith("network."))


def test_names_are_near_if_they_are_alike():
    assert did_you_mean("slrm", ["slurm", "local"]) == " Did you mean 'slurm'?"
    assert nearest("toy-0102", ["toy-0102-101112-ab12", "other"]) == "toy-0102-101112-ab12"
    assert nearest("", ["one"]) is None
    assert nearest("one", []) is None
    assert nearest("x" * 10_000, ["one", "two"]) is None
