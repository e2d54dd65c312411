"""A run keeps its code on a real Slurm, and what the submitting job has of Slurm does not reach the new one."""

from __future__ import annotations

from pathlib import Path

from cld_core.run.events import Started

from .lab import Lab


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
