"""Drawing samples of a run, perhaps given an observation; written as a picture or arrays."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cld_core.config import Recipe
from cld_core.config.loader import COMMAND_LINE
from cld_core.config.registry import require_fixed_steps
from cld_core.errors import UsageError
from cld_core.plugins import import_plugins
from cld_core.run import RunFolder
from cld_core.run.recipe import trusted_recipe
from cldctl.evals.plan import changed_recipe

from . import snapshot
from .options import Say, named_as_typed, refuse_twice

if TYPE_CHECKING:
    from torch import Tensor

    from cld_core.conditioning import Observation, Way
    from cld_core.model import Model
    from cld_core.samplers import Samples

# How samples are made to agree with an observation.
HOW = ("gradient", "replacement")
_COORDINATES = {"x": 0, "y": 1}


class Progress(Protocol):
    """Shows what is done, and how much of it."""

    def phase(self, what: str) -> None: ...

    def at(self, done: int, total: int | None, unit: str = "") -> None: ...


@dataclass(frozen=True)
class Observed:
    """The options, checked as far as possible without a model.

    Attributes:
        observe: "x=0.3", "y=0.3" or the name of a file of arrays.
    """

    observe: str | None = None
    inpaint: Path | None = None
    mask: Path | None = None
    sigma: float | None = None
    how: str | None = None
    gradient_scale: float | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: the options do not go together, a value is wrong, or there is no such file.
        """
        if self.observe is not None and self.inpaint is not None:
            raise UsageError("--observe and --inpaint both say what is known. Pass one of them.")
        if (self.inpaint is None) != (self.mask is None):
            raise UsageError("--inpaint needs --mask, and --mask needs --inpaint. Pass both.")
        if not self.given:
            for name in ("sigma", "how", "gradient_scale"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise UsageError(
                        f"--{option} is about an observation. Pass --observe or --inpaint, too."
                    )
        if self.how is not None and self.how not in HOW:
            raise UsageError(f"--how {self.how}: expected gradient or replacement.")
        if self.how == "replacement" and self.gradient_scale is not None:
            raise UsageError(
                "--gradient-scale is the factor of a gradient. Leave out --how replacement."
            )
        for path in (self.inpaint, self.mask, self._named):
            if isinstance(path, Path) and not path.is_file():
                hint = ", or a coordinate of toy data as x=0.3" if path == self._named else ""
                raise UsageError(f"{path} is not a file. Pass the path of one{hint}.")

    @property
    def given(self) -> bool:
        """Whether anything is observed."""
        return self.observe is not None or self.inpaint is not None

    @cached_property
    def _named(self) -> Path | tuple[str, float] | None:
        """The file that ``observe`` names, or the coordinate and its value."""
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([^=]+)", self.observe or "")
        if match is None:
            return None if self.observe is None else Path(self.observe)
        try:
            value = float(match[2])
        except ValueError:
            value = math.nan
        if match[1] not in _COORDINATES or not math.isfinite(value):
            raise UsageError(
                f"--observe {self.observe}: expected a number for x or y, as in --observe x=0.3."
            )
        return match[1], value

    def observation(self, model: "Model") -> "Observation":
        """The observation of an example of ``model``.

        Raises:
            UsageError, DataError: the observation does not fit the data.
        """
        from cld_core.conditioning import observation

        shape = model.data_shape
        if self.inpaint is not None and self.mask is not None:
            if not model.is_image:
                raise UsageError(
                    f"--inpaint takes grey levels, and examples of "
                    f"data.name={model.recipe.data.name} are numbers. "
                    f"Pass --observe with a file of arrays in their units."
                )
            return observation.from_pictures(self.inpaint, self.mask, shape, self.sigma)
        if isinstance(self._named, Path):
            return observation.from_arrays(self._named, shape, self.sigma)
        assert self._named is not None, "one of the three is given"
        name, value = self._named
        if shape != (2,):
            raise UsageError(
                f"--observe {name}={value:g} is for points on the plane. Pass --inpaint, or a file."
            )
        return observation.coordinate(_COORDINATES[name], value, self.sigma)

    def way(self) -> "Way":
        """How samples are conditioned."""
        from cld_core.conditioning import GradientGuidance, Replacement

        if self.how == "replacement":
            return Replacement()
        if self.gradient_scale is None:
            return GradientGuidance()
        return GradientGuidance(scale=self.gradient_scale)

    @property
    def description(self) -> str:
        """How samples are conditioned, in words."""
        scale = "" if self.gradient_scale is None else f" of scale {self.gradient_scale:g}"
        return f"given the observation, by {self.how or HOW[0]}{scale}"


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """The requested samples.

    Attributes:
        overrides: changes of the run's recipe, KEY=VALUE.
        given: the values of the options that set keys of `sampling`, by key; None for the value of
            the recipe.
        count: None for as many as a picture shows.
        output: a .png or .npz; None for a picture in the run's folder, named after its settings.
        label: the class of all samples; None for the frequencies of the data.
    """

    run: RunFolder
    overrides: Sequence[str]
    given: Mapping[str, str | float | None]
    checkpoint: str
    count: int | None
    seed: int
    output: Path | None
    label: str | None
    observed: Observed
    allow_plugin: bool

    def recipe(self) -> Recipe:
        """The recipe of the run, changed by options and overrides.

        Raises:
            UsageError: a key is set twice or is not one of sampling or ema, the model has no
                labels, or the sampler cannot be conditioned like that.
            RecipeError: a value does not fit.
        """
        given = {name: value for name, value in self.given.items() if value is not None}
        for name in given:
            refuse_twice(f"--{name}", [f"sampling.{name}"], self.overrides)
        for text in self.overrides:
            if not text.startswith(("sampling.", "ema.", "plugins=")):
                raise UsageError(
                    f"'{text.split('=')[0]}' is not a key of sampling or ema. "
                    f"Only sampling.*, ema.* and plugins can be changed here."
                )
        settings = [f"sampling.{name}={value}" for name, value in given.items()]
        with named_as_typed(self.run, {f"sampling.{name}": f"--{name}" for name in given}):
            recipe = trusted_recipe(self.run, allow_plugin=self.allow_plugin)
            recipe = changed_recipe(recipe, [*settings, *self.overrides], str(self.run.recipe_file))
        if self.observed.how == "replacement":
            require_fixed_steps(recipe.sampling)
        if self.label is not None and not recipe.data.labels:
            raise UsageError(
                f"--label {self.label}: {self.run.name} was trained without labels "
                f"(data.labels=false). Leave it out."
            )
        return recipe


@dataclass(frozen=True)
class Drawn:
    """The file of samples, and messages about them.

    Attributes:
        about: how many they are, and how they were drawn.
        warning: about samples that are not finite; None if all are.
        agreement: how well they agree with the observation; None without one.
    """

    file: Path
    about: str
    warning: str | None
    agreement: str | None


def draw(options: SampleOptions, working: Progress, say: Say) -> Drawn:
    """Draw samples and write them.

    Raises:
        UsageError: so many do not fit, or the label or observation is wrong.
        CheckpointError: the checkpoint cannot be used.
    """
    run = options.run
    recipe = options.recipe()
    observed = options.observed
    label = options.label
    for text in snapshot.changed_plugins(run, recipe.plugins):
        say(text)
    import cld_core
    from cld_core import pictures
    from cld_core.evaluate.rows import remark_on
    from cld_core.evaluate.vectors import ConditionalDensity, agreement

    model = cld_core.load(
        run.path,
        options.checkpoint,
        allow_plugin=options.allow_plugin,
        ema_length=recipe.ema.length,
    )
    model.recipe = replace(model.recipe, sampling=recipe.sampling)
    # In place of the copies of the run, which its model was made with.
    import_plugins(recipe.plugins, COMMAND_LINE)
    count = options.count or pictures.default_count(model)
    is_picture = options.output is None or options.output.suffix == ".png"
    rows = pictures.in_rows(model, count) if label is None and is_picture else None
    labels = model.labels(label if rows is None else rows, count, caller="--label")
    number = None if label is None or model.classes is None else model.classes.index(label)
    observation = None
    density = None
    name = pictures.name_of(model, count, options.seed, label)
    if observed.given:
        observation = observed.observation(model)
        density = ConditionalDensity.of(model, observation, number)
        # It also depends on the observation and the way of conditioning.
        digest = observation.digest(observed.description)
        name = f"{name.removesuffix('.png')}_given-{digest}.png"
    target = options.output or run.samples / name
    _require_room(count, model, target)
    samples = _draw_samples(
        model,
        count,
        options.seed,
        working,
        label=labels,
        observation=observation,
        by=observed.way(),
    )
    working.phase(f"writing {target.name}")
    title = pictures.how(model, samples, label)
    if target.suffix == ".npz":
        _write_arrays(target.absolute(), samples, labels, model.is_image)
    elif observation is None:
        pictures.show(target.absolute(), samples.x, model, title, rows)
    else:
        pictures.show_given(
            target.absolute(),
            samples.x,
            model,
            observation,
            None if density is None else density.line,
            f"{observed.description} ({title})",
            number,
        )
    weights = ", ".join(filter(None, [f"step {model.step}", recipe.ema.words]))
    evaluations = f"{samples.nfe:.0f} network evaluations each ({recipe.sampling.method})"
    return Drawn(
        target,
        f"{count:,} samples of {weights}, {evaluations}",
        remark_on(samples.x),
        None
        if observation is None
        else f"{observed.description}: {agreement(samples.x, observation, density)}",
    )


def _draw_samples(
    model: "Model", count: int, seed: int, working: Progress, **conditions: Any
) -> "Samples":
    spec = model.recipe.sampling
    batch = model.recipe.eval.batch_size
    nfe = getattr(spec, "nfe", None)
    working.phase(f"drawing {count:,} samples ({spec.method})")

    def show(done: int, evaluations: int) -> None:
        size = min(batch, count - done)
        if nfe is None:  # An adaptive sampler: their number is not known before the end.
            of = count if count > batch else None
            working.at(done, of, f"done, {evaluations:,} NFE")
        else:
            working.at(done + size * min(evaluations, nfe) // nfe, count)

    return model.draw(count, seed=seed, batch_size=batch, progress=show, **conditions)


def _require_room(count: int, model: "Model", target: Path) -> None:
    """Refuse more samples than the picture or the memory can hold, before any is drawn.

    Raises:
        UsageError: names how many can be.
    """
    import psutil

    from cld_core import pictures

    pixels = math.prod(model.data_shape[1:])
    if pictures.is_grid(model.form) and target.suffix == ".png":
        pictures.require_size(count, pixels)
    # float32: positions, velocities, and what is written of them.
    most = psutil.virtual_memory().total // (16 * math.prod(model.data_shape))
    if count > most:
        raise UsageError(
            f"-n {count}: so many samples do not fit into the memory. Draw at most {most} at once."
        )


def _write_arrays(
    path: Path, samples: "Samples", labels: "Tensor | None", are_images: bool
) -> None:
    from cld_core.data.images import to_pixels
    from cld_core.files import write_arrays

    arrays = {"x": samples.x.cpu().numpy(), "nfe": samples.nfe_each.cpu().numpy()}
    if samples.v is not None:
        arrays["v"] = samples.v.cpu().numpy()
    if labels is not None:
        arrays["label"] = labels.numpy()
    if are_images:
        arrays["images"] = to_pixels(samples.x).permute(0, 2, 3, 1).cpu().numpy()
    write_arrays(path, arrays)
