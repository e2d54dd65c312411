"""What must go together across the sections of a recipe."""

from collections.abc import Iterator

from cld_core.errors import did_you_mean
from cld_core.sanitize import is_count

from . import cluster
from .data import TOYS_WITHOUT_LABELS, ImageDataSpec, ToyDataSpec
from .network import MlpSpec, NcsnppSpec, ResnetSpec
from .registry import names
from .schema import Recipe
from .train import ObjectiveSpec

# The key, the other key, and what is wrong with the first and how to fix it.
Problem = tuple[str, str, str]

# A picture of so many pixels takes 800 MB while it is made.
MAX_PICTURE = 2**28
# Weights of a network for toy data: with gradients and moments, so many take 160 GB.
MAX_WEIGHTS = 10**10


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Pairs of keys that do not go together."""
    yield from _diffusion(recipe)
    yield from _objective(recipe.objective)
    for name, other, text in recipe.sampling.problems():
        yield f"sampling.{name}", f"sampling.{other}", text
    if isinstance(recipe.data, ImageDataSpec):
        if recipe.data.labels and not recipe.data.has_labels:
            yield "data.labels", "data.name", _without_labels(recipe.data.name)
        yield from _image_size(recipe.data)
    elif isinstance(recipe.data, ToyDataSpec):
        yield from _toy(recipe.data)
    yield from _network(recipe)
    yield from _labels(recipe)
    yield from _batches(recipe)
    for name, text in cluster.problems(recipe.cluster):
        yield f"cluster.{name}", f"cluster.{name}", text
    for name, text in recipe.monitor.problems():
        yield f"monitor.{name}", f"monitor.{name}", text
    if recipe.hooks.on_change is not None and is_count(recipe.hooks.on_change.strip().lstrip("-")):
        text = f"cannot be {recipe.hooks.on_change}, a number; expected a shell command. Write one, or leave it out."
        yield "hooks.on_change", "hooks.on_change", text
    yield from _averages(recipe)
    yield from _without_effect(recipe)
    if isinstance(recipe.data, ImageDataSpec):
        yield from _pictures(recipe.periodic.samples, recipe.data)


def _diffusion(recipe: Recipe) -> Iterator[Problem]:
    sde, objective, sampling = recipe.sde, recipe.objective, recipe.sampling
    if sde.beta0 == sde.beta1 == 0:
        yield "sde.beta0", "sde.beta1", "is 0 and so is sde.beta1: nothing would be diffused. Raise one."
    for name, other, text in sde.problems():
        yield f"sde.{name}", f"sde.{other}", text
    if type(objective) is ObjectiveSpec and objective.name not in sde.objectives:
        text = f"cannot be {objective.name} with sde.name={sde.name}. Set objective.name={sde.objectives[0]}."
        yield "objective.name", "sde.name", text
    if sampling.needs_split and not sde.splittable:
        text = f"cannot be {sampling.method} with sde.name={sde.name}, which cannot be split."
        text += " Set sampling.method=exponential."
        yield "sampling.method", "sde.name", text


def _objective(objective: ObjectiveSpec) -> Iterator[Problem]:
    if objective.precondition != "none" and objective.mixed_score:
        text = f"cannot be {objective.precondition} with objective.mixed_score: both add a known score to the network's"
        yield "objective.precondition", "objective.mixed_score", f"{text}. Set objective.mixed_score=false."
    if objective.precondition == "none" and objective.data_std != ObjectiveSpec.data_std:
        text = f"is {objective.data_std:g}, which has no effect with objective.precondition=none"
        yield "objective.data_std", "objective.precondition", f"{text}. Set objective.precondition=data."
    if objective.times == "importance" and objective.weighting != "likelihood":
        text = f"cannot be importance with objective.weighting={objective.weighting}, which weights all t about alike"
        yield (
            "objective.times",
            "objective.weighting",
            f"{text}. Set objective.weighting=likelihood, or objective.times=uniform.",
        )


def _averages(recipe: Recipe) -> Iterator[Problem]:
    lengths = recipe.train.ema_lengths
    if len(set(lengths)) < len(lengths):
        yield "train.ema_lengths", "train.ema_lengths", "has a length twice. Remove one."
    if recipe.ema.length is not None and not lengths:
        fix = "Train with train.ema_lengths=[0.05,0.1], or `cldctl resume RUN train.ema_lengths=[0.05,0.1]`"
        text = f"is {recipe.ema.length:g}, but train.ema_lengths keeps no averages to make it of. {fix}."
        yield "ema.length", "train.ema_lengths", text


def _without_effect(recipe: Recipe) -> Iterator[Problem]:
    """Keys that nothing reads, with values that they do not have unless somebody sets them."""
    dropout, every = recipe.objective.label_dropout, recipe.train.ema_every
    if dropout != ObjectiveSpec.label_dropout and not recipe.data.labels:
        text = f"is {dropout:g}, which has no effect with data.labels=false. Set data.labels=true, or leave it"
        yield "objective.label_dropout", "data.labels", f"{text} at {ObjectiveSpec.label_dropout}."
    if every is not None and not recipe.train.ema_lengths:
        text = f"is {every}, which has no effect without train.ema_lengths. Set train.ema_lengths=[0.05,0.1], or"
        yield "train.ema_every", "train.ema_lengths", f"{text} leave it at null."


def _toy(data: ToyDataSpec) -> Iterator[Problem]:
    known = names("data")
    if data.name not in known:
        text = f"cannot be {data.name!r}; expected one of {', '.join(known)}"
        text += ", or set plugins to the file that registers it."
        yield "data.name", "plugins", text + did_you_mean(data.name, known)
    if data.labels and data.name in TOYS_WITHOUT_LABELS:
        yield "data.labels", "data.name", _without_labels(data.name)


def _without_labels(name: str) -> str:
    return f"cannot be true with data.name={name}, which has none. Set it to false."


def _image_size(data: ImageDataSpec) -> Iterator[Problem]:
    own = data.own_pixels
    if own is None and data.size is None:
        text = "must be set to how many pixels the images in the folder have. Set data.size=64, for example."
        yield "data.size", "data.name", text
    elif own is not None and data.size not in (None, own):
        text = f"is {data.size}, but {data.name} has {own} pixels. Set it to null, or prepare a folder."
        yield "data.size", "data.name", text


def _pictures(samples: int, data: ImageDataSpec) -> Iterator[Problem]:
    pixels = data.own_pixels or data.size or 1
    if samples * pixels**2 > MAX_PICTURE:
        text = f"is {samples}: with images of {pixels} pixels, a picture shows at most {MAX_PICTURE // pixels**2}."
        yield "periodic.samples", "data.size", f"{text} Lower it."


def _network(recipe: Recipe) -> Iterator[Problem]:
    data, network = recipe.data, recipe.network
    if isinstance(network, MlpSpec | ResnetSpec) and network.width**2 * network.layers > MAX_WEIGHTS:
        text = f"is {network.width} in {network.layers} layers: more than {MAX_WEIGHTS:g} weights. Lower one of them."
        yield "network.width", "network.layers", text
    if not isinstance(data, ImageDataSpec):
        if network.images:
            text = f"cannot be {network.name} with data.name={data.name}, which are vectors. Set network.name=mlp."
            yield "network.name", "data.name", text
        if recipe.periodic.fid_every is not None:
            text = f"compares images, but data.name={data.name} are vectors. Set it to null."
            yield "periodic.fid_every", "data.name", text
        return
    if not network.images:
        text = f"cannot be {network.name} with data.name={data.name}, which are images. Set network.name=ncsnpp."
        yield "network.name", "data.name", text
    if isinstance(network, NcsnppSpec):
        if (data.own_pixels or data.size) not in (None, network.image_size):
            text = f"is {network.image_size}, but the images have {data.pixels} pixels. Set it to {data.pixels}."
            yield "network.image_size", "data.size", text
        if network.image_channels != 3:
            text = f"is {network.image_channels}, but images are prepared as RGB. Set it to 3."
            yield "network.image_channels", "data.name", text


def _labels(recipe: Recipe) -> Iterator[Problem]:
    guidance, dropout = recipe.sampling.guidance, recipe.objective.label_dropout
    if not recipe.data.labels:
        if guidance != 1:
            text = f"is {guidance:g}, but the model has no labels: data.labels is false. Leave it at 1."
            yield "sampling.guidance", "data.labels", text
        return
    if not recipe.network.takes_labels:
        text = f"cannot be true with network.name={recipe.network.name}, which takes no labels. Set it to false."
        yield "data.labels", "network.name", text
    if guidance != 1 and dropout == 0:
        text = f"is {guidance:g}, but objective.label_dropout is 0, so nothing was trained without labels"
        yield "sampling.guidance", "objective.label_dropout", f"{text}. Leave it at 1."


def _batches(recipe: Recipe) -> Iterator[Problem]:
    train, world = recipe.train, recipe.cluster.world_size
    if train.batch_size < world:
        text = f"is {train.batch_size}, less than one example for each of {world} ranks. Raise it or use fewer ranks."
        yield "train.batch_size", "cluster.tasks_per_node", text
    if train.micro_batch is not None and train.micro_batch > train.batch_size:
        text = f"is {train.micro_batch}, more than train.batch_size={train.batch_size}. Lower it or set it to null."
        yield "train.micro_batch", "train.batch_size", text
