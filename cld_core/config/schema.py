"""The recipe: frozen dataclasses, one for each section, each field with its unit and its bounds.

Nothing here imports torch: the command line reads recipes and must answer at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cld_core.digests import digest

from .cluster import ClusterSpec
from .data import DataSpec, ToyDataSpec
from .eval import EvalSpec
from .keys import anchor, key
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
        path="code",
    )
    data: DataSpec = field(default_factory=ToyDataSpec, metadata={"doc": "what is trained on"})
    sde: SdeSpec = field(default_factory=CldSpec, metadata={"doc": "the diffusion, which turns data into noise"})
    network: NetworkSpec = field(default_factory=MlpSpec, metadata={"doc": "the network that learns the score"})
    objective: ObjectiveSpec = field(
        default_factory=ObjectiveSpec, metadata={"doc": "what the network is trained on: the loss and its weights"}
    )
    optim: OptimSpec = field(default_factory=OptimSpec, metadata={"doc": "the optimiser and its learning rate"})
    train: TrainSpec = field(
        default_factory=TrainSpec, metadata={"doc": "the length of training, its precision, and its checkpoints"}
    )
    periodic: PeriodicSpec = field(
        default_factory=PeriodicSpec, metadata={"doc": "samples, bounds and FIDs that are computed during training"}
    )
    ema: EmaSpec = field(default_factory=EmaSpec, metadata={"doc": "which average of the weights is used"})
    sampling: SamplingSpec = field(default_factory=OdeSpec, metadata={"doc": "how samples are drawn"})
    eval: EvalSpec = field(default_factory=EvalSpec, metadata={"doc": "the settings of each metric"})
    cluster: ClusterSpec = field(default_factory=ClusterSpec, metadata={"doc": "what a job asks its cluster for"})
    monitor: MonitorSpec = field(
        default_factory=MonitorSpec, metadata={"doc": "where training is shown besides TensorBoard"}
    )
    hooks: HooksSpec = field(default_factory=HooksSpec, metadata={"doc": "your own commands that hear about a run"})

    def anchored(self, folder: Path) -> "Recipe":
        """The recipe with all paths absolute; relative ones are taken from ``folder``.

        A plug-in may be the name of a module, which stays as it is.
        """
        anchored: Recipe = _anchored(self, folder)
        return anchored

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
    for entry in dataclasses.fields(spec):
        value = getattr(spec, entry.name)
        absolute = _anchored(value, folder) if dataclasses.is_dataclass(value) else anchor(entry, value, folder)
        if absolute != value:
            changes[entry.name] = absolute
    return dataclasses.replace(spec, **changes) if changes else spec
