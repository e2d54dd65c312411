"""`cldctl tune`, and what uses its solutions: samples, evaluations, exports."""

import json
import shutil

import pytest

import cld_core
from cld_core.errors import UsageError
from cld_core.recipe.sampling import TunedSpec
from cld_core.run import RunFolder
from cld_core.tuned.work import tunings_of
from tests.cldctl.page.parsed import Parsed
from tests.support.tools import DEBUG, invoke

QUICK = ("--points", "8", "--budget", "0", *DEBUG)


@pytest.fixture(scope="module")
def tuned(runs, tmp_path_factory):
    """A folder with the run `done`, tuned for 2 and 3 evaluations."""
    here = tmp_path_factory.mktemp("tuned")
    shutil.copytree(runs / "done", here / "done")
    shown = invoke("tune", "done", "--nfe", "2,3", *QUICK, runs=here)
    assert "step 20: the flow of 16 draws, then at most" in shown.stderr
    assert "sample done --method tuned --nfe 3" in shown.stderr
    return here


def test_a_second_time_finds_the_result(tuned):
    again = invoke("tune", "done", "--nfe", "3", *QUICK, "--json", runs=tuned)
    assert "is already complete" in again.stderr
    assert "evaluations of the network" not in again.stderr
    (entry,) = json.loads(again.stdout)["tunings"]
    assert entry["nfe"] == 3
    assert entry["step"] == 20
    assert entry["rms"][entry["kept"]] == min(entry["rms"].values())


def test_status_and_the_page_show_tunings(tuned, tmp_path):
    (row,) = json.loads(invoke("status", "done", "--json", runs=tuned).stdout)
    found = {entry["nfe"]: entry for entry in row["tunings"]}
    assert sorted(found) == [2, 3]
    for entry in found.values():
        assert (entry["state"], entry["checkpoint_step"]) == ("FINISHED", 20)
        assert entry["rows_done"] == entry["rows"]
        assert entry["gain"] == entry["rms"]["untuned"] / entry["rms"][entry["kept"]] >= 1.0
    shown = " ".join(invoke("status", "done", runs=tuned).stdout.split())
    invoke("report", "done", "-o", str(tmp_path / "page.html"), runs=tuned)
    page = Parsed((tmp_path / "page.html").read_text()).text
    assert "Tuned samplers" in page
    for entry in found.values():
        assert f"{entry['gain']:.1f}x" in shown
        assert entry["id"] in page


def test_samples_of_a_tuned_sampler(tuned):
    shown = invoke("sample", "done", "--method", "tuned", "--nfe", "3", "-n", "20", runs=tuned)
    assert "3 network evaluations each (tuned)" in shown.stderr
    assert "step_00000020_tuned_nfe3_n20.png" in shown.stdout
    model = cld_core.load(tuned / "done")
    few, many = (model.draw(n, method="tuned", nfe=3) for n in (5, 9))
    assert few.nfe == 3
    assert (few.x == many.x[:5]).all()
    path = model.trajectory(5, method="tuned", nfe=3)
    assert (path.x[-1] == few.x).all()
    assert path.t.tolist()[0] == 1.0
    assert path.t.tolist()[-1] == 0.0


def test_a_missing_solution_names_the_command(tuned):
    text = r"no tuned sampler of 9 evaluations .*there are: 2, 3.* `cldctl tune done --nfe 9`"
    with pytest.raises(UsageError, match=text):
        cld_core.load(tuned / "done").sample(3, method="tuned", nfe=9)
    for command in (("sample", "-n", "9"), ("eval", "--elbo", *DEBUG)):
        shown = invoke(command[0], "done", *command[1:], "sampling.method=tuned", "sampling.nfe=9", runs=tuned, code=2)
        assert "`cldctl tune done --nfe 9`" in shown.stderr


def test_keys_that_a_solution_does_not_have(tuned):
    with pytest.raises(UsageError, match=r"sampling.eps=0.001, not 0.01"):
        cld_core.load(tuned / "done").sample(3, method="tuned", nfe=3, eps=0.01)


def test_training_cannot_begin_with_it(tuned):
    shown = invoke("submit", "toy_diamond", "sampling.method=tuned", *DEBUG, runs=tuned, code=2)
    assert "sampling.method=tuned needs a trained network" in shown.stderr


def test_another_solution_is_another_evaluation(tuned, tmp_path):
    shutil.copytree(tuned / "done", tmp_path / "done")
    keys = ("--elbo", "--samples", "8", "sampling.method=tuned", "sampling.nfe=3", *DEBUG)
    assert "FINISHED" in invoke("eval", "done", *keys, runs=tmp_path).stdout
    assert "already complete" in invoke("eval", "done", *keys, runs=tmp_path).stderr
    requests = [json.loads(file.read_text()) for file in (tmp_path / "done/evals").glob("*/request.json")]
    solution = next(work.solution for work in tunings_of(RunFolder(tmp_path / "done")) if work.request.nfe == 3)
    assert solution.digest in [request["sampling"].get("solution") for request in requests]


def test_a_network_that_has_moved_on_is_warned_of(tuned, caplog):
    model = cld_core.load(tuned / "done", 10)
    model.sample(2, method="tuned", nfe=3)
    model.sample(2, method="tuned", nfe=3)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "was fitted to step 20, not 10. Tune again: `cldctl tune done --nfe 3`" in said


def test_the_nearest_step_is_used(tuned, tmp_path, caplog):
    shutil.copytree(tuned / "done", tmp_path / "done")
    invoke("tune", "done", "--nfe", "3", "--checkpoint", "10", *QUICK, runs=tmp_path)
    for step in (10, 20):
        assert cld_core.load(tmp_path / "done", step).solutions.followed(TunedSpec(nfe=3), step).step == step
    assert not caplog.records


def test_an_exported_file_carries_its_solutions(tuned, tmp_path):
    file = tmp_path / "weights.safetensors"
    invoke("export", "done", "-o", str(file), runs=tuned)
    here, there = cld_core.load(tuned / "done", device="cpu"), cld_core.load(file, device="cpu")
    assert (here.sample(4, method="tuned", nfe=3) == there.sample(4, method="tuned", nfe=3)).all()
    with pytest.raises(UsageError, match="there are: 2, 3"):
        there.sample(4, method="tuned", nfe=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nfe", "five"), "--nfe five: 'five' is not a number of evaluations"),
        (("--nfe", "1"), "--nfe 1: a sampler is tuned for 2 to 50 evaluations"),
        (("--points", "0"), "--points 0: it takes 8 to 100,000 points"),
        (("--points", "3"), "--points 3: it takes 8 to 100,000 points"),
        (("--checkpoint", "all"), "--checkpoint all: a sampler is tuned to one network"),
        (("train.steps=3",), "'train.steps' is not a key of an evaluation"),
    ],
)
def test_wrong_usage(tuned, options, said):
    shown = invoke("tune", "done", *options, *DEBUG, runs=tuned, code=2)
    assert said in shown.stderr


def test_no_such_run_or_checkpoint(tuned):
    assert "nobody" in invoke("tune", "nobody", runs=tuned, code=3).stderr
    assert "has no checkpoint '15'" in invoke("tune", "done", "--checkpoint", "15", *DEBUG, runs=tuned, code=3).stderr
