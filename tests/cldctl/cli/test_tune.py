"""`cldctl tune` and `cldctl bench samplers`: from the command line to samples, tables and files."""

import csv
import json
import shutil

import pytest

import cld_core
from tests.support.tools import invoke, json_of, status

QUICK = "--points 8 --budget 0 --cluster debug"


@pytest.fixture(scope="module")
def tuned(runs, tmp_path_factory):
    """A folder with the run `done`, tuned for 2 and 3 evaluations."""
    here = tmp_path_factory.mktemp("tuned")
    shutil.copytree(runs / "done", here / "done")
    shown = invoke(f"tune done --nfe 2,3 {QUICK}", runs=here)
    assert "step 20: the flow of 16 draws, then at most" in shown.stderr
    assert "sample done --method tuned --nfe 3" in shown.stderr
    assert shown.stderr.count("is cut off: its budget was spent") == 2
    return here


def test_a_second_time_finds_the_result(tuned):
    again = invoke(f"tune done --nfe 3 --json {QUICK}", runs=tuned)
    assert "is already complete" in again.stderr
    assert "iterations of a fit" not in again.stderr
    (entry,) = json.loads(again.stdout)["tunings"]
    assert (entry["nfe"], entry["step"]) == (3, 20)
    assert entry["rms"][entry["kept"]] == min(entry["rms"].values())
    assert entry["cut_off"] is True
    for row in json_of("status done --json", runs=tuned)[0]["tunings"]:
        assert (row["state"], row["checkpoint_step"], row["rows_done"]) == (
            "FINISHED",
            20,
            row["rows"],
        )
        assert row["gain"] == row["rms"]["untuned"] / row["rms"][row["kept"]] >= 1.0
        assert f"{row['gain']:.1f}x" in invoke("status done", runs=tuned).stdout
    invoke("report done", runs=tuned)
    assert entry["id"] in (tuned / "done/report.html").read_text()


def test_samples_of_a_tuned_sampler(tuned):
    shown = invoke("sample done --method tuned --nfe 3 -n 20", runs=tuned)
    assert "3 network evaluations each (tuned)" in shown.stderr
    assert "step_00000020_tuned_nfe3_n20.png" in shown.stdout
    model = cld_core.load(tuned / "done")
    few, many = (model.draw(n, method="tuned", nfe=3) for n in (5, 9))
    assert few.nfe == 3
    assert (few.x == many.x[:5]).all()
    assert (model.trajectory(5, method="tuned", nfe=3).x[-1] == few.x).all()


MINE = "method=exponential,order=0,corrector=false"
BENCH = "bench samplers done --nfe 2 --samples 20 --seeds 2 --sampler em-quadratic --sampler mine="


def test_from_a_list_of_samplers_to_table_csv_and_picture(runs, tmp_path):
    """As one array of evaluations; again, it computes nothing."""
    files = f"--csv {tmp_path}/a.csv --plot {tmp_path}/a.png"
    done = invoke(f"{BENCH}{MINE} {files} --cluster debug")
    assert "4 evaluations of done: 4 started" in done.stderr
    assert "sliced W2 by sampler and sampling.nfe, 20 samples" in done.stdout
    assert "has no distance from the flow: em-quadratic" in done.stdout
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["sampling.nfe"]) for row in rows] == [
        ("em-quadratic", "2"),
        ("mine", "2"),
    ]
    assert all(float(row["w2"]) > 0 and float(row["w2_stderr"]) > 0 for row in rows)
    assert [bool(row["flow_distance"]) for row in rows] == [False, True]
    assert {row["source"] for row in rows} == {"measured"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (sweep,) = status("done")["sweeps"]
    assert (sweep["done"], [axis["key"] for axis in sweep["axes"]]) == (
        4,
        ["sampler", "sampling.nfe"],
    )

    again = invoke(f"{BENCH}{MINE} --json")
    assert "4 already complete" in again.stderr
    found = json.loads(again.stdout)
    assert (found["complete"], found["noisy"], found["left_out"]) == (True, ["em-quadratic"], [])
    assert found["settings"]["mine"] == MINE
    assert [row["results"]["w2"]["value"] for row in found["rows"]] == [
        float(row["w2"]) for row in rows
    ]
