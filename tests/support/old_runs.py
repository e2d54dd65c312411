"""Runs that ended long ago, as an index remembers them."""

import os
import time
from pathlib import Path

from cld_core.files import write_json
from cld_core.run import RunFolder, change_marks
from cld_core.run.events import Ended
from tests.support.made_up import run_with
from tests.support.scripted import trained

AGO_S = 2 * 24 * 3600.0


def over(path: Path, job_id: str, *steps: int, cause: str = "finished", created: float | None = None) -> RunFolder:
    """A run whose training has ended; by default now: `settle` makes it old."""
    run = trained(run_with(path, *(steps or (10,))), job_id, phase="gone")
    run.ledger.append(Ended(attempt=0, cause=cause, step=max(steps or (10,))))
    identity = run.identity() | {"created": time.time() - AGO_S if created is None else created}
    write_json(run.identity_file, identity)
    return run


def settle(root: Path) -> None:
    """Let two days pass: nothing under ``root`` was written since, and other processes write next."""
    past = time.time() - AGO_S
    for folder, _, files in os.walk(root):
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            os.utime(path, (past, past), follow_symlinks=False)
    change_marks._marked.clear()
