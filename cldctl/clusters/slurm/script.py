"""From a `JobSpec` to the text of a batch script. Pure: nobody is asked."""

import re
import shlex
import sys
from typing import Any

from cld_core.config.cluster import ClusterSpec, misread, not_plain
from cld_core.errors import RecipeError, UsageError
from cld_core.sanitize import printable
from cldctl.clusters import entry, this_machine
from cldctl.clusters.base import After, JobSpec, SchedulerRefused

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# Others would make another job of it, or hide its logs.
_OWN = ("array", "dependency", "error", "job-name", "open-mode", "output", "test-only", "wrap")


def text(spec: JobSpec, tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``, byte for byte as it is submitted.

    Raises:
        RecipeError, UsageError: as `parameters`.
        SchedulerRefused: there is no Slurm here, or submitit does not accept the parameters.
    """
    import submitit

    python, wanted = _python_command(spec.size), parameters(spec)
    try:
        executor = submitit.SlurmExecutor(folder=spec.logs, python=python)
    except RuntimeError as error:
        raise SchedulerRefused(f"there is no Slurm on this machine ({error}). Use --cluster local.") from error
    try:
        executor.update_parameters(**wanted)
    except ValueError as error:
        raise SchedulerRefused(f"this job cannot be described to sbatch: {error}") from error
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(entry.command(python, executor.folder), uid=""))


def parameters(spec: JobSpec) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor: one task per rank, requeued when asked, ended when one rank fails.

    Raises:
        RecipeError: the time limit leaves no time to work, or an option is not one of sbatch.
        UsageError: a name or path would be read as something else.
    """
    size = spec.size
    _check_time(spec)
    _check_texts(spec)
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
        "dependency": None if spec.after is None else dependency(spec.after),
        "setup": _setup(spec),
        "teardown": _teardown(spec) or None,
        "signal_delay_s": spec.notice_s,
        "srun_args": ["--kill-on-bad-exit=1", *_cores(size), *size.srun_args],
        "array_parallelism": spec.parallel,
        # submitit's own mark, which sites that track these keys would refuse.
        "wckey": None,
        "additional_parameters": {"requeue": True, **_options(size.sbatch_args), **_never_satisfied(spec.after)},
    }
    # Without None for these two, submitit would fill in values of its own.
    return {name: value for name, value in wanted.items() if value is not None or name in ("wckey", "time")}


def _python_command(size: ClusterSpec) -> str:
    """The Python of this environment, behind the container's command if there is one."""
    python = entry.python_command()
    return f"{size.container} {python}" if size.container else python


def dependency(after: After) -> str:
    """The condition as sbatch and scontrol take it, for example ``afterany:12:13_4``."""
    assert after.jobs, "a dependency needs a job"
    how = {"ended": "afterany", "failed": "afternotok", "succeeded": "afterok"}[after.how]
    return ":".join([how, *dict.fromkeys(job.job_id for job in after.jobs)])


def _cores(size: ClusterSpec) -> list[str]:
    """The cores of a rank once more: between 22.05 and 23.02, srun does not take them over from sbatch."""
    return [] if size.cpus_per_task is None else [f"--cpus-per-task={size.cpus_per_task}"]


def _check_time(spec: JobSpec) -> None:
    if spec.size.time_min is not None and spec.size.time_min * 60 <= spec.notice_s:
        early = f"the job is told {spec.notice_s} s before its limit to save and end (cluster.signal_s)"
        advice = f"it would never train. Set it to {spec.notice_s // 60 + 2} or more"
        raise RecipeError(f"recipe: 'cluster.time_min' is {spec.size.time_min}, but {early}: {advice}.")


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


def _setup(spec: JobSpec) -> list[str]:
    return [
        *_trap(spec),
        *spec.size.setup,
        *_exports(spec),
        # A careful `set -e` is for the lines above: what comes after srun must run when that fails.
        *(["set +e", "trap - TERM"] if spec.aftermath else []),
    ]


def _exports(spec: JobSpec) -> list[str]:
    return [
        # Behind the lines of the recipe, which may set the variable.
        *_path(spec),
        # A job tells the signal of its time limit from that of a preemption by how early it comes.
        f"export CLDCTL_SIGNAL_S={spec.notice_s}",
        *(f"export {name}={value}" for name, value in this_machine.SAFE_PATH.items()),
    ]


def _path(spec: JobSpec) -> list[str]:
    """Import from the code of the run, unless somebody has put other code into its place while the job waited."""
    if spec.code is None:
        return []
    others = r'[ -n "$(find "$cldctl_code" -prune \( -perm -020 -o -perm -002 \))" ]'
    text = "the code of the run is missing, or is not only yours to write: nothing of it was imported"
    fix = f"Continue with that of your checkout: cldctl resume {spec.name} --update-code"
    return [
        f"cldctl_code={shlex.quote(str(spec.code))}",
        f'if [ -L "$cldctl_code" ] || [ ! -O "$cldctl_code" ] || {others}; then',
        f'  echo "$cldctl_code: {text}. {fix}" >&2',
        "  exit 1",
        "fi",
        'export PYTHONPATH="$cldctl_code${PYTHONPATH:+:$PYTHONPATH}"',
    ]


def _trap(spec: JobSpec) -> list[str]:
    """If the time limit comes during the setup, nobody but the batch script is there to hear of it."""
    if not spec.aftermath:
        return []
    command = f"{_python_command(spec.size)} -m {shlex.join(spec.aftermath)} 143 setup $cldctl_begin"
    # The lines below that set the environment have not run yet.
    body = ["trap - TERM", *_exports(spec), command, "exit 143"]
    return [
        # Slurm appends to the log of earlier starts, in which its notices are about those.
        "cldctl_begin=$(stat -L -c %s /proc/$$/fd/2 2>/dev/null || echo 0)",
        "cldctl_told_to_end() {",
        *(f"  {line}" for line in body),
        "}",
        "trap cldctl_told_to_end TERM",
    ]


def _teardown(spec: JobSpec) -> list[str]:
    if not spec.aftermath:
        return []
    return ["code=$?", f"{_python_command(spec.size)} -m {shlex.join(spec.aftermath)} $code", "exit $code"]


def _never_satisfied(after: After | None) -> dict[str, Any]:
    """A successor whose turn cannot come any more leaves the queue."""
    return {"kill-on-invalid-dep": "yes"} if after is not None and after.how == "failed" else {}


def _memory(gb: float) -> str:
    return f"{int(gb)}GB" if gb == int(gb) else f"{round(gb * 1024)}MB"


def _options(arguments: tuple[str, ...]) -> dict[str, Any]:
    """``--name=value`` and ``--name`` as submitit takes them."""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            example = "Write --name or --name=value, for example --mail-type=END"
            raise RecipeError(f"recipe: 'cluster.sbatch_args' has {argument!r}, not an option of sbatch. {example}.")
        # sbatch takes the beginning of a name for the whole.
        is_own = any(own.startswith(name) for own in _OWN)
        if not _OPTION.fullmatch(name) or is_own:
            text = "which cldctl sets itself" if is_own else "not the name of an option"
            raise RecipeError(f"recipe: 'cluster.sbatch_args' has --{name}, {text}. Remove it.")
        options[name] = value if equals else True
    return options
