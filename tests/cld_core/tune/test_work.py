"""A tuning in its folder: resuming to the same bits, what is shared, and what becomes of a damaged one."""

import json
import shutil

import numpy as np
import pytest

from cld_core import ranks, solutions
from cld_core.errors import NotFoundError
from cld_core.place import Place
from cld_core.run import RunFolder
from cld_core.shards import open_work
from cld_core.shards.files import Sealed
from cld_core.solutions import Solution
from cld_core.tune import computing, fit
from cld_core.tune.computing import TuneComputation
from cld_core.tune.request import TuneRequest
from cld_core.tune.stages import CANDIDATES, STAGES
from cld_core.tune.work import Tuning, tunings_of
from tests.support.tools import DEBUG, ONE, invoke, told_by_solution


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    invoke("submit", "toy_diamond", *ONE, "--name", "trained", *DEBUG, runs=runs)
    return RunFolder(runs / "trained")


@pytest.fixture(scope="module")
def solved(trained, tmp_path_factory):
    """The run with one tuning of no budget."""
    shutil.copytree(trained.path, path := tmp_path_factory.mktemp("solved") / "trained")
    compute(tuning(RunFolder(path), budget_min=0.0))
    return path


@pytest.fixture
def tuned_run(solved, tmp_path):
    shutil.copytree(solved, tmp_path / "tuned")
    return RunFolder(tmp_path / "tuned")


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "trained")
    return RunFolder(tmp_path / "trained")


def tuning(run, nfe=3, **keys):
    keys = {"points": 8, "budget_min": None, "seed": 0, **keys}
    request = TuneRequest.of(run.recipe(), 20, nfe, **keys)
    return Tuning(request.store(run.tuned / request.id))


def compute(work, stop_after=None):
    calls = []

    def should_stop():
        calls.append(1)
        return stop_after is not None and len(calls) > stop_after

    return work.compute(ranks.alone(Place(), gpu=False), should_stop)


def rows_of(work, kind):
    return Sealed(work.shards, 0, kind, 0, work.request.sizes[kind]).load()


def test_an_interrupted_tuning_goes_on_to_the_same_bits(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    whole, cut = (tuning(one, nfe=2) for one in (run, RunFolder(tmp_path / "other")))
    assert compute(whole)
    stops = 0
    while not compute(cut, stop_after=17):
        cut, stops = open_work(cut.folder), stops + 1
        # A batch that was cut short lies behind the rows that the state promises.
        for rows in cut.shards.glob("*.rows"):
            with rows.open("ab") as file:
                file.write(b"half a row")
    assert stops >= 3
    assert told_by_solution(cut.solution) == told_by_solution(whole.solution)
    assert whole.solution.rms["coefficients"] < whole.solution.rms["untuned"]
    assert whole.solution.kept == "coefficients"
    assert whole.is_done
    assert open_work(whole.folder).request == whole.request


def test_a_budget_ends_a_fit(tuned_run):
    (spent,) = tunings_of(tuned_run)
    assert spent.solution.about["evaluations"] < 300
    for stage in ("grid", "coefficients"):
        rows = rows_of(spent, stage)
        assert (rows["evaluations"] > 0).tolist() == [True] + [False] * (STAGES[stage] - 1)
        for name in ("which", "damping", "fit", "held", "parameters"):
            assert (rows[name] == rows[name][:1]).all(), "each is the first one again"


def test_the_flow_does_not_count_against_the_budget(run, monkeypatch):
    """The flow alone takes an hour by this clock, and every other row no time."""
    now = [0.0]
    solved = TuneComputation._flow
    monkeypatch.setattr(TuneComputation, "_flow", lambda self, block: (now.append(3600.0), solved(self, block))[1])
    monkeypatch.setattr(computing.time, "monotonic", lambda: sum(now))
    compute(work := tuning(run, nfe=2, budget_min=1.0))
    assert (rows_of(work, "flow")["seconds"] > 0).all()
    assert (rows_of(work, "grid")["evaluations"] > 0).all()
    assert work.solution.about["seconds"] == 0.0


def test_a_longer_budget_goes_on_from_the_rows_of_a_shorter_one(run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "other")
    compute(spent := tuning(run, nfe=2, budget_min=0.0))
    compute(longer := tuning(run, nfe=2))
    printed = capsys.readouterr().out
    assert f"untuned {STAGES['untuned']}/{STAGES['untuned']}, taken from {spent.name}" in printed
    assert f"grid 1/{STAGES['grid']}, taken from {spent.name}" in printed
    compute(whole := tuning(RunFolder(tmp_path / "other"), nfe=2))
    assert longer.name == whole.name != spent.name
    assert longer.solution.digest == whole.solution.digest
    assert longer.solution.rms == whole.solution.rms


def test_candidates_with_more_coefficients_than_others_are_kept_whole(run, monkeypatch):
    """With a corrector, order 3 uses one alpha more than the others; here every candidate has its turn."""
    monkeypatch.setattr(fit, "STARTS", len(CANDIDATES))
    monkeypatch.setattr(fit, "PLAIN", 1)
    work = tuning(run, nfe=5)
    assert compute(work)
    rows = rows_of(work, "coefficients")
    turns = rows["which"][: len(CANDIDATES)].tolist()
    assert sorted(turns) == list(range(len(CANDIDATES)))
    numbers = dict(zip(turns, np.isfinite(rows["parameters"]).sum(1).tolist(), strict=False))
    assert numbers == {0: 45, 1: 45, 2: 45, 3: 45, 4: 45, 5: 46}
    assert all((rows[name] > 0).all() for name in ("damping", "fit", "held", "evaluations", "seconds"))
    read = [len(row.parameters) for row in computing._rows_of(rows)]
    assert read[: len(CANDIDATES)] == [numbers[which] for which in turns]


def test_tunings_share_the_ends_of_the_flow(tuned_run, capsys):
    compute(tuning(tuned_run, nfe=4, budget_min=0.0))
    assert "flow 2/2, taken from nfe003" in capsys.readouterr().out
    assert {work.request.nfe for work in tunings_of(tuned_run)} == {3, 4}


def test_a_solution_survives_its_file(tuned_run):
    (work,) = tunings_of(tuned_run)
    solution = work.solution
    assert Solution.of_content(json.loads(json.dumps(solution.content()))) == solution
    assert solutions.in_run(tuned_run) == [solution]


def test_another_checkpoint_of_the_step_makes_it_stale(tuned_run):
    (work,) = tunings_of(tuned_run)
    sidecar = tuned_run.checkpoint_file(20).with_suffix(".json")
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "weights": {"bytes": 1, "sha256": "0" * 64}}))
    assert work.solution is None
    sidecar.unlink()
    tuned_run.checkpoint_file(20).unlink()
    assert work.is_done
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 20 any more; there are: 10"):
        work.made_of(strict=True)
