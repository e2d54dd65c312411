"""What a job needs, said once for every kind of cluster. Pure: nothing is started here."""

from dataclasses import dataclass
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

    @classmethod
    def of(cls, name: str, logs: Path, cluster: ClusterSpec) -> "JobSpec":
        return cls(
            name=name,
            logs=logs,
            nodes=cluster.nodes,
            tasks_per_node=cluster.ranks_per_node,
            gpus_per_node=cluster.gpus_per_node,
            time_min=cluster.time_min,
        )

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
