"""`cldctl why`, `logs`, `usage` and the estimate, on a cluster where a rank crashes and a job waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .lab import ENDLESS, Lab, give


def why(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.cldctl("why", name, "--json").stdout)
    return found


def test_the_rank_that_crashed_first_and_what_its_attempt_printed(lab: Lab, orders: Path) -> None:
    lab.submit("mine")
    lab.training("mine", steps=250)
    give(orders, 1, "raise")
    lab.training("mine", attempt=1)

    found = why(lab, "mine")
    failed = found["failed_first"]
    assert (found["state"], failed["attempt"], failed["rank"]) == ("RUNNING", 0, 1), failed
    assert failed["lines"][-1].endswith("RuntimeError: this rank was told to crash")
    first, second = found["attempts"]
    assert first["gained"] == second["first_step"]
    assert first["gained"] % 200 == 0
    assert first["gained"] + first["lost"] == first["last_step"]
    assert "failed first in attempt 0" in lab.cldctl("why", "mine").stdout

    shown = [lab.cldctl("logs", "mine", "--attempt", str(number)).stdout for number in (0, 1)]
    starts = ["--- start 0 of job ", "--- start 1 of job "]
    assert [[start in text for start in starts] for text in shown] == [[True, False], [False, True]]
    assert "this rank was told to crash" in lab.cldctl("logs", "mine", "--failed", "--tail", "60").stderr
    everyone = lab.cldctl("logs", "mine", "--attempt", "1", "--all-ranks").stdout
    assert {line.partition("| ")[0] for line in everyone.splitlines()} == {"0", "1"}
    (total,) = json.loads(lab.cldctl("usage", "--json").stdout)["totals"]
    assert total["unit"] == "core-hours"
    assert total["lost_to_crashes"] > 0
    assert 0 < total["goodput"] < 1

    said = lab.cldctl("submit", "toy", *ENDLESS, "cluster.partition=low", "--dry-run").stderr
    assert "steps/s as in mine; begins at once" in said, said

    lab.slurm.run(["scontrol", "requeuehold", found["job_id"]])
    row = lab.until("mine", "its job to be held", lambda row: "held" in (row["reason"] or ""))
    release = f"release it: `scontrol release {found['job_id']}`"
    assert release in row["reason"]
    found = why(lab, "mine")
    assert "it is held" in found["headline"], found
    assert "automatically" not in found["headline"]
    assert release in found["do"]
