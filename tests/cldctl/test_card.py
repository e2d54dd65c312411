"""What `cldctl doctor --gpu` makes of the process that checks the card, whatever becomes of it."""

import sys

from cldctl import card

FIRST = '{"card": "A card, 80 GiB", "checks": 2}'
TF32 = '{"name": "tf32", "verdict": "ok", "found": "as it should be", "advice": ""}'


def rows(monkeypatch, code, **options):
    monkeypatch.setattr(card, "COMMAND", (sys.executable, "-c", code))
    return list(card.checks(**options))


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
    monkeypatch.setattr(card, "COMMAND", (sys.executable, "-c", code))
    wait = card.subprocess.run

    def limited(*arguments, timeout, **options):
        assert timeout == 5.0
        return wait(*arguments, timeout=3.0, **options)

    monkeypatch.setattr(card.subprocess, "run", limited)
    first, *_ = card.checks(timeout_s=5.0)
    assert first.verdict == "fail"
    assert first.found.startswith("no answer within 5 s")


def test_a_process_that_fails_is_told_with_its_last_line(monkeypatch):
    (first,) = rows(monkeypatch, "raise SystemExit('Traceback\\nImportError: no such library')")
    assert first.verdict == "fail"
    assert "ImportError: no such library" in first.found


def test_checks_that_are_missing_are_noticed(monkeypatch):
    first, _ = rows(monkeypatch, DIES)
    assert (first.verdict, first.found) == ("fail", "ended with 0: no reason given after the check 'tf32'")
