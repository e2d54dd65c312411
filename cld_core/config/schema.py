"""The recipe: a frozen dataclass of sections, and the checks across them. Loads no torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from cld_core.digests import digest

from .cluster import ClusterSpec
from .data import ArraysSpec, DataSpec, ToyDataSpec
from .eval import EvalSpec
from .keys import Problem, Shape, Values, absolute, entries, key, section, spec_class
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


@spec_class
class Recipe:
    """One complete experiment: the content of a run folder's `recipe.yaml`."""

    name: str = key("run", "name of the recipe, the first part of a run's default name")
    plugins: tuple[str, ...] = key(
        (),
        "Python files and modules that register further data, diffusions, networks, objectives, "
        "samplers, metrics or loggers",
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
        """The recipe with all paths absolute. Paths of plug-ins are already absolute.

        Args:
            folder: the folder that relative paths are taken from.
        """
        return cast(Recipe, _anchored(self, folder))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, in the order of the fields."""
        return asdict(self)

    def to_share(self) -> dict[str, Any]:
        """Nested plain dictionaries of the sections that concern the model.

        `cluster`, `monitor` and `hooks` have set-up lines, addresses and commands, which may hold
        accounts and secrets.
        """
        private = ("cluster", "monitor", "hooks")
        return {name: section for name, section in self.to_dict().items() if name not in private}

    def model_digest(self) -> str:
        """Digest of everything that a checkpoint's tensors depend on; constant throughout a run."""
        network = asdict(self.network)
        if network.get("patch") == 1:
            # Checkpoints of versions without patches keep their digest.
            del network["patch"]
        names = ("name", "mixed_score", "precondition", "data_std")
        objective = {name: getattr(self.objective, name) for name in names}
        parts = {
            "data": self.data.name,
            "labels": self.data.labels,
            "sde": asdict(self.sde),
            "network": network,
            "objective": objective,
            "optim": self.optim.name,
        }
        if isinstance(self.data, ArraysSpec):
            parts["scaling"] = self.data.scaling
        return digest(parts)[:16]


def walk(node: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of nested dictionaries, sections included, with its value."""
    for name, value in node.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path, value
        if isinstance(value, Mapping):
            yield from walk(value, path)


def leaves(node: Values) -> dict[str, Any]:
    """The values of nested dictionaries by dotted key, without the sections."""
    return {path: value for path, value in walk(node) if not isinstance(value, Mapping)}


def _anchored(spec: Any, folder: Path) -> Any:
    changes = {}
    for name, entry in entries(spec.__class__).items():
        value = getattr(spec, name)
        if is_dataclass(value):
            changes[name] = _anchored(value, folder)
        elif entry.is_path and value is not None:
            changes[name] = absolute(name, value, folder)
    return replace(spec, **changes)


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Pairs of dotted keys that do not go together, within a section or across sections."""
    for name in entries(Recipe):
        # Specs without pairs need no such method.
        problems_of_section = getattr(getattr(recipe, name), "problems", tuple)
        for key_name, other, problem in problems_of_section():
            yield f"{name}.{key_name}", f"{name}.{other}", problem
    yield from _diffusion(recipe)
    yield from _data(recipe)
    yield from _labels(recipe) if recipe.data.labels else _no_labels(recipe)
    batch_size = recipe.train.batch_size
    ranks = recipe.cluster.world_size
    if batch_size < ranks:
        yield (
            "train.batch_size",
            "cluster.tasks_per_node",
            f"is {batch_size}, less than one example for each of {ranks} ranks. "
            "Raise it or use fewer ranks.",
        )
    if recipe.ema.length is not None and not recipe.train.ema_lengths:
        yield (
            "ema.length",
            "train.ema_lengths",
            f"is {recipe.ema.length:g}, but train.ema_lengths keeps no averages to make it of. "
            "Train with train.ema_lengths=[0.05,0.1], or "
            "`cldctl resume RUN train.ema_lengths=[0.05,0.1]`.",
        )


def _diffusion(recipe: Recipe) -> Iterator[Problem]:
    sde = recipe.sde
    objective = recipe.objective
    sampling = recipe.sampling
    if type(objective) is ObjectiveSpec and objective.name not in sde.objectives:
        yield (
            "objective.name",
            "sde.name",
            f"cannot be {objective.name} with sde.name={sde.name}. "
            f"Set objective.name={sde.objectives[0]}.",
        )
    if objective.precondition == "flow" and ObjectiveSpec.name in sde.objectives:
        yield (
            "objective.precondition",
            "sde.name",
            f"cannot be flow with sde.name={sde.name}: flow matching is a path of the data alone. "
            "Set sde.name=vpsde and objective.name=dsm.",
        )
    if sampling.needs_split and not sde.splittable:
        yield (
            "sampling.method",
            "sde.name",
            f"cannot be {sampling.method} with sde.name={sde.name}, which cannot be split. "
            "Set sampling.method=exponential.",
        )


def _data(recipe: Recipe) -> Iterator[Problem]:
    # The spec of a plug-in may have no shape.
    if (shape := getattr(recipe.data, "shape", None)) is not None:
        yield from problems_of_shape(recipe, shape)
    if isinstance(recipe.data, ToyDataSpec) and recipe.periodic.fid_every is not None:
        yield (
            "periodic.fid_every",
            "data.name",
            f"compares images, but data.name={recipe.data.name} are vectors. Set it to null.",
        )


def problems_of_shape(recipe: Recipe, shape: Shape) -> Iterator[Problem]:
    """Keys that do not fit examples of a shape (C, ...), which may be known from the data alone.

    The form is that of `problems`.
    """
    for name, problem in recipe.network.misfits(shape):
        yield f"network.{name}", "data.name", problem
    samples = recipe.periodic.samples
    pixels = math.prod(shape[1:])
    if len(shape) == 3 and samples * pixels > MAX_PICTURE:
        yield (
            "periodic.samples",
            "data.name",
            f"is {samples}: with {shape[1]} x {shape[2]} pixels, a picture shows at most "
            f"{MAX_PICTURE // pixels}. Lower it.",
        )


def _no_labels(recipe: Recipe) -> Iterator[Problem]:
    guidance = recipe.sampling.guidance
    dropout = recipe.objective.label_dropout
    if guidance != 1:
        yield (
            "sampling.guidance",
            "data.labels",
            f"is {guidance:g}, but the model has no labels: data.labels is false. Leave it at 1.",
        )
    if dropout != ObjectiveSpec.label_dropout:
        yield (
            "objective.label_dropout",
            "data.labels",
            f"is {dropout:g}, which has no effect with data.labels=false. "
            f"Set data.labels=true, or leave it at {ObjectiveSpec.label_dropout}.",
        )


def _labels(recipe: Recipe) -> Iterator[Problem]:
    guidance = recipe.sampling.guidance
    if not getattr(recipe.data, "has_labels", True):
        yield (
            "data.labels",
            "data.name",
            f"cannot be true with data.name={recipe.data.name}, which has none. Set it to false.",
        )
    if not recipe.network.takes_labels:
        yield (
            "data.labels",
            "network.name",
            f"cannot be true with network.name={recipe.network.name}, which takes no labels. "
            "Set it to false.",
        )
    if guidance != 1 and recipe.objective.label_dropout == 0:
        yield (
            "sampling.guidance",
            "objective.label_dropout",
            f"is {guidance:g}, but objective.label_dropout is 0, so nothing was trained "
            "without labels. Leave it at 1.",
        )
