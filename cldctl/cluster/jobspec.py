"""What a job needs, said once for every kind of cluster. Pure: nothing is started here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError
from cld_core.recipe.schema import ClusterSpec

# A local job has no limit unless the recipe sets one; submitit wants a number of minutes.
_FOREVER_MIN = 10 * 365 * 24 * 60


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job: its name, where its logs go, and its size."""

    name: str
    logs: Path
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    time_min: int | None = None
    resources: ClusterSpec = field(default_factory=ClusterSpec)
    signal_s: int = 90
    after: str | None = None
    parallel: int | None = None
    teardown: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, logs: Path, cluster: ClusterSpec) -> "JobSpec":
        return cls(
            name=name,
            logs=logs,
            nodes=cluster.nodes,
            tasks_per_node=cluster.ranks_per_node,
            gpus_per_node=cluster.gpus_per_node,
            time_min=cluster.time_min,
            resources=cluster,
            signal_s=cluster.signal_s or 90,
        )

    def slurm_parameters(self) -> dict[str, Any]:
        """Parameters of submitit's Slurm executor: one task a rank, requeueable, dead when one rank is."""
        wanted = self.resources
        if self.time_min is not None and self.time_min * 60 <= self.signal_s:
            early = f"the job is told {self.signal_s} s before its limit to save and end (cluster.signal_s)"
            text = f"is {self.time_min}, but {early}: it would never train. Set it to"
            raise RecipeError(f"recipe: 'cluster.time_min' {text} {self.signal_s // 60 + 2} or more.")
        parameters: dict[str, Any] = {
            "job_name": self.name,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "gpus_per_node": self.gpus_per_node if self.gpus_per_node and wanted.gres is None else None,
            "gres": wanted.gres,
            "cpus_per_task": wanted.cpus_per_task,
            "mem": None if wanted.mem_gb is None else _memory(wanted.mem_gb),
            "partition": wanted.partition,
            "account": wanted.account,
            "qos": wanted.qos,
            "constraint": wanted.constraint,
            "exclude": wanted.exclude,
            "time": self.time_min,
            "dependency": self.after,
            # A careful `set -e` is for the lines of the setup: what comes after srun must run when that fails.
            "setup": [*wanted.setup, *(["set +e"] if self.teardown else [])] or None,
            "teardown": list(self.teardown) or None,
            "signal_delay_s": self.signal_s,
            "srun_args": ["--kill-on-bad-exit=1", *wanted.srun_args],
            "array_parallelism": self.parallel,
            # submitit's own mark, of which sites that track keys know nothing.
            "wckey": None,
            "additional_parameters": {"requeue": True, **_options(wanted.sbatch_args)},
        }
        # None says "not on the command line" for these two, which submitit would otherwise fill in.
        return {name: value for name, value in parameters.items() if value is not None or name in ("wckey", "time")}

    def local_parameters(self) -> dict[str, Any]:
        """Parameters of submitit's local executor."""
        if self.nodes > 1:
            text = f"is {self.nodes}, but the local executor has one machine. Set cluster.nodes=1"
            raise RecipeError(f"recipe: 'cluster.nodes' {text} and cluster.tasks_per_node={self.tasks_per_node}.")
        return {
            "tasks_per_node": self.tasks_per_node,
            "gpus_per_node": self.gpus_per_node,
            "timeout_min": self.time_min or _FOREVER_MIN,
        }


def _memory(gb: float) -> str:
    return f"{int(gb)}GB" if gb == int(gb) else f"{round(gb * 1024)}MB"


def _options(arguments: tuple[str, ...]) -> dict[str, Any]:
    """``--name=value`` and ``--name`` as submitit wants them."""
    found: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.removeprefix("--").partition("=")
        if not text.startswith("--") or not name:
            example = "Write --name or --name=value, for example --mail-type=END"
            raise RecipeError(f"recipe: 'cluster.sbatch_args' has {text!r}, which is no option of sbatch. {example}.")
        found[name] = value if equals else True
    return found
