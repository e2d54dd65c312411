"""`cldctl submit`, killed at each write: the run continues, or is refused with the fix."""

import signal

from cld_core.run import RunFolder
from cld_core.run.state import OVER
from tests.support.tools import ONE, wait_for

from .events import PATIENCE_S
from .stage import ranks_of

SHORT = ("toy", *ONE, "train.steps=4", "--cluster", "local")


def count(stage):
    """How many writing calls a submission makes."""
    stage.faults.forget_writes()
    done = stage.cldctl("submit", *SHORT, "--name", "whole", **stage.faults.environment(kill_at=0))
    assert done.returncode == 0, done.stderr
    return int(stage.faults.control.writes)


def sweep(stage, numbers):
    """Die at each of these writes; returns every broken promise."""
    broken = []
    for number in numbers:
        for torn in (False, True):
            problems, how = _one(stage, number, torn)
            print(
                f"write {number}{', half of it' * torn}: {how}"
                + "".join(f"\n  BROKEN: {text}" for text in problems)
            )
            broken += [f"submit killed at write {number}: {text}" for text in problems]
    return broken


def _one(stage, number, torn):
    name = f"died{number}{'t' * torn}"
    faults = stage.faults
    faults.calm()
    faults.forget_writes()
    command = ("submit", *SHORT, "--name", name)
    died = stage.cldctl(*command, **faults.environment(kill_at=number, torn=torn))
    run = RunFolder(stage.runs / name)
    problems = []
    if died.returncode not in (0, -signal.SIGKILL):
        problems.append(f"exit code {died.returncode}: {died.stderr[-1000:]}")
    # Half an hour later, a job is no longer expected to follow.
    faults.jump(1800)
    later = faults.environment()
    row = stage.cldctl("status", name, **later)
    if row.returncode not in (0, 3) or "Traceback" in row.stderr:
        problems.append(f"status: exit code {row.returncode}: {row.stderr[-1000:]}")
    again = stage.cldctl(*command, **later)
    how = "submitted again"
    if again.returncode == 2 and run.exists:
        resumed = stage.cldctl("resume", name, "--cluster", "local", **later)
        how = "resumed" if resumed.returncode == 0 else "lives"
        if resumed.returncode not in (0, 2) or "Traceback" in resumed.stderr:
            problems.append(f"resume: exit code {resumed.returncode}: {resumed.stderr[-1000:]}")
    elif again.returncode != 0:
        # Half of a folder is refused, and the message has to say what helps.
        if again.returncode != 2 or "is not a run. Remove it" not in again.stderr:
            problems.append(
                f"submitted again: exit code {again.returncode}: {again.stderr[-1000:]}"
            )
        return problems, "half of a folder"
    faults.calm()
    wait_for(
        lambda: stage.status(name)["state"] in OVER and not ranks_of(run),
        PATIENCE_S, what=f"{name} to end", last_seen=stage.describe,
    )  # fmt: skip
    if (final := stage.status(name))["state"] != "FINISHED":
        problems.append(f"the run did not finish: {final['state']}, {final['reason']}")
    return problems, how
