"""`cldctl sample`: pictures or arrays of samples."""

from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.ui.console import err, out

from .options import RunsDir, find_run, one_run, refuse_twice, runs_dir


def sample(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN | KEY=VALUE")] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many; default: 64 images, 2000 points.")] = None,
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE.png|.npz", help="Where to.")] = None,
    method: Annotated[
        str | None, typer.Option(help="ode, em, sscs or exponential (best below 100 NFE); default: the recipe's.")
    ] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations of a fixed-step method.")] = None,
    checkpoint: Annotated[str, typer.Option(metavar="last|STEP", help="Which checkpoint.")] = "last",
    seed: Annotated[int, typer.Option(min=0, help="Key of the noise.")] = 0,
    directory: RunsDir = None,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Arrays are x (in [-1, 1] for images), v, nfe, and for images their pixels: uint8, (n, height, width, 3).

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png
    """
    from dataclasses import replace

    from cld_core.recipe import with_overrides

    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    recipe = run.recipe()
    if method is not None:
        refuse_twice("--method", ["sampling.method"], overrides)
        recipe = replace(recipe, sampling=recipe.sampling.switched(method))
        overrides.append(f"sampling.method={method}")
    if nfe is not None:
        refuse_twice("--nfe", ["sampling.nfe"], overrides)
        overrides.append(f"sampling.nfe={nfe}")
    for text in overrides:
        if not text.startswith("sampling."):
            raise UsageError(
                f"'{text.split('=')[0]}' does not belong to sampling. Only sampling.* can be changed here."
            )
    spec = with_overrides(recipe, overrides, str(run.recipe_file)).sampling
    if nfe is not None and spec.method == "ode":
        raise UsageError("--nfe: the method ode chooses its own. Add --method em, sscs or exponential.")
    spec.refuse_idle(text.partition("=")[0].removeprefix("sampling.") for text in overrides)
    if output is not None and output.suffix not in (".png", ".npz"):
        raise UsageError(f"-o {output}: cannot write '{output.suffix}' files. End the name in .png or .npz.")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: there is no folder {output.absolute().parent}. Make it first.")

    import cld_core
    from cld_core.data.images import to_pixels
    from cld_core.evaluation import pictures
    from cld_core.run.atomic import write_arrays

    model = cld_core.load(run.path, checkpoint)
    target = output or run.samples / f"step_{model.step:08d}_{spec.method}.png"
    count = n or pictures.default_count(model)
    model.recipe = replace(model.recipe, sampling=spec)
    drawn = model.draw(count, seed=seed, batch_size=model.recipe.eval.batch_size)
    if target.suffix == ".npz":
        arrays = {"x": drawn.x.cpu().numpy(), "nfe": drawn.nfe_each.cpu().numpy()}
        arrays |= {"v": drawn.v.cpu().numpy()} if drawn.v is not None else {}
        arrays |= {"images": to_pixels(drawn.x).permute(0, 2, 3, 1).cpu().numpy()} if model.is_image else {}
        write_arrays(target.absolute(), arrays)
    else:
        pictures.show(target.absolute(), drawn.x, model, f"{spec.method}, {drawn.nfe:.0f} NFE")
    err.print(f"{count} samples of step {model.step}, {drawn.nfe:.0f} network evaluations each ({spec.method})")
    out.print(str(target), markup=False, soft_wrap=True)
