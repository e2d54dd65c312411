"""`cldctl doctor` without a Slurm."""

import sys
from unittest.mock import Mock

import pytest

from cldctl import machine
from tests.support.tools import json_of


def test_this_machine(tmp_path):
    report = json_of("doctor --cluster local --json", runs=tmp_path / "deep" / "runs")
    found = {check["name"]: check for check in report["checks"]}
    assert {"python", "runs folder"} <= set(found)
    assert found["torch"]["verdict"] == "ok"
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


NO_CARD = '{"card": null, "checks": 2}'
ONE_FAILS = """
{"card": "A card, 80 GiB", "checks": 2}
{"name": "memory", "verdict": "ok", "found": "as it should be", "advice": ""}
{"name": "step", "verdict": "fail", "found": "other numbers", "advice": "Do not train."}
"""


@pytest.mark.parametrize(
    ("answer", "code", "verdicts", "words"),
    [
        (
            NO_CARD,
            0,
            {"gpu": "warn"},
            "srun --gpus=1 --cpus-per-task=8 --mem=32G cldctl doctor --gpu --no-job",
        ),
        (ONE_FAILS, 1, {"gpu": "ok", "gpu: memory": "ok", "gpu: step": "fail"}, "Do not train."),
    ],
)
def test_a_gpu_check_that_fails_is_a_row_and_exit_code_1(
    monkeypatch, answer, code, verdicts, words
):
    monkeypatch.setattr(
        machine, "GPU_COMMAND", (sys.executable, "-c", f"print({answer.strip()!r})")
    )
    report = json_of("doctor --gpu --cluster debug --json", code=code)
    rows = [check for check in report["checks"] if check["name"].startswith("gpu")]
    assert {row["name"]: row["verdict"] for row in rows} == verdicts
    assert words in rows[-1]["advice"]


def test_data_and_fid_weights_are_looked_at_with_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    report = json_of("doctor cifar10 --cluster debug --json", code=1)
    found = {check["name"].partition(" ")[0]: check["verdict"] for check in report["checks"]}
    assert (found["data"], found["FID"]) == ("fail", "warn")


DIES = """
import os, signal
print('{"card": "A card, 80 GiB", "checks": 2}')
print('{"name": "tf32", "verdict": "ok", "found": "as it should be", "advice": ""}', flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (DIES, "killed by SIGSEGV after the check 'tf32'"),
        (
            "raise SystemExit('Traceback\\nImportError: no such library')",
            "ImportError: no such library",
        ),
    ],
)
def test_a_process_that_ends_early_is_told_with_the_last_check_it_finished(
    monkeypatch, code, found
):
    monkeypatch.setattr(machine, "GPU_COMMAND", (sys.executable, "-c", code))
    first, *_ = machine.gpu_checks()
    assert first.verdict == "fail"
    assert found in first.found


def test_a_runs_folder_that_cannot_hold_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", Mock(side_effect=OSError(1, "Operation not permitted")))
    check = machine._runs_folder(tmp_path)
    assert (check.verdict, "hard links" in check.found) == ("fail", True)
