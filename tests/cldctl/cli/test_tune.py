"""`cldctl tune`, and what uses its solutions: samples, evaluations, exports."""

import json
import shutil
from dataclasses import replace

import pytest

import cld_core
from cld_core import solutions
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.solutions import FILE
from cld_core.tune.tuning import tunings_of
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
    assert shown.stderr.count("is cut off: its budget was spent") == 2
    return here


@pytest.fixture(autouse=True)
def nothing_said():
    """Warnings are given once in a process."""
    solutions._warn.cache_clear()


def test_a_second_time_finds_the_result(tuned):
    again = invoke("tune", "done", "--nfe", "3", *QUICK, "--json", runs=tuned)
    assert "is already complete" in again.stderr
    assert "evaluations of the network" not in again.stderr
    (entry,) = json.loads(again.stdout)["tunings"]
    assert entry["nfe"] == 3
    assert entry["step"] == 20
    assert entry["rms"][entry["kept"]] == min(entry["rms"].values())
    assert "fewer" in entry["rms"], "it starts from the solution of 2 evaluations"
    assert entry["cut_off"] is True


def test_status_and_the_page_show_tunings(tuned, tmp_path):
    (row,) = json.loads(invoke("status", "done", "--json", runs=tuned).stdout)
    found = {entry["nfe"]: entry for entry in row["tunings"]}
    assert sorted(found) == [2, 3]
    for entry in found.values():
        assert (entry["state"], entry["checkpoint_step"]) == ("FINISHED", 20)
        assert entry["rows_done"] == entry["rows"]
        assert entry["gain"] == entry["rms"]["untuned"] / entry["rms"][entry["kept"]] >= 1.0
        assert entry["cut_off"] is True
    shown = " ".join(invoke("status", "done", runs=tuned).stdout.split())
    invoke("report", "done", "-o", str(tmp_path / "page.html"), runs=tuned)
    page = Parsed((tmp_path / "page.html").read_text()).text
    assert "Tuned samplers" in page
    for entry in found.values():
        assert f"{entry['gain']:.1f}x" in shown
        assert entry["id"] in page
        assert f"{entry['kept']}, cut off" in page


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


def test_another_solution_is_another_evaluation(tuned, tmp_path):
    shutil.copytree(tuned / "done", tmp_path / "done")
    keys = ("--w2", "--samples", "8", "eval.max_nonfinite=1", "sampling.method=tuned", "sampling.nfe=3", *DEBUG)
    assert "FINISHED" in invoke("eval", "done", *keys, runs=tmp_path).stdout
    assert "already complete" in invoke("eval", "done", *keys, runs=tmp_path).stderr
    run = RunFolder(tmp_path / "done")
    first = next(work.solution for work in tunings_of(run) if work.request.nfe == 3)
    # Another tuning, whose fit has found something else.
    others = replace(first.coefficients, times=(1.0, 0.5, 0.001))
    second = replace(first, coefficients=others, about={"created": first.about["created"] + 1.0})
    (run.tuned / "another").mkdir()
    write_json(run.tuned / "another" / FILE, second.content())
    assert "FINISHED" in invoke("eval", "done", *keys, runs=tmp_path).stdout
    requests = [json.loads(file.read_text()) for file in run.evals.glob("w2-*/request.json")]
    assert {request["sampling"]["solution"] for request in requests} == {first.digest, second.digest}
    assert len(requests) == 2
    chosen = invoke("eval", "done", *keys, f"sampling.solution={first.digest}", runs=tmp_path)
    assert "already complete" in chosen.stderr


def test_results_of_a_network_that_has_moved_on_have_a_remark(tuned, tmp_path):
    shutil.copytree(tuned / "done", tmp_path / "done")
    keys = ("--w2", "--samples", "8", "eval.max_nonfinite=1", "sampling.method=tuned", "sampling.nfe=3", *DEBUG)
    text = "the tuned sampler of 3 evaluations was fitted to step 20, not 10"
    assert text not in invoke("eval", "done", *keys, runs=tmp_path).stdout
    shown = invoke("eval", "done", *keys, "--checkpoint", "10", runs=tmp_path)
    assert text in " ".join((shown.stdout + shown.stderr).split())
    (row,) = json.loads(invoke("status", "done", "--json", runs=tmp_path).stdout)
    remarks = {entry["id"][:11]: entry["remarks"] for entry in row["evals"]}
    assert text in remarks["w2-00000010"]
    assert text not in remarks["w2-00000020"]
