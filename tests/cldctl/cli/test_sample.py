"""`cldctl sample` of class-conditional models and of plug-ins, and what it refuses."""

import json

import numpy as np

from cld_core.run import RunFolder
from tests.support.tools import ONE, invoke, trained

FAST = "--method exponential --nfe 5 -n 18"


def test_samples_of_a_class_with_guidance(tmp_path):
    trained(tmp_path / "modes", "toy_labels", *ONE)
    out = tmp_path / "samples.npz"
    done = invoke(f"sample modes --label 3 --guidance 1.5 -o {out} {FAST}")
    assert "18 samples of step 20, 10 network evaluations each (exponential)" in done.stderr
    content = np.load(out)
    assert content["label"].tolist() == [3] * 18
    assert content["x"].shape == content["v"].shape == (18, 2)


def test_points_given_a_coordinate(tmp_path):
    run = trained(
        tmp_path / "toy", "toy_diamond", *ONE, "train.steps=4", "periodic.samples_every=null"
    )
    sample = f"sample {run.path} -n 30 --method exponential --nfe 4 --observe"
    done = invoke(f"{sample} x=0.3")
    assert "given the observation, by gradient: y - H x is" in done.stderr
    assert "exponential_nfe4_n30_given-" in done.stdout
    assert invoke(f"{sample} x=0.3 --gradient-scale 2").stdout != done.stdout
    invoke(f"{sample} y=-0.5 -o {tmp_path}/x.npz --how replacement")
    assert np.load(tmp_path / "x.npz")["x"][:, 1].tolist() == [-0.5] * 30
    repeated = "sampling.repeats=3 sampling.jump=2"
    again = invoke(f"{sample} x=0.3 --how replacement {repeated}")
    assert "10 network evaluations each" in again.stderr, (
        "three steps three times, and the last one"
    )
    adaptive = f"sample {run.path} --observe x=0.3 --how replacement --method ode"
    refused = invoke(adaptive, code=2).stderr
    assert "replacement needs fixed ones" in refused
    assert "loading" not in refused


FILLING = """
from dataclasses import dataclass
from typing import Literal
from cld_core import register
from cld_core.config.keys import key
from cld_core.config.sampling import FixedStepSpec
from cld_core.metrics import Metric, Quantity

@dataclass(frozen=True, kw_only=True)
class Spec(FixedStepSpec):
    method: Literal["fill"] = key("fill", "the same number everywhere")

def mean(table):
    return {{"{field}": float(table.finite().mean()) + {number}}}

register("sampling", "fill", lambda score, sde, spec, u, draws: (u.fill_({number}), 1), Spec)
number = (Quantity(key="mean", label="mean"),)
metric = Metric(name="mean", help="x", rows="vectors", section=mean, quantities=number)
register("metrics", "mean", metric)
"""


def test_a_finished_run_uses_its_copy_of_a_plug_in_or_the_file_that_is_named(tmp_path):
    runs = tmp_path / "runs"
    file = tmp_path / "fill.py"
    out = tmp_path / "x.npz"

    def write(**changes):
        file.write_text(FILLING.format(**{"number": 2, "field": "value", **changes}))

    def sampled(*more):
        said = invoke(f"sample mine -n 2 --method fill -o {out}", *more, runs=runs).stderr
        return np.load(out)[
            "x"
        ].ravel().tolist(), "fill.py has changed since it was copied; mine uses its" in said

    def evaluated(*more, code=0):
        evaluate = "eval mine --metric mean sampling.method=fill --cluster debug"
        return invoke(evaluate, *more, runs=runs, code=code).stderr

    def reports():
        found = [
            json.loads(report.read_text())
            for report in (runs / "mine" / "evals").glob("mean-*/report.json")
        ]
        return sorted(report["mean"]["value"] for report in found)

    write(number=1)
    invoke(f"submit toy --name mine --cluster debug plugins={file}", *ONE, runs=runs)
    write()
    assert sampled() == ([1.0] * 4, True)
    assert sampled(f"plugins={file}") == ([2.0] * 4, False)
    assert f"uses its own copy (plugins={file} takes the new one)" in evaluated()
    assert reports() == [2.0]
    assert "has changed" not in evaluated(f"plugins={file}")
    assert reports() == [2.0, 4.0]
    (named,) = {
        json.loads(request.read_text())["files"]["plugin 0"]
        for request in (runs / "mine" / "evals").glob("mean-*/request.json")
    } - set(RunFolder(runs / "mine").recipe().plugins)
    assert named.startswith(f"{runs}/mine/code/"), "its jobs do not need the file"
    assert "already complete" in evaluated(f"plugins={file}")
    (runs / "fill.py").write_text("x = 1")
    assert "already complete" in evaluated(f"plugins={runs}/fill.py"), (
        "the run's copy registers what is used"
    )
    write(field="val")
    refused = evaluated(f"plugins={file}", code=None)
    assert (
        "cannot be used: its section has val, but no number in value. Correct it: "
        "docs/howto/own-met"
    ) in refused
