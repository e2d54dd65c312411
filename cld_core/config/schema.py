"""The recipe: frozen dataclasses, one for each section, each field with its unit and its bounds.

Nothing here imports torch: the command line reads recipes and must answer at once.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cld_core.digests import digest

from .cluster import ClusterSpec
from .data import ArraysSpec, DataSpec, ToyDataSpec
from .eval import EvalSpec
from .keys import Problem, absolute, entries, key, section
from .network import MlpSpec, NetworkSpec
from .sampling import OdeSpec, SamplingSpec
from .sde import CldSpec, SdeSpec
from .train import (
    EmaSpec,
    HooksSpec,
    MonitorSpec,
    ObjectiveSpec,
    OptimSpec,
    PeriodicSpec,
    TrainSpec,
)

# A picture of so many pixels takes 800 MB while it is made.
MAX_PICTURE = 2**28


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete experiment: the content of a run folder's `recipe.yaml`."""

    name: str = key("run", "name of the recipe, the first part of a run's default name")
    plugins: tuple[str, ...] = key(
        (),
        "Python files and modules that register further data, diffusions, networks, objectives, "
        "samplers, metrics or "
        "loggers",
    )
    data: DataSpec = section(ToyDataSpec, "what is trained on")
    sde: SdeSpec = section(CldSpec, "the diffusion, which turns data into noise")
    network: NetworkSpec = section(MlpSpec, "the network that learns the score")
    objective: ObjectiveSpec = section(
        ObjectiveSpec, "what the network is trained on: the loss and its weights"
    )
    optim: OptimSpec = section(OptimSpec, "the optimiser and its learning rate")
    train: TrainSpec = section(
        TrainSpec, "the length of training, its precision, and its checkpoints"
    )
    periodic: PeriodicSpec = section(
        PeriodicSpec, "samples, bounds and FIDs that are computed during training"
    )
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
        """As `to_dict`, without what is about machines and people rather than the model: `cluster`,
        `monitor`, `hooks`.

        Their set-up lines, addresses and commands may hold accounts and secrets.
        """
        private = ("cluster", "monitor", "hooks")
        return {name: section for name, section in self.to_dict().items() if name not in private}

    def model_digest(self) -> str:
        """Digest of what a checkpoint's tensors depend on; it does not change in the course of a
        run."""
        names, network = ("name", "mixed_score", "precondition", "data_std"), asdict(self.network)
        if network.get("patch") == 1:
            # So that checkpoints of earlier versions, which knew no patches, are those of their
            # recipes.
            del network["patch"]
        parts = {
            "data": self.data.name,
            "labels": self.data.labels,
            "sde": asdict(self.sde),
            "network": network,
            "objective": {name: getattr(self.objective, name) for name in names},
            "optim": self.optim.name,
            **({"scaling": self.data.scaling} if isinstance(self.data, ArraysSpec) else {}),
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


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Pairs of dotted keys that do not go together: in a section, as its spec says in `problems`,
    and across them."""
    for name in entries(Recipe):
        of_section = getattr(getattr(recipe, name), "problems", tuple)
        for one, other, text in of_section():
            yield f"{name}.{one}", f"{name}.{other}", text
    yield from _diffusion(recipe)
    yield from _data(recipe)
    yield from _labels(recipe) if recipe.data.labels else _no_labels(recipe)
    train = recipe.train
    world = recipe.cluster.world_size
    lengths = recipe.train.ema_lengths
    if train.batch_size < world:
        text = (
            f"is {train.batch_size}, less than one example for each of {world} ranks. Raise it "
            f"or use fewer ranks."
        )
        yield "train.batch_size", "cluster.tasks_per_node", text
    if recipe.ema.length is not None and not lengths:
        fix = (
            "Train with train.ema_lengths=[0.05,0.1], or `cldctl resume RUN "
            "train.ema_lengths=[0.05,0.1]`"
        )
        text = (
            f"is {recipe.ema.length:g}, but train.ema_lengths keeps no averages to make it of. "
            f"{fix}."
        )
        yield "ema.length", "train.ema_lengths", text


def _diffusion(recipe: Recipe) -> Iterator[Problem]:
    sde = recipe.sde
    objective = recipe.objective
    sampling = recipe.sampling
    if type(objective) is ObjectiveSpec and objective.name not in sde.objectives:
        text = (
            f"cannot be {objective.name} with sde.name={sde.name}. Set "
            f"objective.name={sde.objectives[0]}."
        )
        yield "objective.name", "sde.name", text
    if sampling.needs_split and not sde.splittable:
        text = f"cannot be {sampling.method} with sde.name={sde.name}, which cannot be split."
        yield "sampling.method", "sde.name", f"{text} Set sampling.method=exponential."


def _data(recipe: Recipe) -> Iterator[Problem]:
    # Specs of plug-ins need not say.
    if (shape := getattr(recipe.data, "shape", None)) is not None:
        yield from problems_of_shape(recipe, shape)
    if isinstance(recipe.data, ToyDataSpec) and recipe.periodic.fid_every is not None:
        text = f"compares images, but data.name={recipe.data.name} are vectors. Set it to null."
        yield "periodic.fid_every", "data.name", text


def problems_of_shape(recipe: Recipe, shape: tuple[int, ...]) -> Iterator[Problem]:
    """What does not go with examples of a shape (C, ...), which only the data may know: as
    `problems`."""
    for name, text in recipe.network.misfits(shape):
        yield f"network.{name}", "data.name", text
    samples, pixels = recipe.periodic.samples, math.prod(shape[1:])
    if len(shape) == 3 and samples * pixels > MAX_PICTURE:
        sides = f"{shape[1]} x {shape[2]}"
        text = (
            f"is {samples}: with {sides} pixels, a picture shows at most "
            f"{MAX_PICTURE // pixels}. Lower it."
        )
        yield "periodic.samples", "data.name", text


def _no_labels(recipe: Recipe) -> Iterator[Problem]:
    guidance, dropout = recipe.sampling.guidance, recipe.objective.label_dropout
    if guidance != 1:
        text = f"is {guidance:g}, but the model has no labels: data.labels is false. Leave it at 1."
        yield "sampling.guidance", "data.labels", text
    if dropout != ObjectiveSpec.label_dropout:
        text = (
            f"is {dropout:g}, which has no effect with data.labels=false. Set "
            f"data.labels=true, "
            f"or leave it"
        )
        yield "objective.label_dropout", "data.labels", f"{text} at {ObjectiveSpec.label_dropout}."


def _labels(recipe: Recipe) -> Iterator[Problem]:
    guidance = recipe.sampling.guidance
    if not recipe.network.takes_labels:
        text = (
            f"cannot be true with network.name={recipe.network.name}, which takes no labels. "
            f"Set it to false."
        )
        yield "data.labels", "network.name", text
    if guidance != 1 and recipe.objective.label_dropout == 0:
        text = (
            f"is {guidance:g}, but objective.label_dropout is 0, so nothing was trained "
            f"without "
            f"labels"
        )
        yield "sampling.guidance", "objective.label_dropout", f"{text}. Leave it at 1."
