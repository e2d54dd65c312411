"""From a `JobSpec` to the text of a batch script. Pure: nobody is asked."""

import re
import shlex
import sys
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any

from cld_core.config.cluster import ClusterSpec, misread, not_plain
from cld_core.errors import RecipeError, UsageError
from cld_core.run.events import JobRef
from cld_core.sanitize import printable
from cldctl.clusters.base import JobSpec, SchedulerRefused

from . import client

if TYPE_CHECKING:
    import submitit

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# Others would make another job of it, or hide its logs.
_OWN = ("array", "dependency", "error", "job-name", "open-mode", "output", "test-only", "wrap")


def executor(spec: JobSpec) -> "submitit.SlurmExecutor":
    """What describes such jobs to sbatch, also on a machine without Slurm, and submits them.

    Raises:
        RecipeError, UsageError: as `parameters`.
        SchedulerRefused: submitit does not accept the parameters.
    """
    import submitit

    class SlurmExecutor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            """Without it, submitit describes no job on a machine that has no srun."""
            return 1

    wanted = parameters(spec)
    made = SlurmExecutor(folder=spec.logs, python=_python(spec.size))
    try:
        made.update_parameters(**wanted)
    except ValueError as error:
        raise SchedulerRefused(f"this job cannot be described to sbatch: {error}") from error
    return made


def text(spec: JobSpec, tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``, which submitit shows by no public
    call.

    Raises:
        RecipeError, UsageError, SchedulerRefused: as `executor`.
    """
    made = executor(spec)
    if tasks > 1:
        made.parameters["map_count"] = tasks
    return str(made._make_submission_file_text(made._submitit_command_str, uid=""))


def parameters(spec: JobSpec) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor: one task per rank, requeued when asked, ended when
    one rank fails.

    Raises:
        RecipeError: the time limit leaves no time to work, or an option is not one of sbatch.
        UsageError: a name or path would be read as something else.
    """
    size = spec.size
    _check_time(spec)
    _check_texts(spec)
    # Once more: between 22.05 and 23.02, srun does not take them over from sbatch.
    cores = [] if size.cpus_per_task is None else [f"--cpus-per-task={size.cpus_per_task}"]
    wanted: dict[str, Any] = {
        "job_name": spec.name,
        "nodes": size.nodes,
        "ntasks_per_node": size.ranks_per_node,
        "gpus_per_node": size.gpus_per_node if size.gpus_per_node and size.gres is None else None,
        "gres": size.gres,
        "cpus_per_task": size.cpus_per_task,
        "mem": None if size.mem_gb is None else _memory(size.mem_gb),
        "partition": size.partition,
        "account": size.account,
        "qos": size.qos,
        "constraint": size.constraint,
        "exclude": ",".join(filter(None, (size.exclude, *spec.exclude))) or None,
        "time": size.time_min,
        "dependency": dependency(spec),
        "setup": _setup(spec),
        "signal_delay_s": spec.notice_s,
        "srun_args": ["--kill-on-bad-exit=1", *cores, *size.srun_args],
        "array_parallelism": spec.parallel,
        # submitit's own mark, which sites that track these keys would refuse.
        "wckey": None,
        "additional_parameters": {"requeue": True, **_options(size.sbatch_args)},
    }
    # Without None for these two, submitit would fill in values of its own.
    return {
        name: value
        for name, value in wanted.items()
        if value is not None or name in ("wckey", "time")
    }


def dependency(spec: JobSpec) -> str | None:
    """What a job waits for, as sbatch takes it, for example ``afterany:12:13_4``; None for nothing.

    Slurm limits how many tasks of one array run: arrays under one limit follow each other.
    """
    conditions = []
    if (after := spec.after) is not None:
        assert after.jobs, "a dependency needs a job"
        how = {"ended": "afterany", "succeeded": "afterok"}[after.how]
        conditions.append(":".join([how, *dict.fromkeys(job.job_id for job in after.jobs)]))
    if spec.parallel is not None and spec.earlier:
        conditions.append(":".join(["afterany", *arrays_of(spec.earlier)]))
    return ",".join(conditions) or None


def arrays_of(jobs: Iterable[JobRef]) -> list[str]:
    """The ids of the jobs and arrays that tasks are of, in their order."""
    return list(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))


def _check_time(spec: JobSpec) -> None:
    if spec.size.time_min is not None and spec.size.time_min * 60 <= spec.notice_s:
        early = (
            f"the job is told {spec.notice_s} s before its limit to save and end (cluster.signal_s)"
        )
        advice = f"it would never train. Set it to {spec.notice_s // 60 + 2} or more"
        raise RecipeError(
            f"recipe: 'cluster.time_min' is {spec.size.time_min}, but {early}: {advice}."
        )


def _check_texts(spec: JobSpec) -> None:
    """The last net under what the recipe has checked, and what is not of the recipe."""
    logs = str(spec.logs)
    if "%" in logs:
        text = "Slurm replaces what follows a '%' in the names of logs. Use another --runs-dir"
        raise UsageError(f"{printable(logs, keep='')}: {text}.")
    _require("run", spec.name, misread(spec.name))
    _require("folder", logs, misread(logs))
    for node in spec.exclude:
        _require("node", node, misread(node))
    for path in (*spec.aftermath, sys.executable, str(spec.code or "")):
        _require("path", path, not_plain(path))
    # Again, since the spec may be made in another way than from a recipe.
    for key, _, problem in spec.size.problems():
        empty = "[]" if isinstance(getattr(spec.size, key), tuple) else "null"
        fix = f"`cldctl resume {spec.name} cluster.{key}={empty}` changes that of a run"
        raise RecipeError(f"recipe: 'cluster.{key}' {problem} {fix}.")


def _require(what: str, text: str, problem: str | None) -> None:
    if problem is not None:
        raise UsageError(f"the {what} {text!r} cannot be part of a batch script: {problem}.")


def _python(size: ClusterSpec) -> str:
    """The Python of this environment, behind the container's command if there is one."""
    return f"{size.container or ''} {shlex.quote(sys.executable)}".lstrip()


def python_beside(size: ClusterSpec) -> str:
    """The Python that sees what those of the ranks see, for a batch script: that of Pyxis exists
    through srun alone."""
    inside = [argument for argument in size.srun_args if argument.startswith("--container")]
    again = f"srun --nodes=1 --ntasks=1 --overlap {shlex.join(inside)} " if inside else ""
    return again + _python(size)


def _setup(spec: JobSpec) -> list[str]:
    """The lines before srun. Those of the recipe end the job if one fails, and may set
    PYTHONPATH."""
    return [
        *_follow(spec),
        *spec.size.setup,
        *_PREPARED,
        # Where a job gets no variables from the command that submits it, srun would pass none to
        # its tasks.
        "unset SLURM_EXPORT_ENV",
        "cldctl_import || exit 1",
        *(["cldctl_succeed"] if spec.size.successor else []),
    ]


# Behind the lines of the recipe: from now on the job answers for itself.
_PREPARED = (
    "cldctl_plain",
    "trap - ERR",
    "trap '' TERM",
    "trap cldctl_follow EXIT",
    "cldctl_phase=work",
)


def _follow(spec: JobSpec) -> list[str]:
    """What follows a start, as far as the batch script does it: `follow.sh`, without its
    comments."""
    ask = (
        f'cldctl_within "$cldctl_patience" {python_beside(spec.size)} -m '
        f'{shlex.join(spec.aftermath)} "$@"'
    )
    lines = resources.files(__package__).joinpath("follow.sh").read_text().splitlines()
    return [
        f"cldctl_logs={shlex.quote(str(spec.logs))}",
        f"cldctl_code={shlex.quote(str(spec.code or ''))}",
        f"cldctl_notice={spec.notice_s}",
        f"cldctl_away={shlex.quote(client.AWAY.pattern)}",
        f"cldctl_ask() {{ (cldctl_import && {ask}); }}"
        if spec.aftermath
        else "cldctl_ask() { :; }",
        *(line for line in lines if line.strip() and not line.lstrip().startswith("#")),
    ]


def _memory(gb: float) -> str:
    return f"{int(gb)}GB" if gb == int(gb) else f"{round(gb * 1024)}MB"


def _options(arguments: tuple[str, ...]) -> dict[str, Any]:
    """``--name=value`` and ``--name`` as submitit takes them."""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            example = "Write --name or --name=value, for example --mail-type=END"
            raise RecipeError(
                f"recipe: 'cluster.sbatch_args' has {argument!r}, not an option of sbatch. "
                f"{example}."
            )
        # sbatch takes the beginning of a name for the whole.
        is_own = any(own.startswith(name) for own in _OWN)
        if not _OPTION.fullmatch(name) or is_own:
            text = "which cldctl sets itself" if is_own else "not the name of an option"
            raise RecipeError(f"recipe: 'cluster.sbatch_args' has --{name}, {text}. Remove it.")
        options[name] = value if equals else True
    return options
