"""`cldctl bench samplers`, from the command line to files."""

import csv
import json

from tests.support.tools import DEBUG, invoke, status

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
