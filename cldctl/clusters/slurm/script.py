"""From a `JobSpec` to the text of a batch script, without a call of Slurm."""

import re
import shlex
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

from cld_core.config.cluster import ClusterSpec, misread, not_plain
from cld_core.errors import RecipeError, UsageError
from cld_core.run.history import array_of
from cld_core.sanitize import printable
from cldctl.clusters.base import JobSpec, SchedulerRefused

from . import client

if TYPE_CHECKING:
    import submitit

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# Keys of a recipe that submitit has under the same names.
_SAME_NAME = ("nodes", "gres", "cpus_per_task", "partition", "account", "qos", "constraint")
# Options that change what the job is, or hide its logs, if the recipe sets them.
_OWN = ("array", "dependency", "error", "job-name", "open-mode", "output", "test-only", "wrap")


def executor(spec: JobSpec) -> "submitit.SlurmExecutor":
    """submitit's executor with the parameters of a job, also on a machine without Slurm.

    Raises:
        RecipeError: the time limit leaves no time to work, or an option is not one of sbatch.
        UsageError: a name or path has characters with a meaning of their own.
        SchedulerRefused: submitit does not accept the parameters.
    """
    import submitit

    class SlurmExecutor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            """submitit calls srun otherwise, which this machine may not have."""
            return 1

    described = SlurmExecutor(folder=spec.logs, python=_python(spec.size))
    try:
        described.update_parameters(**parameters(spec))
    except ValueError as error:
        raise SchedulerRefused(f"this job cannot be described to sbatch: {error}") from error
    return described


def text(spec: JobSpec, tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``.

    Raises:
        RecipeError: the time limit leaves no time to work, or an option is not one of sbatch.
        UsageError: a name or path has characters with a meaning of their own.
        SchedulerRefused: submitit does not accept the parameters.
    """
    described = executor(spec)
    if tasks > 1:
        described.parameters["map_count"] = tasks
    # No public call of submitit gives it.
    return str(described._make_submission_file_text(described._submitit_command_str, uid=""))


def parameters(spec: JobSpec) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor.

    A job has one task per rank, may be requeued, and ends when one rank fails.

    Raises:
        RecipeError: the time limit leaves no time to work, or an option is not one of sbatch.
        UsageError: a name or path has characters with a meaning of their own.
    """
    size = spec.size
    _check_time(spec)
    _check_texts(spec)
    srun_args = ["--kill-on-bad-exit=1"]
    if size.cpus_per_task is not None:
        # srun does not take it over from sbatch in versions from 22.05 to 23.02.
        srun_args.append(f"--cpus-per-task={size.cpus_per_task}")
    values: dict[str, Any] = {name: getattr(size, name) for name in _SAME_NAME}
    values["ntasks_per_node"] = size.ranks_per_node
    if size.gpus_per_node and size.gres is None:
        values["gpus_per_node"] = size.gpus_per_node
    if size.mem_gb is not None:
        values["mem"] = _memory(size.mem_gb)
    values["exclude"] = ",".join(filter(None, (size.exclude, *spec.exclude))) or None
    values["dependency"] = dependency(spec)
    values["array_parallelism"] = spec.parallel
    return {
        "job_name": spec.name,
        **{name: value for name, value in values.items() if value is not None},
        "setup": _setup(spec),
        "signal_delay_s": spec.notice_s,
        "srun_args": [*srun_args, *size.srun_args],
        "additional_parameters": {"requeue": True, **_options(size.sbatch_args)},
        # Without None for these two, submitit would fill in values of its own. Sites that track
        # wckey would refuse that value.
        "time": size.time_min,
        "wckey": None,
    }


def dependency(spec: JobSpec) -> str | None:
    """What a job waits for, in the form of sbatch: ``afterany:12:13_4``; None for nothing.

    Slurm limits the running tasks of one array only, so arrays under one limit follow each other.
    """
    conditions = []
    if (after := spec.after) is not None:
        assert after.jobs, "a dependency needs a job"
        how = {"ended": "afterany", "succeeded": "afterok"}[after.how]
        conditions.append(":".join([how, *dict.fromkeys(job.job_id for job in after.jobs)]))
    if spec.parallel is not None and spec.earlier:
        arrays = dict.fromkeys(array_of(job.job_id) for job in spec.earlier)
        conditions.append(":".join(["afterany", *arrays]))
    return ",".join(conditions) or None


def _check_time(spec: JobSpec) -> None:
    if spec.size.time_min is not None and spec.size.time_min * 60 <= spec.notice_s:
        raise RecipeError(
            f"recipe: 'cluster.time_min' is {spec.size.time_min}, but the job is told "
            f"{spec.notice_s} s before its limit to save and end (cluster.signal_s): it would "
            f"never train. Set it to {spec.notice_s // 60 + 2} or more."
        )


def _check_texts(spec: JobSpec) -> None:
    """Check texts that are not of the recipe, and those of the recipe again."""
    logs = str(spec.logs)
    if "%" in logs:
        raise UsageError(
            f"{printable(logs, keep='')}: Slurm replaces what follows a '%' in the names of logs. "
            "Use another --runs-dir."
        )
    _require("run", spec.name, misread(spec.name))
    _require("folder", logs, misread(logs))
    for node in spec.exclude:
        _require("node", node, misread(node))
    for path in (*spec.aftermath, sys.executable, str(spec.code or "")):
        _require("path", path, not_plain(path))
    # The spec may come from another source than a recipe.
    for key, _, problem in spec.size.problems():
        empty = "[]" if isinstance(getattr(spec.size, key), tuple) else "null"
        raise RecipeError(
            f"recipe: 'cluster.{key}' {problem} `cldctl resume {spec.name} cluster.{key}={empty}` "
            "changes that of a run."
        )


def _require(what: str, text: str, problem: str | None) -> None:
    if problem is not None:
        raise UsageError(f"the {what} {text!r} cannot be part of a batch script: {problem}.")


def _python(size: ClusterSpec) -> str:
    """The command of this environment's Python, in the container if there is one."""
    return f"{size.container or ''} {shlex.quote(sys.executable)}".lstrip()


def python_beside(size: ClusterSpec) -> str:
    """The command with which a batch script starts Python where the ranks run.

    The containers of Pyxis exist through srun alone.
    """
    inside = [argument for argument in size.srun_args if argument.startswith("--container")]
    if not inside:
        return _python(size)
    return f"srun --nodes=1 --ntasks=1 --overlap {shlex.join(inside)} {_python(size)}"


def _setup(spec: JobSpec) -> list[str]:
    """The lines before srun. If a line of the recipe fails, the job ends; it may set PYTHONPATH."""
    lines = [
        *_follow(spec),
        *spec.size.setup,
        # From here on, the job itself decides what follows its end.
        "cldctl_plain",
        "trap - ERR",
        "trap '' TERM",
        "trap cldctl_follow EXIT",
        "cldctl_phase=work",
        # If sbatch passes the job no variables, srun would pass its tasks none either.
        "unset SLURM_EXPORT_ENV",
        "cldctl_import || exit 1",
    ]
    if spec.size.successor:
        lines.append("cldctl_succeed")
    return lines


def _follow(spec: JobSpec) -> list[str]:
    """The lines that decide and carry out what follows a start: `follow.sh` without comments."""
    ask = ":"
    if spec.aftermath:
        python = f"{python_beside(spec.size)} -m {shlex.join(spec.aftermath)}"
        ask = f'(cldctl_import && cldctl_within "$cldctl_patience" {python} "$@")'
    lines = resources.files(__package__).joinpath("follow.sh").read_text().splitlines()
    return [
        f"cldctl_logs={shlex.quote(str(spec.logs))}",
        f"cldctl_code={shlex.quote(str(spec.code or ''))}",
        f"cldctl_notice={spec.notice_s}",
        f"cldctl_away={shlex.quote(client.AWAY.pattern)}",
        f"cldctl_ask() {{ {ask}; }}",
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
            raise RecipeError(
                f"recipe: 'cluster.sbatch_args' has {argument!r}, not an option of sbatch. "
                "Write --name or --name=value, for example --mail-type=END."
            )
        # sbatch takes the beginning of a name for the whole.
        if any(own.startswith(name) for own in _OWN):
            raise RecipeError(
                f"recipe: 'cluster.sbatch_args' has --{name}, which cldctl sets itself. Remove it."
            )
        if not _OPTION.fullmatch(name):
            raise RecipeError(
                f"recipe: 'cluster.sbatch_args' has --{name}, not the name of an option. Remove it."
            )
        options[name] = value if equals else True
    return options
