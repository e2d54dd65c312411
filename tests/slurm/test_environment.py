"""What reaches a job, and what is made of one that Slurm has never heard of."""

from tests.support.made_up import note, queued


def test_a_job_that_inherits_no_variables_trains(lab, monkeypatch):
    """srun passes on what the batch script has, whatever sbatch was told."""
    # As on a site, where it is in its usual place.
    setup = f"cluster.setup=[export SLURM_CONF={lab.slurm.env['SLURM_CONF']}]"
    lab.submit("option", "train.steps=20", setup, "cluster.sbatch_args=[--export=NONE]")
    lab.more["SBATCH_EXPORT"] = "NONE"
    lab.submit("variable", "train.steps=20", setup)
    for name in ("option", "variable"):
        assert lab.ended(name)["state"] == "FINISHED", lab.cldctl(f"logs {name}", code=None).stderr


def test_options_reach_slurm_as_they_were_written(lab):
    comment = "two words #1, $HOME; `x` & (y) 100%"
    run = lab.submit("mine", f"cluster.sbatch_args=[--hold, '--comment={comment}']")
    row = lab.until("mine", "it to be held", lambda row: "JobHeld" in (row["reason"] or ""))
    shown = lab.slurm.run(["scontrol", "show", "job", row["job_id"]]).stdout
    assert f"Comment={comment}" in [line.strip() for line in shown.splitlines()]
    note(run, queued("999999", cluster="slurm"))
    assert lab.status("mine")["state"] == "FAILED", "it ended before it began"
