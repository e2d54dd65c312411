"""`python -m cld_core.gpu_checks`: one line without a card; lines or JSON, and an exit code, with one."""

import json
import os
import subprocess
import sys

import pytest
import torch

needs_no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cld_core.gpu_checks", *arguments]
    # A second thread waits for the first in a loop, which takes minutes where others compute.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@needs_no_card
def test_without_a_card_all_is_skipped_in_one_line():
    done = checked("--quick")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("gpu: no card on this machine, ")


def test_findings_are_lines_of_json_and_nothing_else_is(tmp_path):
    on_cpu = ("--device", "cpu", "--scale", "small", "--work", str(tmp_path))
    done = checked("tf32", "same samples", "--json", *on_cpu)
    assert done.returncode == 0, done.stderr
    first, *findings = map(json.loads, done.stdout.splitlines())
    assert first == {"card": "the CPU", "checks": 2}
    assert [(finding["name"], finding["verdict"]) for finding in findings] == [("tf32", "ok"), ("same samples", "ok")]
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


FAILING = """
import sys
from cld_core.gpu_checks import __main__, registry, tf32
from cld_core.gpu_checks.findings import Finding
tf32.check = lambda context: print("noise") or Finding("fail", "wrong", "Fix it.")
sys.argv = ["gpu_checks", "tf32", "--device", "cpu"]
sys.exit(__main__.main())
"""


def test_a_failure_is_exit_code_1_and_advice():
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == ["1 check on the CPU", "fail  tf32: wrong", "      Fix it."]
    assert "noise" in done.stderr


def test_an_unknown_check_is_wrong_usage():
    done = checked("tf23")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: 'tf23' is not a check of GPUs. Did you mean 'tf32'?"


def test_the_list_says_which_are_quick():
    lines = checked("--list").stdout.splitlines()
    assert "overflow  (quick)" in lines
    assert "resume" in lines
