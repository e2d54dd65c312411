"""A run that waits for another job, on a real Slurm."""

from .lab import ENDLESS


def test_a_run_waits_for_any_job_and_says_so_if_its_turn_cannot_come(lab):
    held = lab.slurm.sbatch("--partition=low", "--hold", wrap="exit 1")
    for name, after in (("first", held), ("second", f"{held}:any")):
        lab.cldctl(f"submit toy --name {name} --after {after}", *ENDLESS, "cluster.partition=low")
    lab.until("first", "the dependency", lambda row: "Dependency" in (row["reason"] or ""))
    assert f"afterok:{held}" in lab.cldctl("why first").stdout
    lab.slurm.run(["scontrol", "release", held])
    lab.training("second")
    lab.cldctl("cancel second")
    waits = lab.until(
        "first", "the end of its hopes", lambda row: "NeverSatisfied" in (row["reason"] or "")
    )
    assert "it never begins" in lab.cldctl("why first").stdout
    lab.slurm.run(["scontrol", "update", f"jobid={waits['job_id']}", "dependency="])
    lab.training("first")
    lab.cldctl("cancel first")
