"""`cldctl sample`: pictures or arrays of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completing
from .observing import GradientScale, How, Inpaint, Mask, Observe, Observed, Sigma
from .options import (
    AllowPlugin,
    Checkpoint,
    RunsDir,
    check_output,
    find_run,
    named_as_typed,
    one_run,
    refuse_twice,
    runs_dir,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cld_core.conditioning import Observation
    from cld_core.model import Model
    from cld_core.recipe import Recipe
    from cld_core.recipe.ema import EmaSpec
    from cld_core.recipe.sampling import SamplingSpec
    from cld_core.sampling import Samples

# More do not fit into one file that anybody could open; `cldctl eval` draws and keeps as many as there is disk for.
MAX_SAMPLES = 10_000_000


def sample(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of sampling and ema to change.",
            autocompletion=completing.runs_and_overrides,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            metavar="N",
            min=1,
            max=MAX_SAMPLES,
            help="Number of samples; default: 64 images, 2,000 points.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png|.npz", help="Where to write; an existing file is replaced."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="ode|em|sscs|exponential|gddim|conjugate|splitting|tuned",
            help="Sampling method; default: the recipe's. exponential is best below 100 NFE; at 10, use it with "
            "sampling.order=3, sampling.corrector=false and sampling.grid_power=3.",
            autocompletion=completing.methods,
        ),
    ] = None,
    nfe: Annotated[
        int | None, typer.Option(metavar="N", help="Network evaluations (NFE) of a fixed-step method.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|NAME",
            help="Class of all samples; default: each class as often as in the training data.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W", help="Scale of classifier-free guidance: 1 is the conditional score, 0 the unconditional one."
        ),
    ] = None,
    checkpoint: Checkpoint = "last",
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Seed of the noise.")] = 0,
    observe: Observe = None,
    inpaint: Inpaint = None,
    mask: Mask = None,
    sigma: Sigma = None,
    how: How = None,
    gradient_scale: GradientScale = None,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Without -o, the picture is written to samples/ of the run, in a file named after its settings.

    An .npz file has the arrays x (in [-1, 1] for images), v, nfe, for images their pixels as uint8
    (n, height, width, 3), and for class-conditional models the labels.

    With --observe or --inpaint, samples agree with what is known about x.

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png

    Example: cldctl sample --observe x=0.3 --method exponential --nfe 50
    """
    observed = Observed(observe, inpaint, mask, sigma, how, gradient_scale)
    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    if output is None:
        require_may_change(run.path, "No samples were drawn; use -o FILE.png")
    check_output(output, (".png", ".npz"), "samples are")
    recipe = _recipe(run, overrides, {"method": method, "nfe": nfe, "guidance": guidance})
    observed.require_usable(recipe.sampling)
    if label is not None and not recipe.data.labels:
        raise UsageError(f"--label {label}: {run.name} was trained without labels (data.labels=false). Leave it out.")
    _draw(_Wanted(run, recipe.sampling, recipe.ema, checkpoint, n, seed, output, label, observed), allow_plugin)


@dataclass(frozen=True)
class _Wanted:
    """The requested samples; ``n``: None for as many as a picture shows."""

    run: RunFolder
    spec: "SamplingSpec"
    average: "EmaSpec"
    checkpoint: str
    n: int | None
    seed: int
    output: Path | None
    label: str | None
    observed: Observed


def _recipe(run: RunFolder, overrides: list[str], options: Mapping[str, str | float | None]) -> "Recipe":
    """How samples are drawn, and from which weights: the run's recipe, as changed by options and KEY=VALUE.

    Raises:
        UsageError: a key is set twice, or is not one of sampling or ema.
        RecipeError: a value does not fit.
    """
    from cld_core.recipe import with_overrides

    typed = {f"sampling.{name}": f"--{name}" for name, value in options.items() if value is not None}
    for name, value in options.items():
        if value is not None:
            refuse_twice(f"--{name}", [f"sampling.{name}"], overrides)
            overrides = [f"sampling.{name}={value}", *overrides]
    for text in overrides:
        if not text.startswith(("sampling.", "ema.")):
            key = text.split("=")[0]
            raise UsageError(f"'{key}' is not a key of sampling or ema. Only sampling.* and ema.* can be changed here.")
    with named_as_typed(typed, run):
        return with_overrides(run.recipe(), overrides, str(run.recipe_file))


def _draw(wanted: _Wanted, allow_plugin: bool) -> None:
    """Draw samples, write them, and say where they are."""
    with Working(f"loading {wanted.run.name}") as working:
        import cld_core
        from cld_core.evaluation import conditional, nonfinite, pictures

        length = wanted.average.length
        model = cld_core.load(wanted.run.path, wanted.checkpoint, allow_plugin=allow_plugin, ema_length=length)
        model.recipe = replace(model.recipe, sampling=wanted.spec)
        count = wanted.n or pictures.default_count(model)
        given = wanted.observed.observation(model) if wanted.observed.given else None
        rows = pictures.in_rows(model, count) if wanted.label is None and _is_picture(wanted.output) else None
        labels = model.labels(wanted.label if rows is None else rows, count, caller="--label")
        target = wanted.output or wanted.run.samples / _name(wanted, model, count, given)
        _require_room(count, model, target)
        by = wanted.observed.way() if given is not None else None
        drawn = _drawn(model, count, wanted.seed, working, label=labels, observation=given, by=by)
        label = None if wanted.label is None or model.classes is None else model.classes.index(wanted.label)
        density = None if given is None else conditional.of_model(model, given, label)
        working.phase(f"writing {target.name}")
        if target.suffix == ".npz":
            _write_arrays(target.absolute(), drawn, labels, model.is_image)
        elif given is None:
            pictures.show(target.absolute(), drawn.x, model, pictures.how(model, drawn, wanted.label))
        else:
            how = f"{wanted.observed.told} ({pictures.how(model, drawn, wanted.label)})"
            conditional.show(target.absolute(), drawn.x, model, given, density, how, label)
        found = None if given is None else conditional.agreement(drawn.x, given, density)
    if (remark := nonfinite.remark_on(drawn.x)) is not None:
        err.print(remark, style="yellow")
    how = f"{drawn.nfe:.0f} network evaluations each ({wanted.spec.method})"
    weights = ", ".join(filter(None, [f"step {model.step}", wanted.average.words]))
    err.print(f"{count:,} samples of {weights}, {how}")
    if found is not None:
        err.print(f"{wanted.observed.told}: {found}", markup=False)
    out.print(str(target), markup=False, no_wrap=True)


def _name(wanted: _Wanted, model: "Model", count: int, given: "Observation | None") -> str:
    """The name of a picture without -o; it also depends on the observation and the way of conditioning."""
    from cld_core.evaluation import pictures

    name = pictures.name_of(model, count, wanted.seed, wanted.label)
    if given is None:
        return name
    return f"{name.removesuffix('.png')}_given-{given.digest(wanted.observed.told)}.png"


def _is_picture(output: Path | None) -> bool:
    return output is None or output.suffix == ".png"


def _drawn(model: "Model", count: int, seed: int, working: Working, **given: Any) -> "Samples":
    spec, batch = model.recipe.sampling, model.recipe.eval.batch_size
    nfe = getattr(spec, "nfe", None)
    working.phase(f"drawing {count:,} samples ({spec.method})")

    def show(done: int, evaluations: int) -> None:
        size = min(batch, count - done)
        if nfe is None:  # Adaptive: nobody knows how many it needs.
            of = count if count > batch else None
            working.at(done, of, f"done, {evaluations:,} NFE")
        else:
            working.at(done + size * min(evaluations, nfe) // nfe, count)

    return model.draw(count, seed=seed, batch_size=batch, progress=show, **given)


def _require_room(count: int, model: "Model", target: Path) -> None:
    """Refuse more samples than the picture or the memory can hold, before any is drawn.

    Raises:
        UsageError: names how many can be.
    """
    import math

    import psutil

    from cld_core.evaluation import grids

    pixels = math.prod(model.data_shape[1:])
    if model.is_image and target.suffix == ".png":
        grids.require_size(count, pixels)
    # float32: positions, velocities, and what is written of them.
    most = psutil.virtual_memory().total // (16 * math.prod(model.data_shape))
    if count > most:
        raise UsageError(f"-n {count}: so many samples do not fit into the memory. Draw at most {most} at once.")


def _write_arrays(path: Path, drawn: "Samples", labels: "Tensor | None", are_images: bool) -> None:
    from cld_core.data.images import to_pixels
    from cld_core.run.atomic import write_arrays

    arrays = {"x": drawn.x.cpu().numpy(), "nfe": drawn.nfe_each.cpu().numpy()}
    if drawn.v is not None:
        arrays["v"] = drawn.v.cpu().numpy()
    if labels is not None:
        arrays["label"] = labels.numpy()
    if are_images:
        arrays["images"] = to_pixels(drawn.x).permute(0, 2, 3, 1).cpu().numpy()
    write_arrays(path, arrays)
