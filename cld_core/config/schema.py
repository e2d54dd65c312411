"""The recipe: frozen dataclasses, one for each section, each field with its unit and its bounds.

Nothing here imports torch: the command line reads recipes and must answer at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cld_core.digests import digest

from .cluster import ClusterSpec
from .data import DataSpec, ToyDataSpec
from .eval import EvalSpec
from .keys import absolute, entries, key, section
from .monitor import HooksSpec, MonitorSpec
from .network import MlpSpec, NetworkSpec
from .sampling import OdeSpec, SamplingSpec
from .sde import CldSpec, SdeSpec
from .train import EmaSpec, ObjectiveSpec, OptimSpec, PeriodicSpec, TrainSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete experiment: the content of a run folder's `recipe.yaml`."""

    name: str = key("run", "name of the recipe, the first part of a run's default name")
    plugins: tuple[str, ...] = key(
        (),
        "Python files and modules that register further data, diffusions, networks, objectives, samplers, metrics or "
        "loggers",
    )
    data: DataSpec = section(ToyDataSpec, "what is trained on")
    sde: SdeSpec = section(CldSpec, "the diffusion, which turns data into noise")
    network: NetworkSpec = section(MlpSpec, "the network that learns the score")
    objective: ObjectiveSpec = section(ObjectiveSpec, "what the network is trained on: the loss and its weights")
    optim: OptimSpec = section(OptimSpec, "the optimiser and its learning rate")
    train: TrainSpec = section(TrainSpec, "the length of training, its precision, and its checkpoints")
    periodic: PeriodicSpec = section(PeriodicSpec, "samples, bounds and FIDs that are computed during training")
    ema: EmaSpec = section(EmaSpec, "which average of the weights is used")
    sampling: SamplingSpec = section(OdeSpec, "how samples are drawn")
    eval: EvalSpec = section(EvalSpec, "the settings of each metric")
    cluster: ClusterSpec = section(ClusterSpec, "what a job asks its cluster for")
    monitor: MonitorSpec = section(MonitorSpec, "where training is shown besides TensorBoard")
    hooks: HooksSpec = section(HooksSpec, "your own commands that hear about a run")

    def anchored(self, folder: Path) -> "Recipe":
        """The recipe with all paths absolute, as those of plug-ins are when it is read.

        Args:
            folder: what relative ones are taken from.
        """
        return cast(Recipe, _anchored(self, folder))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, in the order of the fields."""
        return asdict(self)

    def to_share(self) -> dict[str, Any]:
        """As `to_dict`, without what is about machines and people rather than the model: `cluster`, `monitor`, `hooks`.

        Their set-up lines, addresses and commands may hold accounts and secrets.
        """
        private = ("cluster", "monitor", "hooks")
        return {name: section for name, section in self.to_dict().items() if name not in private}

    def model_digest(self) -> str:
        """Digest of what a checkpoint's tensors depend on; it does not change in the course of a run."""
        names = ("name", "mixed_score", "precondition", "data_std")
        parts = {
            "data": self.data.name,
            "labels": self.data.labels,
            "sde": asdict(self.sde),
            "network": asdict(self.network),
            "objective": {name: getattr(self.objective, name) for name in names},
            "optim": self.optim.name,
        }
        return digest(parts)[:16]


def walk(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of nested dictionaries, sections included, with its value."""
    for name, value in node.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path, value
        if isinstance(value, Mapping):
            yield from walk(value, path)


def leaves(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested dictionaries by dotted key, without the sections."""
    return {path: value for path, value in walk(node) if not isinstance(value, Mapping)}


def _anchored(spec: Any, folder: Path) -> Any:
    changes = {}
    for name, entry in entries(spec.__class__).items():
        value = getattr(spec, name)
        if dataclasses.is_dataclass(value):
            changes[name] = _anchored(value, folder)
        elif entry.is_path and value is not None:
            changes[name] = absolute(name, value, folder)
    return dataclasses.replace(spec, **changes)
