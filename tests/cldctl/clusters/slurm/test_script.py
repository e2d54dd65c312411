"""Batch scripts against golden files, byte for byte, except for the lines of follow.sh."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError, UsageError
from cld_core.run.events import JobRef
from cldctl.clusters.base import After, JobSpec
from cldctl.clusters.slurm.cluster import SlurmCluster

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "plain": {},
    "everything": {
        "size": ClusterSpec(
            nodes=2,
            gpus_per_node=8,
            partition="gpu",
            account="me",
            qos="high",
            time_min=90,
            mem_gb=480,
            cpus_per_task=8,
            constraint="a100",
            exclude="n[1-3]",
            setup=("module load cuda", "ulimit -n 4096"),
            sbatch_args=("--mail-type=END", "--exclusive"),
            srun_args=("--cpu-bind=cores",),
            container="apptainer exec --nv image.sif",
        ),
        "notice_s": 120,
    },
    "gres": {"size": ClusterSpec(gres="gpu:a100:4", gpus_per_node=4, mem_gb=1.5)},
    # A dry run waits for a job without an id.
    "chained": {
        "tasks": 2,
        "after": After((JobRef(cluster="slurm", job_id="JOB_OF_THE_TRAINING"),)),
    },
}
SPEC = JobSpec(
    name="mine",
    logs=Path("/runs/mine/logs"),
    size=ClusterSpec(),
    aftermath=("cldctl.jobs.aftermath", "/runs/mine"),
)


pytestmark = pytest.mark.usefixtures("without_slurm")


def script(tasks=1, **changes):
    return SlurmCluster().script(replace(SPEC, **changes), tasks).replace(sys.executable, "PYTHON")


@pytest.mark.parametrize("case", CASES)
def test_scripts_are_the_golden_ones(case):
    file = GOLDEN / f"{case}.sh"
    text = script(**CASES[case])
    before, _, rest = text.partition("cldctl_job=")
    text = f"{before}# follow.sh\n{rest[rest.index('set -eE') :]}"
    if os.environ.get("CLDCTL_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_an_array_that_waits_and_avoids_nodes():
    others = (JobRef(cluster="slurm", job_id="42"), JobRef(cluster="slurm", job_id="43_1"))
    assert "#SBATCH --dependency=afterok:42:43_1\n" in script(after=After(others, "succeeded"))
    about = {"size": ClusterSpec(exclude="n1"), "after": After(others), "exclude": ("n7", "n8")}
    earlier = tuple(JobRef(cluster="slurm", job_id=job_id) for job_id in ("50_0", "50_1", "51"))
    text = script(16, parallel=5, earlier=earlier, **about)
    waits = "dependency=afterany:42:43_1,afterany:50:51"
    for line in ("array=0-15%5", waits, "exclude=n1,n7,n8"):
        assert f"#SBATCH --{line}\n" in text
    assert "dependency=afterany:42:43_1\n" in script(16, earlier=earlier, **about)


def test_a_time_limit_within_its_own_notice_is_refused():
    with pytest.raises(RecipeError, match=r"'cluster.time_min' is \d, but .* it would never train"):
        SlurmCluster().check(replace(SPEC, size=ClusterSpec(time_min=5), notice_s=900))
    SlurmCluster().check(replace(SPEC, size=ClusterSpec(time_min=2)))


INJECTED = "x\n#SBATCH --wrap=true\ntouch y"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": INJECTED},
        {"logs": Path(f"/runs/{INJECTED}/logs")},
        {"logs": Path("/runs/100%/logs")},
        {"code": Path("/runs/\udcff")},
        {"aftermath": ("cldctl.jobs.aftermath", INJECTED)},
        {"size": ClusterSpec(partition=INJECTED)},
        {"size": ClusterSpec(setup=(INJECTED,))},
    ],
)
def test_texts_that_would_become_lines_or_options_of_their_own(changes):
    for call in (script, lambda **more: SlurmCluster().check(replace(SPEC, **more))):
        with pytest.raises(UsageError) as refusal:
            call(**changes)
        assert str(refusal.value).isprintable()


@pytest.mark.parametrize("option", ["--wrap=x", "--out=/dev/null"])
def test_options_that_would_make_another_job_of_it(option):
    with pytest.raises(RecipeError, match="which cldctl sets itself"):
        script(size=ClusterSpec(sbatch_args=(option,)))
    with pytest.raises(RecipeError, match="not the name of an option"):
        script(size=ClusterSpec(sbatch_args=("--a b=c",)))
