"""`cldctl doctor` without a Slurm."""

import json
import sys

from cldctl import machine
from cldctl.clusters.records import DoctorOptions
from cldctl.clusters.slurm import doctor
from cldctl.clusters.slurm.node_probe import Probe
from tests.support.tools import cldctl, invoke


def test_this_machine(tmp_path):
    done = cldctl("doctor", "--cluster", "local", "--json", runs=tmp_path / "deep" / "runs")
    report = json.loads(done.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert {"python", "torch", "runs folder"} <= set(found)
    assert found["torch"]["verdict"] == "ok"
    assert "free" in found["runs folder"]["found"]
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


NO_CARD = '{"card": null, "checks": 2}'
ONE_FAILS = """
{"card": "A card, 80 GiB", "checks": 2}
{"name": "memory", "verdict": "ok", "found": "as it should be", "advice": ""}
{"name": "step", "verdict": "fail", "found": "other numbers", "advice": "Do not train."}
"""


def asked_for_the_gpu(tmp_path, monkeypatch, answer, *, code):
    monkeypatch.setattr(machine, "GPU_COMMAND", (sys.executable, "-c", f"print({answer.strip()!r})"))
    done = invoke("doctor", "--gpu", "--cluster", "debug", "--json", runs=tmp_path / "runs", code=code)
    checks = json.loads(done.stdout)["checks"]
    return [check for check in checks if check["name"].startswith("gpu")]


def test_without_a_card_the_gpu_is_one_row_and_nothing_fails(tmp_path, monkeypatch):
    (row,) = asked_for_the_gpu(tmp_path, monkeypatch, NO_CARD, code=0)
    assert (row["verdict"], row["found"]) == ("warn", "torch sees no card here")
    assert "srun --gpus=1 --cpus-per-task=8 --mem=32G cldctl doctor --gpu --no-job" in row["advice"]


def test_a_gpu_check_that_fails_is_a_row_and_exit_code_1(tmp_path, monkeypatch):
    rows = asked_for_the_gpu(tmp_path, monkeypatch, ONE_FAILS, code=1)
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("gpu", "ok"),
        ("gpu: memory", "ok"),
        ("gpu: step", "fail"),
    ]
    assert rows[-1]["advice"] == "Do not train."


def test_data_and_fid_weights_are_looked_at_with_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def names(*recipe, code):
        done = invoke("doctor", *recipe, "--cluster", "debug", "--json", runs=tmp_path / "runs", code=code)
        return {check["name"].partition(" ")[0]: check["verdict"] for check in json.loads(done.stdout)["checks"]}

    assert not {"data", "FID"} & set(names(code=0))
    found = names("cifar10", code=1)
    assert (found["data"], found["FID"]) == ("fail", "warn")


def test_slurm_that_is_asked_for_and_is_not_there(tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    done = cldctl("doctor", "--cluster", "slurm", runs=tmp_path / "runs", code=4, PATH=str(bin_folder), COLUMNS="100")
    assert "--cluster local" in done.stdout


def test_it_says_that_it_waits_for_a_job(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(doctor.client, "output_of", lambda command: "n1")
    monkeypatch.setattr(doctor.node_probe, "probe", lambda *_: said.append("asked") or Probe("away", message="away"))
    partition = doctor.Partition("gpu", True, True, "n1", 1, "REQUEUE", 0, None, None)
    (check,) = doctor._from_a_node(tmp_path, partition, DoctorOptions(wait_s=90.0, say=said.append))
    assert check.verdict == "fail"
    assert said == ["waiting for a small job on partition gpu, at most 90 s", "asked"]
