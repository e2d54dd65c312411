"""What is asked of Slurm: whole scripts against golden files, byte for byte."""

import os
import sys
import time
from pathlib import Path

import pytest
from submitit.core.utils import FailedJobError

from cld_core.errors import RecipeError
from cld_core.recipe import load
from cld_core.recipe.schema import Recipe
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from cldctl.cluster import executor, launch, slurm
from tests.support.paths import RECIPES

GOLDEN = Path(__file__).parent / "golden"
TOY = RECIPES / "toy.yaml"
CASES = {
    "plain": [],
    "everything": [
        *("cluster.nodes=2", "cluster.gpus_per_node=8", "cluster.partition=gpu", "cluster.account=me"),
        *("cluster.qos=high", "cluster.time_min=90", "cluster.mem_gb=480", "cluster.cpus_per_task=8"),
        *("cluster.constraint=a100", "cluster.exclude=n[1-3]", "cluster.setup=[module load cuda, ulimit -n 4096]"),
        *("cluster.sbatch_args=[--mail-type=END, --exclusive]", "cluster.srun_args=[--cpu-bind=cores]"),
        *("cluster.container=apptainer exec --nv image.sif", "cluster.signal_s=120"),
    ],
    "gres": ["cluster.gres=gpu:a100:4", "cluster.gpus_per_node=4", "cluster.mem_gb=1.5"],
}


@pytest.fixture(autouse=True)
def _srun(tmp_path, monkeypatch):
    """submitit wants an srun on PATH; no script here is ever run."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def script(recipe: Recipe) -> str:
    spec = launch.train_job(RunFolder("/runs/mine"), recipe, "slurm")
    return executor.slurm_script(spec).replace(sys.executable, "PYTHON")


@pytest.mark.parametrize("case", CASES)
def test_scripts_are_the_golden_ones(case):
    file = GOLDEN / f"{case}.sh"
    text = script(load(TOY, CASES[case]))
    if os.environ.get("CLDCTL_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_a_profile_goes_over_the_recipe_and_the_command_line_over_both(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("cluster:\n  partition: short\n  account: lab\n  gpus_per_node: 4\n")
    recipe = load(TOY, ["cluster.partition=long"], profile)
    assert (recipe.cluster.partition, recipe.cluster.account, recipe.cluster.gpus_per_node) == ("long", "lab", 4)
    profile.write_text("cluster:\n  partitoin: short\n")
    with pytest.raises(RecipeError, match=r"mine.yaml, line 2.*'cluster.partitoin'.*'cluster.partition'"):
        load(TOY, [], profile)
    profile.write_text("train:\n  steps: 3\n")
    with pytest.raises(RecipeError, match=r"mine.yaml, line 1: a profile cannot set 'train'"):
        load(TOY, [], profile)


def test_options_that_are_none():
    with pytest.raises(RecipeError, match=r"'mail-type=END', which is no option of sbatch"):
        script(load(TOY, ["cluster.sbatch_args=[mail-type=END]"]))


def test_the_notice_comes_from_measured_saves(tmp_path):
    run = RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})
    recipe = run.recipe()
    assert launch.signal_seconds(run, recipe.cluster) == 90
    for step, seconds in ((10, 2.0), (20, 100.0)):
        write_json(run.checkpoint_file(step).with_suffix(".json"), {"step": step, "seconds": seconds})
    assert launch.signal_seconds(run, recipe.cluster) == 360
    assert launch.signal_seconds(run, load(TOY, ["cluster.signal_s=45"]).cluster) == 45


def test_an_evaluation_is_an_array_with_a_task_a_shard_that_waits_for_the_training():
    run, recipe = RunFolder("/runs/mine"), load(TOY, ["cluster.nodes=2", "cluster.gpus_per_node=8"])
    spec = launch.eval_job(run, "slurm", recipe.cluster, run.logs, after="42", parallel=5)
    text = executor.slurm_script(spec, 16)
    for line in ("array=0-15%5", "dependency=afterany:42", "nodes=1", "ntasks-per-node=1", "gpus-per-node=1"):
        assert f"#SBATCH --{line}\n" in text


def test_shards_share_tasks_where_an_array_cannot_be_so_long(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    for name, shards in (("a", 3), ("b", 2)):
        (run.evals / name).mkdir(parents=True)
        write_json(run.evals / name / "request.json", {"shards": shards})
    pairs = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert launch.array_tasks(run, ("a", "b")) == [(pair,) for pair in pairs]
    monkeypatch.setattr(launch, "MAX_TASKS", 2)
    assert launch.array_tasks(run, ("a", "b")) == [tuple(pairs[::2]), tuple(pairs[1::2])]


def test_a_time_limit_within_its_own_notice_is_refused():
    for settings in (["cluster.time_min=1"], ["cluster.time_min=5", "cluster.signal_s=900"]):
        with pytest.raises(RecipeError, match=r"'cluster.time_min' is \d, but .* it would never train"):
            script(load(TOY, settings))
    script(load(TOY, ["cluster.time_min=2"]))


@pytest.mark.parametrize(
    ("answers", "said", "cancelled"),
    [
        (
            [(0, "31|{now}\n7|2020-01-01T00:00:00\n")],
            r"What had been submitted \(job 31\) is cancelled\. Try again",
            ["31"],
        ),
        ([(0, "")], "Try again when slurmctld answers", []),
        ([(1, "timed out"), (0, "31|{now}\n")], "job 31", ["31"]),
        ([(1, "timed out")] * 9, "It may wait there all the same.*squeue --me --name=mine", []),
    ],
)
def test_an_sbatch_without_an_answer_leaves_no_job_behind(monkeypatch, answers, said, cancelled):
    """Slurm may have taken the job all the same; nobody would know of it."""
    asked: list[list[str]] = []

    def client(command: list[str]) -> tuple[int, str]:
        asked.append(command)
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        code, text = answers.pop(0) if command[0] == "squeue" else (0, "")
        return code, text.format(now=now)

    def refuse(*arguments, **more):
        raise FailedJobError("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n")

    monkeypatch.setattr(slurm, "run_client", client)
    monkeypatch.setattr(executor, "_AWAY_S", 2.5)
    monkeypatch.setattr("submitit.SlurmExecutor.submit", refuse)
    spec = launch.train_job(RunFolder("/runs/mine"), load(TOY), "slurm")
    with pytest.raises(executor.SchedulerError, match=f"Socket timed out on send/recv operation. .*{said}"):
        executor.submit_slurm(spec, [lambda: None])
    assert [command[1:] for command in asked if command[0] == "scancel"] == ([cancelled] if cancelled else [])
