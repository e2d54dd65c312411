"""Tables of runs: what is shown at some width, on a terminal and in a pipe; nothing is hidden that
somebody needs."""

import pytest

from cldctl.runs.status import RunStatus
from cldctl.show import runs
from tests.support.screen import screen

SENTENCE = (
    "another rank is gone, killed or crashed; `cldctl logs mine --rank N` shows the last "
    "output of each"
)

# A name as `submit` makes it: 30 characters.
NAME = "toy_published-1125-1020{:02d}-11{:02x}"


def row(name, state="RUNNING", **known):
    """A run as `status` knows it: half way, with what belongs to its state, unless ``known`` says
    otherwise."""
    attempt = {
        "attempt": 0,
        "job_id": "4123456",
        "first_step": 0,
        "last_step": 12_350,
        "detail": None,
        "ran_s": 61.0,
    }
    usual = {
        "step": 12_350,
        "steps": 800_000,
        "loss": 123.4,
        "smoothed_loss": 123.4,
        "checkpoint_step": 10_000,
    }
    usual |= {
        "attempts": [{**attempt, "cause": "nonfinite"}],
        "cluster": "slurm",
        "job_id": "4123456",
    }
    usual |= {"steps_per_s": 221.0, "eta_s": 3_563.0} if state == "RUNNING" else {}
    return RunStatus(name=name, path=f"runs/{name}", state=state, **{**usual, **known})


def evaluation(name="elbo-00800000-1f2e3d4c5b", n=2000, **known):
    """A finished evaluation as `status` knows it."""
    results = {"nll": {"value": -0.3931, "stderr": 0.0123, "n": n}}
    numbers = {"fid": None, "bpd": None, "nll": -0.3931, "stderr": 0.0123, "true_entropy": None}
    about = {
        "id": name,
        "state": "FINISHED",
        "cause": None,
        "reason": None,
        "checkpoint_step": 800_000,
    }
    shards = {"shards_done": 4, "shards": 4, "metrics": ["elbo"], "settings": "1f2e", "remarks": []}
    return {**about, **shards, **numbers, "results": results, **known}


STATES = ("FINISHED", "STOPPED", "FAILED", "CANCELLED", "LOST", "PENDING", "REQUEUED", "RUNNING")


def words(shown):
    """The rows below the heading of a table, in words."""
    return [line.split() for line in shown if line.strip() and "─" not in line][1:]


def test_every_run_has_its_line_with_state_step_and_eta(monkeypatch):
    """Under names that differ in their ends only; the last one trains."""
    rows = [row(NAME.format(place, place), state) for place, state in enumerate(STATES)]
    rows[0].evals.append(evaluation())
    wide = words(screen(monkeypatch, 80)(runs.overview(rows)))
    assert wide[-1][1:] == ["RUNNING", "12.35k/800k", "123.4", "221", "59m23s"]
    narrow = words(screen(monkeypatch, 60)(runs.overview(rows)))
    assert [line[1] for line in narrow] == [*STATES], "a line each"
    assert all(line[0].endswith(it.name[-10:]) for line, it in zip(narrow, rows, strict=True))
    assert "59m23s" in narrow[-1], "when a run will be done is the last thing to go"


def test_everything_about_a_run(monkeypatch):
    it = row("mine", "FAILED", reason="it failed")
    it.attempts[0]["detail"] = SENTENCE
    it.evals.append(evaluation(remarks=["the bound starts later than asked"]))
    shown = screen(monkeypatch, 120, terminal=False)(runs.details(it))
    for text in (
        "FAILED  it failed",
        "12,350 of 800,000  (1.5%)",
        "slurm 4123456",
        "runs/mine",
        "nonfinite: another",
    ):
        assert text in "\n".join(shown)
    assert "elbo-00800000-1f2e3d4c5b: the bound starts later than asked" in shown
    narrow = screen(monkeypatch, 60)(runs.details(it))
    assert {*SENTENCE.split(), "-0.393"} <= {*" ".join(narrow).split()}


def test_a_stopped_evaluation_does_not_hide_the_result_of_an_earlier_one():
    stopped = {
        "state": "STOPPED",
        "bpd": None,
        "nll": None,
        "fid": None,
        "shards_done": 0,
        "shards": 2,
        "results": {},
    }
    known = {**stopped, "state": "FINISHED", "nll": -0.393, "checkpoint_step": 64}
    assert runs.newest_result([known, stopped], 64) == "NLL bound -0.393"
    assert runs.newest_result([known, stopped], 70) == "NLL bound -0.393 (step 64)"
    assert runs.newest_result([known, {**stopped, "state": "RUNNING"}], 64) == "0/2 shards"
    assert runs.newest_result([stopped], 64) == "-", "it was never started"
    assert runs.newest_result([{**stopped, "cause": "crashed"}], 64) == "0/2 crashed"


# Short terminals: a run that trains is never hidden, and what does not fit is counted.


@pytest.mark.parametrize("is_sorted", [False, True])
def test_runs_that_train_come_first(monkeypatch, is_sorted):
    training = [row(f"live-{n}") for n in range(3)]
    rows = [training[0], *old(30), training[1], *old(5), training[2], *old(9)]
    shown = screen(monkeypatch, 80, 10)(runs.overview_with_groups(rows, 10, is_sorted=is_sorted))
    assert len(shown) < 10, "one line is the cursor's"
    names = [line[0] for line in words(shown)[:-1]]
    assert {"live-0", "live-1", "live-2"} <= {*names}
    assert is_sorted or names[:3] == ["live-0", "live-1", "live-2"], (
        "an order that was asked for stays"
    )
    assert f"and {len(rows) - len(names)} more" in shown[-1]


def old(number):
    return [row(f"old-{place:02d}", "FINISHED") for place in range(number)]
