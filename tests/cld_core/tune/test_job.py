"""A tuning in its folder: resuming to the same bits, what is shared, and what becomes of a damaged
one."""

import itertools
import json
import math
import shutil

import pytest
import torch

from cld_core import ranks
from cld_core.config import with_overrides
from cld_core.errors import NotFoundError
from cld_core.model import Model
from cld_core.records import find_record
from cld_core.rendezvous import Place
from cld_core.run import RunFolder
from cld_core.run.tunings import STAGES, STATE, TuneRequest, Tuning, TuningState
from cld_core.run.work import open_work, tunings_of
from cld_core.stop import StopFlag
from cld_core.tune import Fitted, Job
from tests.support.stopping import StopWhen
from tests.support.tools import ONE, told_by_solution, trained


@pytest.fixture(scope="module")
def diamond(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "trained", "toy_diamond", *ONE)


@pytest.fixture(scope="module")
def solved(diamond, tmp_path_factory):
    """The run with one tuning of no budget."""
    shutil.copytree(diamond.path, path := tmp_path_factory.mktemp("solved") / "trained")
    compute(tuning(RunFolder(path), budget_min=0.0))
    return path


@pytest.fixture
def tuned_run(solved, tmp_path):
    return RunFolder(shutil.copytree(solved, tmp_path / "tuned"))


@pytest.fixture
def run(diamond, tmp_path):
    return RunFolder(shutil.copytree(diamond.path, tmp_path / "trained"))


@pytest.fixture
def other(diamond, tmp_path):
    """The same run in another place."""
    return RunFolder(shutil.copytree(diamond.path, tmp_path / "other"))


def tuning(run, nfe=3, **keys):
    keys = {"points": 8, "budget_min": None, "seed": 0, **keys}
    request = TuneRequest.of(run.recipe(), 20, nfe, **keys)
    return Tuning(request.store(run.tuned / request.id))


def compute(work, stop_after=math.inf):
    readings = itertools.count(1)
    return work.compute(
        ranks.alone(Place(), gpu=False), StopWhen(lambda: next(readings) > stop_after)
    ).is_done


def test_an_interrupted_tuning_goes_on_to_the_same_bits(run, other):
    """Wherever it is interrupted, whatever is solved meanwhile."""
    whole, cut = (tuning(one, nfe=4) for one in (run, other))
    assert compute(whole)
    stops = 0
    while not compute(cut, stop_after=17):
        cut, stops = open_work(cut.folder), stops + 1
        assert not cut.is_done
        compute(tuning(cut.run, nfe=3, budget_min=0.0))
    assert stops >= 5
    assert told_by_solution(cut.solution) == told_by_solution(whole.solution)
    assert set(whole.solution.rms) == set(STAGES)
    assert whole.solution.rms["coefficients"] < whole.solution.rms["untuned"]
    assert not whole.solution.cut_off
    assert open_work(whole.folder).request == whole.request


@pytest.mark.parametrize("place", ["state", "flow"])
def test_what_is_damaged_is_computed_again(run, other, place):
    whole, cut = (tuning(one, budget_min=0.0) for one in (run, other))
    assert compute(whole)
    # The flag is read once for each missing file, too: the state, and the ends of the flow.
    assert not compute(cut, stop_after=12)
    assert cut.rows_done()[0] == 10
    (flow,) = cut.run.tuned.glob("flow-*.npz")
    damaged = cut.folder / STATE if place == "state" else flow
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert compute(cut)
    assert told_by_solution(cut.solution) == told_by_solution(whole.solution)


def test_a_budget_ends_a_fit(tuned_run):
    (spent,) = tunings_of(tuned_run)
    assert spent.solution.about["evaluations"] < 300
    rows = find_record(TuningState, spent.folder / STATE).rows
    assert [len(rows.get(stage, ())) for stage in STAGES] == [STAGES["untuned"], 1, 1]
    assert spent.solution.cut_off


def test_the_flow_does_not_count_against_the_budget(run, monkeypatch):
    """The flow alone takes an hour by this clock, and every other row no time."""
    now = [0.0]
    solved = Job._batch
    monkeypatch.setattr(
        Job, "_batch", lambda self, first: (now.append(3600.0), solved(self, first))[1]
    )
    monkeypatch.setattr("cld_core.tune.time.monotonic", lambda: sum(now))
    compute(work := tuning(run, nfe=2, budget_min=1.0))
    assert len(now) > 1
    assert not work.solution.cut_off
    assert work.solution.about["seconds"] == 0.0


def test_a_larger_budget_goes_on_from_the_rows_of_a_smaller_one(run, other, capsys):
    compute(spent := tuning(run, nfe=2, budget_min=0.0))
    assert spent.is_done
    cut_off = spent.solution
    capsys.readouterr()
    larger = tuning(run, nfe=2)
    assert larger.name == spent.name
    assert not larger.is_done
    compute(larger)
    assert capsys.readouterr().out.splitlines()[1].startswith("grid 2/"), (
        "nothing is computed twice"
    )
    compute(whole := tuning(other, nfe=2))
    assert larger.solution.digest == whole.solution.digest
    assert larger.solution.rms == whole.solution.rms
    assert (cut_off.cut_off, whole.solution.cut_off) == (True, False)
    assert tuning(run, nfe=2, budget_min=0.0).is_done, "nothing is left that a budget could end"


def test_tunings_share_the_ends_of_the_flow(tuned_run, capsys):
    compute(tuning(tuned_run, nfe=4, budget_min=0.0))
    assert "flow 1/" not in capsys.readouterr().out
    assert {work.request.nfe for work in tunings_of(tuned_run)} == {3, 4}


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
        Job(work, torch.device("cpu"), StopFlag())


POINTS = 12
GUIDED = ("sampling.guidance=1.5", "sampling.guidance_to=0.9")


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "modes", "toy_labels", *ONE)


def fitted(modes, *overrides):
    """A tuning with no budget, and its job."""
    recipe = with_overrides(modes.recipe(), list(overrides))
    request = TuneRequest.of(recipe, 20, 3, points=POINTS, budget_min=0.0, seed=0)
    work = Tuning(request.store(modes.tuned / request.id))
    if not work.is_done:
        work.compute(ranks.alone(Place(), gpu=False))
    return work, Job(work, torch.device("cpu"), StopFlag())


@pytest.mark.parametrize("overrides", [(), GUIDED], ids=["conditional", "guided"])
def test_the_flow_is_given_labels_and_guidance(modes, overrides):
    _, job = fitted(modes, *overrides)
    model = Model.from_run(modes.path)
    keys = {} if not overrides else {"guidance": 1.5, "guidance_to": 0.9}
    labels = model.labels(None, POINTS)
    assert len(set(labels.tolist())) > 5
    assert job._labels.tolist() == labels.tolist()
    u = torch.ones(2 * POINTS, model.sde.n * 2)
    score, spec = job._score_of(0, 2 * POINTS), job._spec
    assert (spec.guidance, spec.guidance_to) == (
        keys.get("guidance", 1.0),
        keys.get("guidance_to", 1.0),
    )
    given = model.score(u, 0.5, labels.repeat(2))
    none = model.score(u, 0.5, torch.full_like(labels, 9).repeat(2))
    wanted = none + spec.guidance * (given - none)
    assert torch.allclose(score(u, 0.5), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(u, 0.5), none, rtol=1e-2, atol=1e-2)
    assert job._flow["x"].shape == (2 * POINTS, 2)


def test_copies_of_points_have_their_labels(modes):
    """In parts of any size, as derivatives evaluate them; guidance takes two evaluations of the
    network."""
    _, job = fitted(modes, *GUIDED)
    model = Model.from_run(modes.path)
    u = torch.randn(
        3 * POINTS, model.sde.n * 2, generator=torch.Generator().manual_seed(0)
    ).double()
    counted = []
    score = job._score_of(0, POINTS)
    one, parts = (
        Fitted(score, model.sde, size, counted.append, points=POINTS) for size in (1000, 5)
    )
    whole = one.alpha(u, 0.5)
    assert counted == [2 * 3 * POINTS]
    assert torch.allclose(parts.alpha(u, 0.5), whole, rtol=1e-4, atol=1e-4)
    assert torch.allclose(
        one.alpha(u[POINTS : 2 * POINTS], 0.5), whole[POINTS : 2 * POINTS], rtol=1e-4, atol=1e-4
    )
    counted.clear()
    one.alpha(u, 0.95)
    assert counted == [3 * POINTS], "guidance does not act there"
