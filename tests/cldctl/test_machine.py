"""Checks of this machine, and what `doctor --gpu` makes of the process that checks the card, whatever becomes of it."""

import sys

import pytest

from cld_core import processor
from cld_core.config import load
from cldctl import machine
from tests.support.paths import RECIPES


def test_a_runs_folder_that_cannot_hold_runs(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    check = machine._runs_folder(tmp_path)
    assert check.verdict == "fail"
    assert "hard links" in check.found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flags", "found"), [("avx2", "computes in fp32"), ("avx512_bf16", "computes in fp32, bf16")])
def test_the_precisions_of_the_processor(monkeypatch, flags, found):
    monkeypatch.setattr(processor, "emulates", lambda precision: precision == "fp16" or precision not in flags)
    assert machine._processor(None).found == found


def test_a_recipe_in_a_precision_that_the_processor_emulates(monkeypatch):
    monkeypatch.setattr(processor, "emulates", lambda precision: precision == "bf16")
    check = machine._processor(load(RECIPES / "toy.yaml", ["train.precision=bf16"]))
    assert check.verdict == "warn"
    assert "bf16" in check.found
    assert "train.precision=fp32" in check.advice
    for fine in ("train.precision=fp32", "cluster.gpus_per_node=1"):
        assert machine._processor(load(RECIPES / "toy.yaml", [fine])).verdict == "ok"


FIRST = '{"card": "A card, 80 GiB", "checks": 2}'
TF32 = '{"name": "tf32", "verdict": "ok", "found": "as it should be", "advice": ""}'


def rows(monkeypatch, code, **options):
    monkeypatch.setattr(machine, "GPU_COMMAND", (sys.executable, "-c", code))
    return list(machine.gpu_checks(**options))


DIES = f"""
import os, signal
print('{FIRST}', '{TF32}', sep='\\n', flush=True)
"""


def test_a_process_that_is_killed_is_told_with_the_last_check_it_finished(monkeypatch):
    first, finished = rows(monkeypatch, f"{DIES}\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert first.verdict == "fail"
    assert first.found == "killed by SIGSEGV after the check 'tf32'"
    assert (finished.name, finished.verdict) == ("gpu: tf32", "ok")


def test_a_process_that_does_not_answer_is_ended(monkeypatch):
    """Its last line is cut short."""
    code = f"{DIES}\nprint('{{\"name\"', end='', flush=True)\nsignal.pause()"
    monkeypatch.setattr(machine, "GPU_COMMAND", (sys.executable, "-c", code))
    wait = machine.subprocess.run

    def limited(*arguments, timeout, **options):
        assert timeout == 5.0
        return wait(*arguments, timeout=3.0, **options)

    monkeypatch.setattr(machine.subprocess, "run", limited)
    first, *_ = machine.gpu_checks(timeout_s=5.0)
    assert first.verdict == "fail"
    assert first.found.startswith("no answer within 5 s")


def test_a_process_that_fails_is_told_with_its_last_line(monkeypatch):
    (first,) = rows(monkeypatch, "raise SystemExit('Traceback\\nImportError: no such library')")
    assert first.verdict == "fail"
    assert "ImportError: no such library" in first.found


def test_checks_that_are_missing_are_noticed(monkeypatch):
    first, _ = rows(monkeypatch, DIES)
    assert (first.verdict, first.found) == ("fail", "ended with 0: no reason given after the check 'tf32'")
