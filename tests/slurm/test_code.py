"""A run keeps its code on a real Slurm, and what the submitting job has of Slurm does not reach the new one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cld_core.run import RunFolder
from cld_core.run.events import Started
from tests.support.tools import wait_for

from .lab import Lab


def test_submitting_from_inside_an_array_task_that_was_requeued(lab: Lab, tmp_path: Path) -> None:
    """Its task number, its memory and its restarts are not those of the new job."""
    output = tmp_path / "outer.log"
    # Not the data set of the other tests: looking at a plug-in takes more memory than the outer job has.
    settings = ("network.width=16", "network.layers=3", "train.steps=30", "cluster.partition=low")
    inner = [sys.executable, "-m", "cldctl", "submit", "toy", *settings, "--name", "inner", "--runs-dir", str(lab.runs)]
    # The first start puts itself back into the queue, so that the second one knows a restart count.
    script = tmp_path / "outer.sh"
    script.write_text(
        "#!/bin/sh\n"
        'if [ -z "$SLURM_RESTART_COUNT" ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_3"; sleep 60; fi\n'
        f"OMP_NUM_THREADS=1 {shlex.join(inner)}\n"
    )
    options = (
        "--array=3",
        "--requeue",
        "--mem-per-cpu=100",
        "--partition=high",
        f"--output={output}",
        "--open-mode=append",
    )
    lab.slurm.sbatch(*options, str(script))
    run = RunFolder(lab.runs / "inner")
    wait_for(lambda: run.exists, timeout=90, what="the inner run", last_seen=lambda: _said(output))
    row = lab.until("inner", "the inner run to end", lambda row: row["state"] in ("FINISHED", "FAILED", "LOST"))
    assert row["state"] == "FINISHED", (row, _said(output))
    (started,) = (event for event in run.ledger.events() if isinstance(event, Started))
    assert started.restart == 0


def _said(output: Path) -> str:
    return output.read_text() if output.exists() else "nothing"


def test_a_requeued_job_runs_the_code_that_was_submitted(lab: Lab, tmp_path: Path) -> None:
    """Whatever becomes of the plug-in file meanwhile; the job imports the packages from the run's folder, too."""
    plugin = tmp_path / "mine.py"
    source = "import torch\nfrom cld_core.data.toy import toy\n\n\n@toy('mine')\ndef mine(n, generator):\n"
    plugin.write_text(f"{source}    return torch.randn(n, 2, generator=generator)\n")
    run = lab.submit("mine", "data.name=mine", f"plugins={plugin}", "cluster.nodes=1")
    row = lab.training("mine")
    plugin.write_text("raise SystemExit('this is not the plug-in that was submitted')\n")
    lab.slurm.run(["scontrol", "requeue", row["job_id"]])
    row = lab.training("mine", attempt=1)
    before, now = row["attempts"]
    assert (before["cause"], before["job_id"]) == ("requeued", now["job_id"])
    assert now["first_step"] == before["last_step"] > 0, "it saved before it ended"
    first, second = (event for event in run.ledger.events() if isinstance(event, Started))
    asked = run.ledger.history().code
    assert asked not in (None, "live")
    assert first.code == second.code == asked
    assert (len(second.hosts), row["changes"]) == (1, [])
