"""The GPU's part of `cldctl doctor`: the quick checks of `cld_core.gpu_checks`, in a process of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .clusters.records import Check
from .clusters.this_machine import safe_path

# Nobody has measured the quick checks yet: far more than they are meant to take (docs/gpu.md).
TIMEOUT_S = 600.0
# Prints JSON objects, a line each: the card, then findings.
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cld_core.gpu_checks", "--quick", "--json")
_SRUN = "srun --gpus=1 --cpus-per-task=8 --mem=32G cldctl doctor --gpu --no-job"
_ELSEWHERE = f"Run it where the GPUs are; on Slurm: {_SRUN}"
_OTHERWISE = "If this is where they are, install a torch that is built for CUDA and fits the driver."
_AGAIN = "Run `python -m cld_core.gpu_checks --quick` to see more."


def checks(timeout_s: float = TIMEOUT_S) -> Iterator[Check]:
    """One check for the card, and one for each finding; ``timeout_s`` is their limit in seconds, for all together."""
    out, problem = _output(timeout_s)
    first, *findings = _objects(out) or [{}]
    if not problem and first.get("card", "") is None:
        yield Check("gpu", "warn", "torch sees no card here", f"{_ELSEWHERE}. {_OTHERWISE}")
        return
    if problem:
        last = f" after the check '{findings[-1]['name']}'" if findings else ""
        yield Check("gpu", "fail", f"{problem}{last}", _AGAIN)
    else:
        yield Check("gpu", "ok", str(first["card"]))
    for finding in findings:
        yield Check(f"gpu: {finding['name']}", finding["verdict"], finding["found"], finding["advice"])


def _output(timeout_s: float) -> tuple[str, str]:
    """What the command printed, and in one line what went wrong, if something did."""
    try:
        done = subprocess.run(
            COMMAND,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **safe_path()},
        )
    except subprocess.TimeoutExpired as error:
        # Bytes, whatever was asked for.
        return (error.stdout or b"").decode(errors="replace"), f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        return "", str(error)
    if done.returncode < 0:
        return done.stdout, f"killed by {signal.Signals(-done.returncode).name}"
    if _is_whole(_objects(done.stdout)):
        return done.stdout, ""
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return done.stdout, f"ended with {done.returncode}: {lines[-1]}"


def _is_whole(answers: Sequence[dict[str, Any]]) -> bool:
    """Whether there is a card, and each of its checks has answered."""
    if not answers or "card" not in answers[0]:
        return False
    return answers[0]["card"] is None or len(answers) == 1 + int(answers[0]["checks"])


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of the lines; a last line that is cut short is left out."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
