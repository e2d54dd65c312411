"""What a job finds around it: the variables that it gets, and a setup that fails."""

from cld_core.run.events import Started

SHORT = ("cluster.nodes=1", "train.steps=30")


def test_a_job_that_inherits_no_variables_trains(lab, monkeypatch):
    """srun passes on what the batch script has, whatever sbatch was told."""
    # As on a site, where it is in its usual place.
    setup = f"cluster.setup=[export SLURM_CONF={lab.slurm.env['SLURM_CONF']}]"
    lab.submit("option", *SHORT, setup, "cluster.sbatch_args=[--export=NONE]")
    lab.more["SBATCH_EXPORT"] = "NONE"
    lab.submit("variable", *SHORT, setup)
    for name in ("option", "variable"):
        assert lab.ended(name)["state"] == "FINISHED", lab.cldctl("logs", name, code=None).stderr


def test_a_line_of_the_setup_that_fails_ends_the_job(lab):
    """Nothing is trained, with the wrong CUDA for example; the log names the line, wherever it is."""
    lines = "'true', 'module load cuda/none', 'export MODULE_IS_LOADED=1'"
    run = lab.submit("mine", *SHORT, f"cluster.setup=[{lines}]")
    block = lab.submit("block", *SHORT, 'cluster.setup=["load() {\\n  no-such-command\\n}\\nload"]')
    for folder, line in ((run, "module load cuda/none"), (block, "no-such-command")):
        assert lab.ended(folder.name)["state"] == "FAILED"
        lab.slurm.wait_idle()
        (log,) = folder.logs.glob("*_0_log.err")
        assert line in log.read_text()
        assert "cluster.setup" in log.read_text()
        assert not any(isinstance(event, Started) for event in folder.ledger.events())
