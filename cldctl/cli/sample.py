"""`cldctl sample`: pictures or arrays of samples, perhaps given what is known about them."""

from pathlib import Path
from typing import Annotated

import typer

from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import options

# More do not fit into one file that anybody could open; `cldctl eval` draws and keeps as many as there is disk for.
MAX_SAMPLES = 10_000_000


def sample(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE", help="A run (default: the newest), and keys of sampling and ema to change."
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
        ),
    ] = None,
    nfe: Annotated[
        int | None, typer.Option(metavar="N", help="Network evaluations (NFE) of a fixed-step method.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|NAME", help="Class of all samples; default: each class as often as in the training data."
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W", help="Scale of classifier-free guidance: 1 is the conditional score, 0 the unconditional one."
        ),
    ] = None,
    checkpoint: options.Checkpoint = "last",
    seed: options.Seed = 0,
    observe: Annotated[
        str | None,
        typer.Option(
            metavar="x=NUMBER|FILE.npz", help="Draw samples given an observation: a coordinate of toy data, or arrays."
        ),
    ] = None,
    inpaint: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Draw samples given a part of this picture; needs --mask.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="MASK.png", help="White where IMAGE is to be painted, black where known.")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Standard deviation of the noise in the observation.")
    ] = None,
    how: Annotated[
        str | None,
        typer.Option(
            metavar="gradient|replacement",
            help="How samples are made to agree with the observation; default: gradient.",
        ),
    ] = None,
    gradient_scale: Annotated[
        float | None, typer.Option(metavar="W", min=0, help="Factor of the gradient; default: 1, which is Bayes' rule.")
    ] = None,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Without -o, the picture is written to samples/ of the run, in a file named after its settings.

    An .npz file has the arrays x (in [-1, 1] for images), v, nfe, for images their pixels as uint8
    (n, height, width, 3), and for class-conditional models the labels.

    With --observe or --inpaint, samples agree with what is known about x.

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png

    Example: cldctl sample --observe x=0.3 --method exponential --nfe 50
    """
    from cld_core.ownership import require_may_change
    from cldctl.runs.sample import Observed, SampleOptions, draw

    observed = Observed(observe, inpaint, mask, sigma, how, gradient_scale)
    run, overrides = options.run_and_overrides(words, directory)
    if output is None:
        require_may_change(run.path, "No samples were drawn; use -o FILE.png")
    options.check_output(output, (".png", ".npz"), "samples are")
    wanted = SampleOptions(
        run=run,
        overrides=overrides,
        method=method,
        nfe=nfe,
        guidance=guidance,
        checkpoint=checkpoint,
        count=n,
        seed=seed,
        output=output,
        label=label,
        observed=observed,
        allow_plugin=allow_plugin,
    )
    with Working(f"loading {run.name}") as working:
        drawn = draw(wanted, working)
    if drawn.warning is not None:
        err.print(drawn.warning, style="yellow")
    for text in filter(None, (drawn.about, drawn.agreement)):
        err.print(text)
    out.print(str(drawn.file), no_wrap=True)
