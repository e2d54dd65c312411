"""`hooks.on_change` in jobs of a real Slurm, which ends whatever a job leaves behind."""

from __future__ import annotations

import json

from cld_core.run import RunFolder
from tests.support.tools import wait_for

from .cluster import SlurmCluster
from .lab import Lab

HOOK = 'hooks.on_change=cat >> "$CLDCTL_RUN_PATH/told"'


def told(run: RunFolder) -> list[tuple[str, str | None]]:
    file = run.path / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(content["state"], content["cause"]) for content in map(json.loads, lines)]


def test_each_change_is_told_once(slurm: SlurmCluster, lab: Lab) -> None:
    """A preemption, a cancellation and the end of a run."""
    slurm.configure(grace_time=10)
    run = lab.submit("mine", "cluster.nodes=1", HOOK)
    lab.training("mine")
    slurm.preempt_all(1)
    lab.training("mine", 1)
    lab.cldctl("cancel", "mine")
    step = lab.ended("mine")["step"]
    expected: list[tuple[str, str | None]] = [
        ("RUNNING", None),
        ("REQUEUED", "preempted"),
        ("RUNNING", "preempted"),
        ("CANCELLED", "cancelled"),
    ]
    wait_for(lambda: len(told(run)) >= 4, timeout=60, what="the cancellation to be told", last_seen=lambda: told(run))
    assert told(run) == expected
    lab.cldctl("resume", "mine", f"train.steps={step + 50}")
    lab.ended("mine")
    wait_for(lambda: len(told(run)) >= 6, timeout=60, what="the end to be told", last_seen=lambda: told(run))
    assert told(run)[-2:] == [("RUNNING", "cancelled"), ("FINISHED", "finished")]
    log = run.logs / "hooks.log"
    wait_for(lambda: log.read_text().count(": done (") == 6, timeout=60, what="six calls", last_seen=log.read_text)
