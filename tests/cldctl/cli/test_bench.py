"""`cldctl bench samplers`, from the command line to files."""

import csv
import json

import pytest

from tests.support.tools import invoke, status

ASK = ("bench", "samplers", "done", "--nfe", "2", "--samples", "20", "--seeds", "2")
TWO = ("--sampler", "em-quadratic", "--sampler", "mine=method=exponential,order=0,corrector=false")


def test_from_a_list_of_samplers_to_table_csv_and_picture(runs, tmp_path):
    """On local processes, as one array of evaluations; again, it computes nothing."""
    files = ("--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.png"))
    done = invoke(*ASK, *TWO, "--cluster", "local", "--follow", *files, runs=runs)
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


def test_a_dry_run_lists_and_starts_nothing(runs):
    before = sorted((runs / "done" / "evals").iterdir())
    done = invoke(*ASK, "--dry-run", runs=runs)
    assert "method=sscs,sscs_order=2,grid=quadratic" in done.stdout
    assert "w2, density, flow-distance at 2 evaluations; 2 seeds" in done.stdout
    assert "30 evaluations, of which nothing was started" in done.stdout
    assert sorted((runs / "done" / "evals").iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--nfe", "10,x"], 2, ["--nfe: 'x' is not a number", "--nfe 5,7,10"]),
        (["--nfe", "10,10"], 2, ["has a number twice"]),
        (["--nfe", "0"], 2, ["'0' is not a number"]),
        (["--nfe", "1"], 2, ["--nfe: samplers take 2 to 1,000,000 network evaluations, not 1"]),
        (["--metric", "fid"], 2, ["fid does not compare samplers", "w2, density, flow-distance"]),
        (["--metric", "w3"], 2, ["--metric: 'w3' is not a metric; there are: w2, density, flow-distance, class-law."]),
        (["--metric", "elbo"], 2, ["elbo does not compare samplers: it looks at test data, not at samples"]),
        (["--sampler", "tuned"], 2, ["none of these samplers can be compared. tuned: done has no tuned sampler of 10"]),
        (["--sampler", "emm"], 2, ["'emm' is not known", "em-quadratic"]),
        (["--checkpoint", "all"], 2, ["samplers of one checkpoint"]),
        (["--checkpoint", "15"], 3, ["no checkpoint '15'"]),
        (["--samples", "9", "eval.samples=8"], 2, ["--samples and eval.samples=8"]),
        (["--csv", "a.txt"], 2, ["--csv a.txt: numbers are written as .csv"]),
        (["--plot", "nowhere/a.png"], 2, ["--plot nowhere/a.png: there is no folder"]),
        (["train.steps=3"], 2, ["'train.steps' is not a key of an evaluation"]),
        (["sampling.order=2"], 2, ["'sampling.order' is not a key of all methods"]),
        (["--sampler", "ode", "--metric", "w2,density,kid"], 2, ["kid does not compare samplers"]),
    ],
)
def test_wrong_usage_says_what_to_do(runs, words, code, said):
    done = invoke("bench", "samplers", "done", *words, "--dry-run", runs=runs, code=code)
    for text in said:
        assert text in done.stderr


def test_no_such_run(tmp_path):
    invoke("bench", "samplers", "none", runs=tmp_path, code=3)
