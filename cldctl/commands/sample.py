"""`cldctl sample`: pictures or arrays of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cldctl.ui.console import err, out
from cldctl.ui.progress import Working

from . import completing
from .options import AllowPlugin, Checkpoint, RunsDir, check_output, find_run, one_run, refuse_twice, runs_dir

if TYPE_CHECKING:
    from cld_core.model import Model
    from cld_core.recipe.sampling import SamplingSpec
    from cld_core.sampling import Samples

# More do not fit into one file that anybody could open; `cldctl eval` draws and keeps as many as there is disk for.
MAX_SAMPLES = 10_000_000


def sample(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of sampling to change.",
            autocompletion=completing.runs_and_overrides,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", metavar="N", min=1, max=MAX_SAMPLES, help="How many; default: 64 images, 2,000 points."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png|.npz", help="Where to write; an existing file is replaced."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="ode|em|sscs|exponential|gddim|conjugate|splitting",
            help="exponential is best below 100 NFE; default: the recipe's.",
            autocompletion=completing.methods,
        ),
    ] = None,
    nfe: Annotated[int | None, typer.Option(metavar="N", help="Network evaluations of a fixed-step method.")] = None,
    checkpoint: Checkpoint = "last",
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Key of the noise.")] = 0,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Without -o, the picture goes into samples/ of the run, named after its settings: other settings, other file.

    Arrays are x (in [-1, 1] for images), v, nfe, and for images their pixels: uint8, (n, height, width, 3).

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png
    """
    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    if output is None:
        require_may_change(run.path, "No samples were drawn; use -o FILE.png")
    check_output(output, (".png", ".npz"), "samples are")
    spec = _spec(run, overrides, {"method": method, "nfe": nfe})
    _draw(_Wanted(run, spec, checkpoint, n, seed, output), allow_plugin)


@dataclass(frozen=True)
class _Wanted:
    """Which samples somebody wants; ``n``: None for as many as a picture shows."""

    run: RunFolder
    spec: "SamplingSpec"
    checkpoint: str
    n: int | None
    seed: int
    output: Path | None


def _spec(run: RunFolder, overrides: list[str], options: Mapping[str, str | int | None]) -> "SamplingSpec":
    """How samples are drawn: as the recipe of the run says, with what options and KEY=VALUE change.

    Raises:
        UsageError: a key is set twice, or is not one of sampling.
        RecipeError: a value does not fit.
    """
    from cld_core.recipe import with_overrides

    for name, value in options.items():
        if value is not None:
            refuse_twice(f"--{name}", [f"sampling.{name}"], overrides)
            overrides = [f"sampling.{name}={value}", *overrides]
    for text in overrides:
        if not text.startswith("sampling."):
            raise UsageError(f"'{text.split('=')[0]}' is not a key of sampling. Only sampling.* can be changed here.")
    return with_overrides(run.recipe(), overrides, str(run.recipe_file)).sampling


def _draw(wanted: _Wanted, allow_plugin: bool) -> None:
    """Draw samples, write them, and say where they are."""
    with Working(f"loading {wanted.run.name}") as working:
        import cld_core
        from cld_core.evaluation import nonfinite, pictures

        model = cld_core.load(wanted.run.path, wanted.checkpoint, allow_plugin=allow_plugin)
        model.recipe = replace(model.recipe, sampling=wanted.spec)
        count = wanted.n or pictures.default_count(model)
        target = wanted.output or wanted.run.samples / pictures.name_of(model, count, wanted.seed)
        _require_room(count, model, target)
        drawn = _drawn(model, count, wanted.seed, working)
        working.phase(f"writing {target.name}")
        if target.suffix == ".npz":
            _write_arrays(target.absolute(), drawn, model.is_image)
        else:
            pictures.show(target.absolute(), drawn.x, model, f"{wanted.spec.method}, {drawn.nfe:.0f} NFE")
    if (remark := nonfinite.remark_on(drawn.x)) is not None:
        err.print(remark, style="yellow")
    how = f"{drawn.nfe:.0f} network evaluations each ({wanted.spec.method})"
    err.print(f"{count:,} samples of step {model.step}, {how}")
    out.print(str(target), markup=False, no_wrap=True)


def _drawn(model: "Model", count: int, seed: int, working: Working) -> "Samples":
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

    return model.draw(count, seed=seed, batch_size=batch, progress=show)


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


def _write_arrays(path: Path, drawn: "Samples", are_images: bool) -> None:
    from cld_core.data.images import to_pixels
    from cld_core.run.atomic import write_arrays

    arrays = {"x": drawn.x.cpu().numpy(), "nfe": drawn.nfe_each.cpu().numpy()}
    if drawn.v is not None:
        arrays["v"] = drawn.v.cpu().numpy()
    if are_images:
        arrays["images"] = to_pixels(drawn.x).permute(0, 2, 3, 1).cpu().numpy()
    write_arrays(path, arrays)
