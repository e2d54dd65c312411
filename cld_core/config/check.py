"""What must go together in a recipe: within a section, as its spec says in `problems`, and across sections."""

from collections.abc import Iterator

from .data import ImageDataSpec
from .keys import Problem, entries
from .network import NcsnppSpec
from .schema import Recipe
from .train import ObjectiveSpec

# A picture of so many pixels takes 800 MB while it is made.
MAX_PICTURE = 2**28


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Pairs of dotted keys that do not go together."""
    for section in entries(Recipe):
        of_section = getattr(getattr(recipe, section), "problems", tuple)
        for name, other, text in of_section():
            yield f"{section}.{name}", f"{section}.{other}", text
    yield from _diffusion(recipe)
    yield from _data(recipe)
    yield from _labels(recipe) if recipe.data.labels else _no_labels(recipe)
    train, world, lengths = recipe.train, recipe.cluster.world_size, recipe.train.ema_lengths
    if train.batch_size < world:
        text = f"is {train.batch_size}, less than one example for each of {world} ranks. Raise it or use fewer ranks."
        yield "train.batch_size", "cluster.tasks_per_node", text
    if recipe.ema.length is not None and not lengths:
        fix = "Train with train.ema_lengths=[0.05,0.1], or `cldctl resume RUN train.ema_lengths=[0.05,0.1]`"
        text = f"is {recipe.ema.length:g}, but train.ema_lengths keeps no averages to make it of. {fix}."
        yield "ema.length", "train.ema_lengths", text


def _diffusion(recipe: Recipe) -> Iterator[Problem]:
    sde, objective, sampling = recipe.sde, recipe.objective, recipe.sampling
    if type(objective) is ObjectiveSpec and objective.name not in sde.objectives:
        text = f"cannot be {objective.name} with sde.name={sde.name}. Set objective.name={sde.objectives[0]}."
        yield "objective.name", "sde.name", text
    if sampling.needs_split and not sde.splittable:
        text = f"cannot be {sampling.method} with sde.name={sde.name}, which cannot be split."
        yield "sampling.method", "sde.name", f"{text} Set sampling.method=exponential."


def _data(recipe: Recipe) -> Iterator[Problem]:
    data, network, samples = recipe.data, recipe.network, recipe.periodic.samples
    are_images = isinstance(data, ImageDataSpec)
    if network.images != are_images:
        kind, fix = ("images", "ncsnpp") if are_images else ("vectors", "mlp")
        text = f"cannot be {network.name} with data.name={data.name}, which are {kind}. Set network.name={fix}."
        yield "network.name", "data.name", text
    if not isinstance(data, ImageDataSpec):
        if recipe.periodic.fid_every is not None:
            text = f"compares images, but data.name={data.name} are vectors. Set it to null."
            yield "periodic.fid_every", "data.name", text
        return
    if isinstance(network, NcsnppSpec):
        if data.pixels != network.image_size:
            text = f"is {network.image_size}, but the images have {data.pixels} pixels. Set it to {data.pixels}."
            yield "network.image_size", "data.size", text
        if network.image_channels != 3:
            text = f"is {network.image_channels}, but images are prepared as RGB. Set it to 3."
            yield "network.image_channels", "data.name", text
    if samples * data.pixels**2 > MAX_PICTURE:
        most = MAX_PICTURE // data.pixels**2
        text = f"is {samples}: with images of {data.pixels} pixels, a picture shows at most {most}. Lower it."
        yield "periodic.samples", "data.size", text


def _no_labels(recipe: Recipe) -> Iterator[Problem]:
    guidance, dropout = recipe.sampling.guidance, recipe.objective.label_dropout
    if guidance != 1:
        text = f"is {guidance:g}, but the model has no labels: data.labels is false. Leave it at 1."
        yield "sampling.guidance", "data.labels", text
    if dropout != ObjectiveSpec.label_dropout:
        text = f"is {dropout:g}, which has no effect with data.labels=false. Set data.labels=true, or leave it"
        yield "objective.label_dropout", "data.labels", f"{text} at {ObjectiveSpec.label_dropout}."


def _labels(recipe: Recipe) -> Iterator[Problem]:
    guidance = recipe.sampling.guidance
    if not recipe.network.takes_labels:
        text = f"cannot be true with network.name={recipe.network.name}, which takes no labels. Set it to false."
        yield "data.labels", "network.name", text
    if guidance != 1 and recipe.objective.label_dropout == 0:
        text = f"is {guidance:g}, but objective.label_dropout is 0, so nothing was trained without labels"
        yield "sampling.guidance", "objective.label_dropout", f"{text}. Leave it at 1."
