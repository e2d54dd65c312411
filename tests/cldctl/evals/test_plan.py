"""From what is typed to requests: which checkpoints, which combinations, what is refused at once; tables of sweeps."""

import csv

import pytest
from PIL import Image

from cld_core.config.sampling import OdeSpec
from cld_core.errors import CheckpointError, NotFoundError, UsageError
from cld_core.evaluate import extraction
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.extraction import FeatureInputs
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.evaluate.sweeps import Sweep, sweeps_of
from cld_core.files import write_json
from cld_core.ranks import Ranks
from cld_core.solutions import FILE, Coefficients, Flow, Solution, Solutions
from cldctl.evals import plan, table
from cldctl.show.evaluations import sweep_table
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder
from tests.support.made_up import damage, report, run_with
from tests.support.screen import text
from tests.support.tools import train


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 10, 20, 30)


def test_last_and_all_skip_damaged_checkpoints_but_a_named_step_is_refused(run, monkeypatch):
    assert plan.checkpoints(run, "last") == ([30], [])
    listed = run.checkpoint_steps
    monkeypatch.setattr(run, "checkpoint_steps", lambda: [5, *listed()])
    assert plan.checkpoints(run, "all") == ([10, 20, 30], []), "one that was cleared away meanwhile does not count"
    damage(run, 30)
    for wanted, steps in (("last", [20]), ("all", [10, 20])):
        found, damaged = plan.checkpoints(run, wanted)
        assert (found, [entry.step for entry in damaged]) == (steps, [30])
        assert "damaged" in damaged[0].reason
    with pytest.raises(CheckpointError, match=r"step_00000030.*damaged"):
        plan.checkpoints(run, "30")
    with pytest.raises(NotFoundError, match=r"no checkpoint '15'.*10, 20, 30"):
        plan.checkpoints(run, "15")
    for step in (10, 20):
        damage(run, step)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        plan.checkpoints(run, "all")


def test_every_combination_is_a_request_and_an_invalid_one_is_named(run):
    axes = plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,3"])
    made = plan.make(run, ("elbo",), [30], ["eval.samples=8"], axes)
    asked = [(request.elbo.velocities, request.elbo.probes) for request in made.requests]
    assert asked == [(1, 1), (1, 2), (1, 3), (4, 1), (4, 2), (4, 3)]
    assert made.sweep.evaluations == tuple(request.id for request in made.requests)
    steps = plan.make(run, ("elbo",), [20, 30], [], axes)
    assert [axis.key for axis in steps.sweep.axes] == ["checkpoint", "eval.elbo.velocities", "eval.elbo.probes"]
    assert len(steps.requests) == 12
    wrong = plan.parse(["eval.elbo.velocities=1,0", "eval.elbo.probes=1,2"])
    with pytest.raises(UsageError, match=r"at eval\.elbo\.velocities=0 eval\.elbo\.probes=1: .*velocities"):
        plan.make(run, ("elbo",), [30], [], wrong)
    with pytest.raises(UsageError, match=r"'sampling\.nfe' has no effect"):
        plan.make(run, ("elbo",), [30], [], plan.parse(["sampling.nfe=20,50"]))
    with pytest.raises(UsageError, match=r"train\.steps.*can be changed"):
        plan.make(run, ("elbo",), [30], ["train.steps=3"])


@pytest.fixture
def features(monkeypatch):
    """Weights and statistics that nobody looks for."""
    ref = FeatureInputs(extractor="tiny", layer="all", quantisation="round", stats="abc")
    monkeypatch.setattr(extraction, "of", lambda recipe, metrics: (ref, {}))


def test_cells_that_draw_the_same_samples_share_an_evaluation(tmp_path, features):
    axes = plan.parse(["sampling.method=em,exponential,ode", "sampling.nfe=20,50"])
    # The keys of the recipe's own method do not get in the way of the others.
    run = run_with(tmp_path / "mine", 30, overrides=("sampling.method=sscs", "sampling.sscs_order=2"))
    made = plan.make(run, ("fid",), [30], [], axes)
    asked = [(request.sampling.method, getattr(request.sampling, "nfe", None)) for request in made.requests]
    assert asked == [("em", 20), ("em", 50), ("exponential", 20), ("exponential", 50), ("ode", None)]
    assert made.requests[-1].sampling == OdeSpec()
    assert [cell.evaluation for cell in made.sweep.cells[-2:]] == [made.requests[-1].id] * 2


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["eval.seed"], "KEY=a,b,c"),
        (["eval.seed=1,,2"], "KEY=a,b,c"),
        (["train.steps=1,2"], "only keys of sampling, eval and ema"),
        (["eval.seed=1", "eval.seed=2"], "is given twice"),
        (["eval.seed=1,2,1"], "has a value twice"),
    ],
)
def test_what_is_not_an_axis_is_refused(texts, words):
    with pytest.raises(UsageError, match=words):
        plan.parse(texts)


def test_an_axis_with_one_value_is_checked_like_a_setting(run):
    """The default sampler takes no number of evaluations."""
    with pytest.raises(UsageError, match=r"--sweep 'sampling\.nfee': there is no such key\. .*sampling\.nfe"):
        plan.parse(["sampling.nfee=20"])
    with pytest.raises(UsageError, match=r"sampling\.nfe=20: .*nfe"):
        plan.make(run, ("elbo",), [30], [], plan.parse(["sampling.nfe=20"]))
    with pytest.raises(UsageError, match="cannot be 'oneword'"):
        plan.make(run, ("elbo",), [30], [], plan.parse(["eval.elbo.probes=oneword"]))


def test_each_checkpoint_is_evaluated_with_the_solution_that_was_tuned_to_it(run):
    steps = (10, 20, 30)
    for step in steps:
        solution = Solution(
            coefficients=Coefficients((1.0, 0.1 + step / 1000), (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),) * 2),
            flow=Flow(eps=1e-3, denoise=True),
            step=step,
            rms={},
            about={},
        )
        folder = run.tuned / f"of-{step}"
        folder.mkdir(parents=True)
        write_json(folder / FILE, solution.content())
    made = plan.make(run, ("elbo", "w2"), steps, ["sampling.method=tuned", "sampling.nfe=2"])
    found = {request.checkpoint_step: request.sampling.solution for request in made.requests}
    assert found == {one.step: one.digest for one in Solutions.of_run(run).read()}
    assert len(set(found.values())) == 3


@pytest.fixture
def swept(tmp_path):
    return run_with(tmp_path / "mine", 10, 20)


def answer(swept, request, nll):
    report(swept, request, elbo={"nll": nll, "stderr": 0.25, "nfe_mean": 80.0})


def test_table_csv_and_plot_of_a_sweep(swept):
    made = plan.make(swept, ("elbo",), [20], [], plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"]))
    folder = made.sweep.save(swept)
    values = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    for request, value in zip(made.requests[:-1], values[:-1], strict=True):
        answer(swept, request, value)
    made.requests[-1].save(swept)
    table.write_finished(swept)
    assert not (folder / "table.csv").exists(), "a cell is missing"
    finished = {"state": "FINISHED", "results": {"nll": {"value": 1.0, "stderr": 0.25, "n": 2000}}}
    evals = {request.id: finished for request in made.requests[:-1]}
    evals[made.requests[-1].id] = {"state": "RUNNING", "results": {}}
    shown = text(sweep_table(made.sweep, table.rows(swept, made.sweep), evals)).splitlines()
    assert shown[0].strip() == "NLL bound, nats by eval.elbo.velocities and eval.elbo.probes, 2,000 points"
    assert [line.split() for line in shown if "±" in line] == [
        ["1", "1.000", "±", "0.250", "1.500", "±", "0.250", "2.000", "±", "0.250"],
        ["4", "2.500", "±", "0.250", "3.000", "±", "0.250", "running"],
    ]
    answer(swept, made.requests[-1], values[-1])
    table.write_finished(swept)
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["eval.elbo.velocities"], row["eval.elbo.probes"], float(row["nll"])) for row in rows] == [
        (str(velocities), str(probes), values[3 * (velocities == 4) + index])
        for velocities in (1, 4)
        for index, probes in enumerate((1, 2, 8))
    ]
    assert rows[0]["nll_stderr"] == "0.25"
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert Sweep.load(folder) == made.sweep
    assert sweeps_of(swept) == [(folder, made.sweep)]


@pytest.mark.slow
def test_fid_by_sampler_and_nfe(tmp_path):
    """The paper's table of a tiny model of images: every cell is drawn as it says."""
    settings = ("train.steps=2", "eval.samples=24", "eval.batch_size=24")
    swept = train(run_folder(tmp_path, make_images(tmp_path / "set"), *settings, *TINY))
    assert Statistics(StatsRequest.of(swept.recipe(), None, features=False, shards=1).save()).compute(Ranks())
    axes = plan.parse(["sampling.method=em,exponential", "sampling.nfe=2,3"])
    made = plan.make(swept, ("fid",), [2], [], axes, shards=2)
    made.sweep.save(swept)
    for request in made.requests:
        assert Evaluation(request.save(swept)).compute(Ranks())
    table.write_finished(swept)
    rows = table.rows(swept, made.sweep)
    assert [row["fid_nfe"] for row in rows] == [2.0, 3.0, 2.0, 3.0], "each cell is drawn as it says"
    assert len({row["fid"] for row in rows}) == 4
    for row in rows:
        work = Evaluation(swept.evals / row["evaluation"])
        assert row["fid"] == work.report["fid"]["value"]
        about = Image.open(work.folder / "samples.png").info["Description"]
        how = f"{row['sampling.method']}, {row['sampling.nfe']} NFE"
        assert about.endswith(f" samples, {how}"), "the picture is drawn in the same way"
    assert (swept.evals / made.sweep.id / "table.csv").read_text() == table.to_csv(rows)
