"""Commands on checkpoints: `eval`, `compare`, `sample`, `tune`, `export`, `import`, `bench`."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer import Argument, Option

from cld_core.errors import UsageError
from cld_core.sanitize import one_line
from cldctl.show.console import Working, err, out, strong

from . import options


def _with_metric_flags(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with a flag for each metric in place of its second argument, ``metrics``."""
    from cld_core import metrics as registry

    flags = {metric.name.replace("-", "_"): metric for metric in registry.metrics()}

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        metrics = tuple(metric.name for name, metric in flags.items() if arguments.pop(name))
        function(metrics=metrics, **arguments)

    first, _, *others = inspect.signature(function).parameters.values()
    parameters = [first]
    for name, metric in flags.items():
        option = Option(False, metric.flag, help=metric.help)
        parameters.append(first.replace(name=name, default=option, annotation=bool))
    parameters += others
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in parameters]
    # typer reads the signature; functions declare no such attribute, although inspect honours it.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@_with_metric_flags
def eval_(
    words: list[str] | None = Argument(
        None,
        metavar="RUN | GROUP | KEY=VALUE",
        help=(
            "A run (default: the newest) or a group, keys of eval, sampling, ema and cluster, "
            "and plugins=FILE.py."
        ),
    ),
    metrics: tuple[str, ...] = (),
    metric: list[str] | None = Option(
        None, metavar="NAME,...", help="Further metrics by name, for example those of plug-ins."
    ),
    samples: int | None = Option(
        None,
        min=2,
        help="Number of samples, or of test points if none are drawn; default: eval.samples.",
    ),
    shards: int | None = options.SHARDS,
    checkpoint: str = Option("last", metavar="last|all|STEP", help="Which checkpoints."),
    sweep: list[str] | None = Option(
        None,
        metavar="KEY=a,b,c",
        help="Evaluate each of these settings, shown as a table; can be repeated for other keys.",
    ),
    compared: bool = Option(False, "--compare", help="Show finished results of runs side by side."),
    as_json: bool = Option(False, "--json", help="With --compare: one JSON document."),
    max_parallel: int | None = options.MAX_PARALLEL,
    cluster: str | None = options.CLUSTER_OF_RUN,
    profile: str | None = options.PROFILE_OF_RUN,
    follow: bool = options.FOLLOW,
    allow_plugin: bool = options.ALLOW_PLUGIN,
    root: Path = options.RUNS_DIR,
) -> None:
    """Evaluate checkpoints of a run. Running it again computes only what is missing.

    Example: cldctl eval --fid --elbo --samples 50000 --shards 16 sampling.method=exponential
    """
    from cld_core import metrics as registry
    from cldctl import clusters
    from cldctl.runs import plan
    from cldctl.runs.options import EvalOptions, with_profile
    from cldctl.runs.start import start, start_on_each
    from cldctl.show.follow import say_errors
    from cldctl.show.submission import remark

    from .finish import finish_evaluations

    if compared:
        others = {
            "samples": samples,
            "shards": shards,
            "sweep": sweep,
            "metric": metric,
            "cluster": cluster,
            "profile": profile,
            "follow": follow,
            "max-parallel": max_parallel,
            "allow-plugin": allow_plugin,
        }
        conflicting = [*metrics, *(name for name, value in others.items() if value)]
        if conflicting:
            raise UsageError(
                f"--compare shows finished results and computes none: leave out "
                f"--{', --'.join(conflicting)}."
            )
        names, overrides = options.split_runs(words)
        if overrides or not names:
            raise UsageError(
                "--compare takes two or more runs and nothing else: `cldctl eval --compare RUN "
                "RUN`."
            )
        compare(names, checkpoint, as_json, root)
        return
    if as_json:
        raise UsageError(
            "--json goes with --compare. `cldctl status RUN --json` has the results of one run."
        )
    if not metrics and not metric:
        raise UsageError(
            f"nothing to evaluate: add {', '.join(metric.flag for metric in registry.metrics())}."
        )
    name, overrides = options.one_run(words)
    eval_options = EvalOptions(
        metrics=metrics,
        named=tuple(metric or ()),
        overrides=with_profile(profile, overrides),
        samples=samples,
        sweep=tuple(sweep or ()),
        checkpoint=checkpoint,
        shards=shards,
        allow_plugin=allow_plugin,
    )
    if (group := options.group_named(name, root)) is not None:
        with Working(f"looking at what is missing of the evaluations of {group.name}"):
            by_cluster, failed = plan.evaluations_of_group(group, eval_options, cluster, remark)
        say_errors(failed)
        code = max((work.error.exit_code for work in failed if work.error), default=0)
        submission = start_on_each(by_cluster, group, max_parallel)
        raise typer.Exit(finish_evaluations(submission, follow) or code)
    run = options.find_run(name, root)
    where = clusters.chosen(cluster, run)
    with Working(f"looking at what is missing of the evaluation of {run.name}"):
        works = plan.evaluations(run, eval_options, remark)
    submission = start(works, where, run, parallel=max_parallel)
    raise typer.Exit(finish_evaluations(submission, follow))


def compare(
    names: list[str] = options.RUNS,
    checkpoint: str = Option(
        "last",
        metavar="last|STEP",
        help="The step whose results are compared; last: the newest that has some.",
    ),
    as_json: bool = options.AS_JSON,
    root: Path = options.RUNS_DIR,
) -> None:
    """Show finished results side by side; of groups, mean and standard deviation over seeds.

    Example: cldctl compare toy-0102-101112-ab12 toy-0102-101530-cd34
    """
    from cld_core.run import RunFolder
    from cldctl.show.evaluations import show_compared

    if checkpoint == "all":
        raise UsageError("one checkpoint of each run can be compared: --checkpoint last or STEP.")
    chosen = [options.group_named(name, root) or options.find_run(name, root) for name in names]
    if len(chosen) == 1 and isinstance(chosen[0], RunFolder):
        raise UsageError(
            f"{chosen[0].name} is one run: compare takes a group, or two or more runs."
        )
    show_compared(chosen, checkpoint, as_json)


# A file with more samples is too large to open; `cldctl eval` draws and keeps any number.
MAX_SAMPLES = 10_000_000


def sample(
    words: list[str] | None = Argument(
        None,
        metavar="RUN | KEY=VALUE",
        help="A run (default: the newest), keys of sampling and ema, plugins=FILE.py.",
    ),
    n: int | None = Option(
        None,
        "--count",
        "-n",
        metavar="N",
        min=1,
        max=MAX_SAMPLES,
        help="Number of samples; default: 64 images, 16 curves, 2,000 points.",
    ),
    output: Path | None = Option(
        None,
        "--output",
        "-o",
        metavar="FILE.png|.npz",
        help="Where to write; an existing file is replaced.",
    ),
    method: str | None = Option(
        None,
        metavar="METHOD",
        help="Sampling method, one that `cldctl explain sampling` lists; default: the recipe's. "
        "exponential is best below 100 NFE; at 10, use it with sampling.order=3, "
        "sampling.corrector=false and sampling.grid_power=3.",
    ),
    nfe: int | None = Option(
        None, metavar="N", help="Network evaluations (NFE) of a fixed-step method."
    ),
    label: str | None = Option(
        None,
        metavar="NUMBER|NAME",
        help="Class of all samples; default: each class as often as in the training data.",
    ),
    guidance: float | None = Option(
        None,
        metavar="W",
        help="Scale of classifier-free guidance: 1 is the conditional score, 0 the unconditional.",
    ),
    checkpoint: str = options.CHECKPOINT,
    seed: int = options.SEED,
    observe: str | None = Option(
        None,
        metavar="x=NUMBER|FILE.npz",
        help="Draw samples given an observation: a coordinate of toy data, or arrays.",
    ),
    inpaint: Path | None = Option(
        None, metavar="IMAGE", help="Draw samples given a part of this picture; needs --mask."
    ),
    mask: Path | None = Option(
        None, metavar="MASK.png", help="White where IMAGE is to be painted, black where known."
    ),
    sigma: float | None = Option(
        None, metavar="S", min=0, help="Standard deviation of the noise in the observation."
    ),
    how: str | None = Option(
        None,
        metavar="gradient|replacement",
        help="How samples are made to agree with the observation; default: gradient.",
    ),
    gradient_scale: float | None = Option(
        None, metavar="W", min=0, help="Factor of the gradient; default: 1, which is Bayes' rule."
    ),
    allow_plugin: bool = options.ALLOW_PLUGIN,
    root: Path = options.RUNS_DIR,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Vectors of other sizes are histograms and scatters of pairs of features; curves are beside those
    of the test data.

    Without -o, the picture is written to samples/ of the run, in a file named after its settings.

    An .npz file has the arrays x (in the units and shape of the data, images in [-1, 1]), v, nfe,
    for images their pixels as uint8 (n, height, width, 3), and for class-conditional models the
    labels.

    With --observe or --inpaint, samples agree with what is known about x.

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png

    Example: cldctl sample --observe x=0.3 --method exponential --nfe 50
    """
    from cld_core.ownership import require_may_change
    from cldctl.runs.sample import Observed, SampleOptions, draw
    from cldctl.show.submission import remark

    observed = Observed(observe, inpaint, mask, sigma, how, gradient_scale)
    run, overrides = options.run_and_overrides(words, root)
    if output is None:
        require_may_change(run.path, "No samples were drawn; use -o FILE.png")
    options.check_output(output, (".png", ".npz"), "samples are")
    sample_options = SampleOptions(
        run=run,
        overrides=overrides,
        given={"guidance": guidance, "nfe": nfe, "method": method},
        checkpoint=checkpoint,
        count=n,
        seed=seed,
        output=output,
        label=label,
        observed=observed,
        allow_plugin=allow_plugin,
    )
    with Working(f"loading {run.name}") as working:
        result = draw(sample_options, working, remark)
    if result.warning is not None:
        err.print(result.warning, style="yellow")
    for text in filter(None, (result.about, result.agreement)):
        err.print(text)
    out.print(str(result.file), no_wrap=True)


def tune(
    words: list[str] | None = Argument(
        None,
        metavar="RUN | KEY=VALUE",
        help="A run (default: the newest), and keys of sampling, ema and cluster to change.",
    ),
    nfe: str = Option(
        "10", metavar="N[,N]", help="Network evaluations per sample, denoising included."
    ),
    points: int | None = Option(
        None,
        metavar="P",
        help="Draws of the noise to fit to, and as many held out; default: 4,000, for images 16.",
    ),
    budget: str = Option("60", metavar="MINUTES | none", help="Time limit for the fit of each N."),
    seed: int = options.SEED,
    checkpoint: str = options.CHECKPOINT,
    as_json: bool = options.AS_JSON,
    cluster: str | None = options.CLUSTER_OF_RUN,
    follow: bool = options.FOLLOW,
    allow_plugin: bool = options.ALLOW_PLUGIN,
    root: Path = options.RUNS_DIR,
) -> None:
    """Fit a sampler with few evaluations to the network of a run, for sampling.method=tuned.

    The sampler is fitted to the network's own probability flow, and held-out noise decides whether
    the fit is kept. Running it again shows the result, or continues where it stopped.

    Example: cldctl tune toy-0102-101112-ab12 --nfe 5,7,10 --follow
    """
    from cld_core.run.tunings import Tuning
    from cldctl import clusters
    from cldctl.runs import plan
    from cldctl.runs.options import EvalOptions, minutes, network_evaluations
    from cldctl.runs.start import start
    from cldctl.show.evaluations import show_tunings
    from cldctl.show.follow import say_divided
    from cldctl.show.submission import remark

    from .finish import wait

    numbers = network_evaluations(nfe)
    budget_min = minutes(budget)
    run, overrides = options.run_and_overrides(words, root)
    eval_options = EvalOptions(
        overrides=tuple(overrides),
        checkpoint=checkpoint,
        allow_plugin=allow_plugin,
    )
    where = clusters.chosen(cluster, run)
    works = plan.tunings(
        run, eval_options, remark, nfe=numbers, points=points, budget_min=budget_min, seed=seed
    )
    submission = start(works, where, run)
    say_divided(submission)
    waited = wait(submission, follow)
    tuned = [Tuning(planned.work.folder) for planned in submission.works]
    raise typer.Exit(show_tunings(run, tuned, as_json, waited))


def export(
    run: str | None = options.RUN,
    output: Path | None = Option(
        None, "--output", "-o", metavar="FILE.safetensors", help="Where to write."
    ),
    card: Path | None = Option(
        None,
        metavar="FOLDER|FILE.md",
        help="Write a model card with numbers, samples and recipe, too. A folder gets README.md, "
        "samples.png and model.safetensors.",
    ),
    license_: str | None = Option(
        None,
        "--license",
        metavar="ID",
        help="The licence of the weights, for the card: cc-by-4.0, mit, ..., or other.",
    ),
    checkpoint: str = options.CHECKPOINT,
    ema_length: float | None = Option(
        None,
        metavar="LENGTH",
        help="The average of this relative length, made of those of train.ema_lengths.",
    ),
    allow_plugin: bool = options.ALLOW_PLUGIN,
    root: Path = options.RUNS_DIR,
) -> None:
    """Write averaged weights and the recipe of a checkpoint as safetensors, for `cld_core.load`.

    Example: cldctl export cifar10-0102-101112-ab12 -o cifar10.safetensors

    Example: cldctl export cifar10-0102-101112-ab12 --card cifar10/ --license cc-by-4.0
    """
    from cld_core.config.train import EmaSpec
    from cldctl.page import model_card

    licence = None if license_ is None else model_card.licence(license_)
    folder = options.find_run(run, root)
    target = output or Path(f"{folder.name}.safetensors")
    options.check_output(target, (".safetensors",), "weights are")
    files = None
    if card is not None:
        files = model_card.places(card, output, target)
        target = files.weights
    elif licence is not None:
        raise UsageError("--license is part of a card. Add --card FOLDER, or leave it out.")

    with Working(f"loading {folder.name}") as working:
        import cld_core

        model = cld_core.load(
            folder.path, checkpoint, "cpu", allow_plugin=allow_plugin, ema_length=ema_length
        )
        if files is not None:
            files.card.parent.mkdir(parents=True, exist_ok=True)
        working.phase(f"writing {target.name}")
        model.export(target)
    step = ", ".join(filter(None, [f"step {model.step}", EmaSpec(length=ema_length).words]))
    err.print(
        f"averaged weights of {step} of {folder.name}, {target.stat().st_size / 2**20:.1f} MiB"
    )
    if plugins := ", ".join(map(one_line, model.recipe.plugins)):
        err.print(f"the file names the plug-in {plugins}, which is needed to load it")
    out.print(str(target), no_wrap=True)
    if files is not None:
        saying = f"drawing samples of step {model.step}, of which the run has no picture"
        model_card.write(folder, model, files, licence or "unknown", lambda: err.print(saying))
        out.print(str(files.card), no_wrap=True)


def import_(
    file: Path = Argument(
        ..., help="A checkpoint of the published code, such as checkpoint_800000.pth."
    ),
    recipe: str = Option(..., metavar="RECIPE", help="The recipe that it was trained with."),
    overrides: list[str] | None = options.OVERRIDES,
    name: str | None = options.NEW_NAME,
    root: Path = options.RUNS_DIR,
) -> None:
    """Make a run of a published checkpoint: weights, their average, optimiser's state and step.

    It reads checkpoints of the CLD code, and those that PyTorch Lightning wrote for the PSLD code.
    The run can be sampled, evaluated and resumed. Nothing is written if a tensor does not fit the
    recipe.

    Example: cldctl import checkpoint_800000.pth --recipe cifar10 --name published
    """
    from cld_core.run.identity import identity
    from cldctl.runs.options import SubmitOptions

    submit_options = SubmitOptions(
        recipe=recipe, root=root, name=name, given=tuple(overrides or ())
    )
    resolved = submit_options.cells[0].recipe
    with Working(f"importing {file.name}"):
        from cld_core.importing import import_published

        about = identity(resolved.name, submit_options.file)
        run, step, parameters = import_published(file, resolved, submit_options.run().path, about)
    done = f" in {run.path}: step {step}, {parameters:,} parameters"
    err.print(strong("run ", run.name, done))
    if resolved.optim.name != "adam":
        err.print(
            "published checkpoints were trained with adam; resuming uses their state for "
            f"{resolved.optim.name}",
            style="yellow",
        )
    err.print(f"next:\n  cldctl sample {run.name}\n  cldctl eval {run.name} --elbo")
    out.print(run.name)


def bench_samplers(
    words: list[str] | None = Argument(
        None,
        metavar="RUN | KEY=VALUE",
        help="A run (default: the newest); keys of eval, sampling and cluster for all samplers.",
    ),
    nfe: str = Option(
        "10,20,50,100",
        metavar="N,N,...",
        help="Network evaluations per sample, denoising included.",
    ),
    metrics: list[str] | None = Option(
        None,
        "--metric",
        metavar="A,B,...",
        help="fid, kid, isc and prc for images; w2 and energy for toys and arrays; density for "
        "toys; flow-distance for all; classes and class-law for models with classes. Default: fid "
        "for images, else w2,density,flow-distance; without density for arrays and data of a "
        "plug-in.",
    ),
    samples: int | None = Option(None, min=2, help="Samples per seed; default: eval.samples."),
    seeds: int | None = Option(
        None, min=1, max=1000, help="Repetitions with new noise; default: 4 for toys, 1 for images."
    ),
    sampler: list[str] | None = Option(
        None,
        metavar="NAME[=KEY=VALUE,...]",
        help="Compare only this sampler, or add one with these keys of sampling; can be repeated.",
    ),
    checkpoint: str = options.CHECKPOINT,
    shards: int | None = options.SHARDS,
    max_parallel: int | None = options.MAX_PARALLEL,
    cluster: str | None = options.CLUSTER_OF_RUN,
    follow: bool = options.FOLLOW,
    dry_run: bool = Option(False, help="List the samplers and start nothing."),
    as_json: bool = Option(False, "--json", help="One JSON document on stdout instead of tables."),
    csv: Path | None = Option(
        None, help="File for all numbers, published ones included, ending in .csv."
    ),
    plot: Path | None = Option(None, help="File for the picture, ending in .png."),
    allow_plugin: bool = options.ALLOW_PLUGIN,
    root: Path = options.RUNS_DIR,
) -> None:
    """Compare samplers of one checkpoint at equal numbers of network evaluations.

    They run as one array of evaluations. Running it again computes only what is missing, and shows
    the results.

    Example: cldctl bench samplers --nfe 10,20,50 --metric w2,flow-distance --samples 10000 --follow

    Example: cldctl bench samplers --sampler em-quadratic --sampler fine=method=exponential,order=2
    """
    from cld_core.run.evaluations import Evaluation
    from cldctl import clusters
    from cldctl.runs import plan as policy
    from cldctl.runs.options import EvalOptions, network_evaluations
    from cldctl.runs.start import start
    from cldctl.show.evaluations import show_plan, show_samplers
    from cldctl.show.follow import say_divided, say_next_of_evaluations
    from cldctl.show.submission import remark

    from .finish import wait

    options.check_output(csv, (".csv",), "numbers are", "--csv")
    options.check_output(plot, (".png",), "pictures are", "--plot")
    numbers = network_evaluations(nfe)
    run, overrides = options.run_and_overrides(words, root)
    eval_options = EvalOptions(
        named=tuple(metrics or ()),
        overrides=tuple(overrides),
        samples=samples,
        checkpoint=checkpoint,
        shards=shards,
        allow_plugin=allow_plugin,
    )
    where = clusters.chosen(cluster, run)
    with Working(f"looking at what is missing of the comparison of {run.name}"):
        works, comparison = policy.comparison(
            run, sampler or (), numbers, seeds, eval_options, remark
        )
    if dry_run:
        show_plan(run, comparison)
        return
    submission = start(works, where, run, parallel=max_parallel)
    say_divided(submission)
    waited = wait(submission, follow)
    if not (waited or submission.is_over or as_json):
        say_next_of_evaluations(submission)
        return
    evaluations = [Evaluation(planned.work.folder) for planned in submission.works]
    raise typer.Exit(show_samplers(evaluations, comparison, as_json, csv, plot, waited=waited))
