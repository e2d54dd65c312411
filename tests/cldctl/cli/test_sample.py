"""`cldctl sample`, of class-conditional models, too; `cldctl tune` and `cldctl bench samplers` up to their files."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import cld_core
from cld_core.classes import numbered
from cld_core.errors import UsageError
from cldctl.runs.sample import Observed
from tests.cldctl.page.parsed import Parsed
from tests.support.images import make_images, run_folder
from tests.support.tools import DEBUG, ONE, invoke, status, train, trained

FAST = ("--method", "exponential", "--nfe", "5", "-n", "18")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    trained(root / "modes", "toy_labels", *ONE)
    return root


def test_samples_of_a_class_with_guidance(labelled, tmp_path):
    out = tmp_path / "samples.npz"
    done = invoke("sample", "modes", "--label", "3", "--guidance", "1.5", *FAST, "-o", str(out), runs=labelled)
    assert "18 samples of step 20, 10 network evaluations each (exponential)" in done.stderr
    content = np.load(out)
    assert content["label"].tolist() == [3] * 18
    assert content["nfe"].tolist() == [10] * 18
    assert content["x"].shape == content["v"].shape == (18, 2)
    invoke("sample", "modes", *FAST, "-o", str(out), runs=labelled)
    assert np.load(out)["label"].tolist() == numbered([1] * 9).drawn(0, 18)


QUICK = ("--method", "exponential", "--nfe", "4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observe": "x=0.3", "inpaint": "i.png"}, "both say what is known"),
        ({"inpaint": "i.png"}, "--inpaint needs --mask"),
        ({"gradient_scale": 2.0}, "--gradient-scale is about an observation"),
        ({"observe": "x=0.3", "how": "replacement", "gradient_scale": 2.0}, "Leave out --how replacement"),
        ({"observe": "z=0.3"}, "expected a number for x or y"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(UsageError, match=said):
        Observed(**options)


def test_points_given_a_coordinate(tmp_path):
    run = trained(tmp_path / "toy", "toy_diamond", *ONE, "train.steps=4", "periodic.samples_every=null")
    asked = ("sample", str(run.path), "-n", "30", *QUICK, "--observe")
    done = invoke(*asked, "x=0.3", runs=tmp_path)
    assert "30 samples of step" in done.stderr
    assert "given the observation, by gradient: y - H x is" in done.stderr
    assert "mean conditional log-density" in done.stderr
    assert "exponential_nfe4_n30_given-" in done.stdout
    assert invoke(*asked, "x=0.3", "--gradient-scale", "2", runs=tmp_path).stdout != done.stdout
    invoke(*asked, "y=-0.5", "-o", str(tmp_path / "x.npz"), "--how", "replacement", runs=tmp_path)
    assert np.load(tmp_path / "x.npz")["x"][:, 1].tolist() == [-0.5] * 30
    again = invoke(*asked, "x=0.3", "--how", "replacement", "sampling.repeats=3", "sampling.jump=2", runs=tmp_path)
    assert "10 network evaluations each" in again.stderr, "three steps three times, and the last one"
    asked = ("sample", str(run.path), "-n", "30", "--observe")
    adaptive = invoke(*asked, "x=0.3", "--how", "replacement", "--method", "ode", runs=tmp_path, code=2)
    assert "chooses its own steps, and replacement needs fixed ones. Choose em, sscs, exponential," in adaptive.stderr
    assert "loading" not in adaptive.stderr


def test_a_picture_is_painted_where_the_mask_is_white(tmp_path):
    run = train(run_folder(tmp_path, make_images(tmp_path / "set"), "train.steps=4"))
    pixels = np.full((8, 8, 3), (10, 100, 250), dtype=np.uint8)
    white = np.zeros((8, 8), dtype=np.uint8)
    white[:, 4:] = 255
    for name, array in (("image", pixels), ("mask", white), ("large", white.repeat(2, 0))):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    asked = ("sample", str(run.path), "-n", "3", *QUICK, "--inpaint", str(tmp_path / "image.png"), "--mask")
    target = ("-o", str(tmp_path / "x.npz"))
    invoke(*asked, str(tmp_path / "mask.png"), "--how", "replacement", *target, runs=tmp_path)
    drawn = np.load(tmp_path / "x.npz")["images"]
    assert (drawn[:, :, :4] == pixels[:, :4]).all()
    assert not (drawn[:, :, 4:] == pixels[:, 4:]).all()
    invoke(*asked, str(tmp_path / "mask.png"), "-o", str(tmp_path / "grid.png"), runs=tmp_path)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    factor = len(grid) // 22
    assert grid[5 * factor, 5 * factor].tolist() == [10, 100, 250]
    assert grid[5 * factor, 9 * factor].tolist() == [128] * 3
    wrong = invoke(*asked, str(tmp_path / "large.png"), runs=tmp_path, code=2)
    assert "8 x 16 pixels, and 8 x 8 are needed" in wrong.stderr


SMALL_FIT = ("--points", "8", "--budget", "0", *DEBUG)


@pytest.fixture(scope="module")
def tuned(runs, tmp_path_factory):
    """A folder with the run `done`, tuned for 2 and 3 evaluations."""
    here = tmp_path_factory.mktemp("tuned")
    shutil.copytree(runs / "done", here / "done")
    shown = invoke("tune", "done", "--nfe", "2,3", *SMALL_FIT, runs=here)
    assert "step 20: the flow of 16 draws, then at most" in shown.stderr
    assert "sample done --method tuned --nfe 3" in shown.stderr
    assert shown.stderr.count("is cut off: its budget was spent") == 2
    return here


def test_a_second_time_finds_the_result(tuned):
    again = invoke("tune", "done", "--nfe", "3", *SMALL_FIT, "--json", runs=tuned)
    assert "is already complete" in again.stderr
    assert "iterations of a fit" not in again.stderr
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


ASK = ("bench", "samplers", "done", "--nfe", "2", "--samples", "20", "--seeds", "2")
TWO = ("--sampler", "em-quadratic", "--sampler", "mine=method=exponential,order=0,corrector=false")


def test_from_a_list_of_samplers_to_table_csv_and_picture(runs, tmp_path):
    """As one array of evaluations; again, it computes nothing."""
    files = ("--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.png"))
    done = invoke(*ASK, *TWO, *DEBUG, *files, runs=runs)
    assert "4 evaluations of done: 4 started" in done.stderr
    for words in ("sliced W2 by sampler and sampling.nfe, 20 samples", "log-density, nats", "distance from the flow"):
        assert words in done.stdout
    assert "has no distance from the flow: em-quadratic" in done.stdout
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["sampling.nfe"]) for row in rows] == [("em-quadratic", "2"), ("mine", "2")]
    assert all(float(row["w2"]) > 0 and float(row["w2_stderr"]) > 0 for row in rows)
    assert [bool(row["flow_distance"]) for row in rows] == [False, True]
    assert {row["source"] for row in rows} == {"measured"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (sweep,) = status(runs, "done")["sweeps"]
    assert (sweep["done"], [axis["key"] for axis in sweep["axes"]]) == (4, ["sampler", "sampling.nfe"])
    for name in ("table.csv", "plot.png"):
        assert (runs / "done" / "evals" / sweep["id"] / name).is_file()

    again = invoke(*ASK, *TWO, "--json", runs=runs)
    assert "4 already complete" in again.stderr
    found = json.loads(again.stdout)
    assert (found["complete"], found["noisy"], found["left_out"]) == (True, ["em-quadratic"], [])
    assert found["settings"]["mine"] == "method=exponential,order=0,corrector=false"
    assert [row["results"]["w2"]["value"] for row in found["rows"]] == [float(row["w2"]) for row in rows]
