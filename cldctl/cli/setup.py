"""Commands before a training: `cldctl init`, `recipes`, `render`, `explain`, `doctor`, `data`."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import Argument, Option

from cld_core.errors import RecipeError, UsageError
from cld_core.sanitize import one_line
from cldctl.show.console import Working, err, listed, out, say_incomplete

from . import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cld_core.data.prepare import SourcePart


def init(
    data: Path = Argument(
        ..., metavar="DATA", help="A file of arrays, a folder of them, prepared images or pictures."
    ),
    output: Path | None = Option(
        None,
        "--output",
        "-o",
        metavar="RECIPE.yaml",
        help="Where to write; default: named after the data.",
    ),
    size: str = Option(
        "s", metavar="s|m|l", help="s: minutes on two cores; m: an hour or so; l: for a GPU."
    ),
) -> None:
    """Look at data, and write a recipe that trains on them.

    Arrays are .npy, .npz or .safetensors files with examples (N, d), (N, C, L) or (N, C, H, W).

    Example: cldctl init data.npy -o mine.yaml
    """
    from cld_core.config import from_dict
    from cld_core.config.describe import dump_with_comments
    from cld_core.config.schema import leaves
    from cld_core.config.suggest import SIZES, suggested, why_slow
    from cld_core.files import write_text

    target = output or Path(f"{data.absolute().name.partition('.')[0]}.yaml")
    options.check_output(target, (".yaml", ".yml"), "recipes are")
    if size not in SIZES:
        raise UsageError(
            f"--size {size}: expected one of {', '.join(SIZES)}. Pass --size s, for example."
        )
    if target.exists():
        raise UsageError(f"{target} exists already. Pass -o with another name, or remove it.")
    with Working(f"looking at {data.name}"):
        description = _look(data, size)
    keys = {
        "data": description.keys,
        **suggested(
            description.shape,
            description.examples,
            size,
            tests=description.tests,
            data_std=description.std,
        ),
    }
    recipe = from_dict({"name": target.stem, **keys}, str(target))
    origin = (
        f"`cldctl init {data} --size {size}` wrote this; `cldctl explain KEY` says more about "
        f"a key."
    )
    head = "".join(f"# {one_line(line)}\n" for line in (*description.about, origin))
    write_text(target, head + dump_with_comments(recipe, leaves(keys)))
    for line in description.about:
        err.print(line)
    for line in (*description.warnings, *why_slow(description.shape, keys)):
        err.print(f"warning: {line}", style="yellow")
    out.print(str(target), no_wrap=True)
    commands = (*description.before, f"cldctl submit {target} --follow")
    err.print("next:\n" + "\n".join(f"  {command}" for command in commands))


@dataclass(frozen=True, kw_only=True)
class _Data:
    """A description of the data, for `init`.

    Attributes:
        keys: the `data` section.
        examples: number of training examples; ``tests``: of test examples.
        std: standard deviation of the numbers that the model sees; the default is about that of
            pictures.
        about: lines that describe the data.
        warnings: further lines.
        before: commands to run before the training.
    """

    keys: dict[str, Any]
    shape: tuple[int, ...]
    examples: int
    tests: int
    std: float = 0.5
    about: tuple[str, ...]
    warnings: "Sequence[str]" = ()
    before: tuple[str, ...] = ()


# The largest side, in pixels, to which pictures are scaled by `cldctl data prepare`.
_PIXELS = {"s": 32, "m": 64, "l": 128}


def _look(data: Path, size: str) -> _Data:
    """Describe arrays, prepared images, or files to prepare: pictures, and idx files."""
    from cld_core.data import arrays, store

    keys = store.keys_of(data.absolute())
    if keys["name"] == "folder":
        about = store.find(data).about
        counts = {split: info.count for split, info in about.splits.items()}
        return _images(keys, about.shape[1:], counts, about.classes, std=_std(keys))
    has_arrays = any((data / f"train{suffix}").is_file() for suffix in arrays.SUFFIXES)
    if data.suffix in (".zip", ".tar") or (data.is_dir() and not has_arrays):
        return _unprepared(data, size)
    return _arrays(keys)


def _unprepared(data: Path, size: str) -> _Data:
    from cld_core.data.folder import plan_folder, shorter_side
    from cld_core.data.idx import plan_idx
    from cld_core.data.store import SPLITS

    prepared = Path("data", data.absolute().name.partition(".")[0])
    command = f"cldctl data prepare {{}} --source {data} --out {prepared}"
    if data.is_dir() and list(data.glob("*-idx3-ubyte*")):
        plan = plan_idx(data)
        command = command.format("idx")
    else:
        pixels = min(_PIXELS[size], max(4, shorter_side(data) // 4 * 4))
        # The preparation finds out whether they are all grey.
        plan = plan_folder(data, pixels, channels=3)
        command = command.format("folder") + f" --size {pixels}"
    keys = {"name": "folder", "path": str(prepared.absolute())}
    counts = plan.expect
    if not counts:
        counts = dict.fromkeys(SPLITS, 0)
        for part in plan.parts:
            counts[part.split] += len(part.labels)
    return _images(keys, plan.shape, counts, plan.classes, before=(command,))


def _images(
    keys: dict[str, Any],
    shape: tuple[int, ...],
    counts: "Mapping[Any, int]",
    classes: "Sequence[str]",
    **more: Any,
) -> _Data:
    train = counts["train"]
    tests = counts.get("validation", 0)
    about = f"{train + tests:,} images of {shape[1]} x {shape[2]} pixels"
    if classes:
        keys = {**keys, "labels": True}
        about += f" in {len(classes)} classes ({listed(classes)})"
    about += f": {train:,} for training, {tests:,} for tests"
    return _Data(keys=keys, shape=shape, examples=train, tests=tests, about=(about,), **more)


def _arrays(keys: dict[str, Any]) -> _Data:
    from cld_core.config.data import ArraysSpec
    from cld_core.data import arrays
    from cld_core.errors import DataError, LabelCountError, WrongSourceError

    warnings: list[str] = []
    try:
        source = arrays.find(ArraysSpec(path=keys["path"], labels=True))
    except LabelCountError:
        raise
    except DataError as error:
        source = arrays.find(ArraysSpec(path=keys["path"]))
        if not isinstance(error, WrongSourceError):
            warnings.append(f"labels are left out: {error}")
    warnings += source.look()
    train = source.split("train").count
    tests = source.split("validation").count
    own = dict(keys)
    labels = "without labels"
    if source.classes is not None and source.classes.names:
        names = source.classes.names
        own["labels"] = True
        labels = f"in {len(names)} classes ({listed(names)})"
    if source.grey_levels is not None:
        std = _std(keys)
        scaling = "images of 256 grey levels"
    else:
        own["scaling"] = "standard"
        std = 1.0
        axis = "column" if len(source.shape) == 1 else "channel"
        scaling = (
            f"scaled to mean 0, standard deviation 1 in each {axis}; samples and bounds are in "
            f"the units of the data"
        )
    kind = f"shape {source.shape}, {source.splits['train'].x.dtype}, {labels}"
    counts = f"{train + tests:,} examples of {kind}: {train:,} for training, {tests:,} for tests"
    return _Data(
        keys=own,
        shape=source.shape,
        examples=train,
        tests=tests,
        std=std,
        about=(counts, scaling),
        warnings=warnings,
    )


def _std(keys: dict[str, Any]) -> float:
    """`objective.data_std` of images; loads torch."""
    from cld_core.config import from_dict
    from cld_core.data.source import data_std, source

    recipe = from_dict({"data": {**keys, "cache": "disk"}}, keys["path"])
    with closing(source(recipe.data)) as images:
        return data_std(images)


def recipes() -> None:
    """List the recipes that ship with cldctl and those in ./recipes.

    Example: cldctl recipes
    """
    from cld_core.config import load, shipped
    from cldctl.lookup import place
    from cldctl.show.tables import TextTable

    rows = []
    for name, file in shipped.recipes().items():
        try:
            recipe = load(file, with_plugins=False)
        except RecipeError as error:
            err.print(f"skipped: {error}", style="yellow")
            continue
        shown = {
            "recipe": name,
            "description": shipped.description(file),
            "data": recipe.data.name,
            "sde": recipe.sde.name,
            "network": recipe.network.name,
            "steps": f"{recipe.train.steps:,}",
            "batch": str(recipe.train.batch_size),
            "from": place(file),
        }
        rows.append(shown)
    columns = {heading: [row[heading] for row in rows] for heading in rows[0]}
    optional = ("from", "batch", "sde", "network", "steps", "data")
    left = columns.keys() - {"steps", "batch"}
    out.print(TextTable(columns, left=left, optional=optional, wraps="description"))


def render(
    recipe: str = options.RECIPE,
    overrides: list[str] | None = options.OVERRIDES,
    comments: bool = Option(False, help="Explain each key in a comment."),
    changed: bool = Option(False, help="Only the keys that differ from their defaults."),
) -> None:
    """Print the resolved YAML of a recipe.

    Example: cldctl render toy sde.beta0=2 --comments

    Example: cldctl render cifar10 --changed
    """
    from cld_core.config import dump, load
    from cld_core.config.describe import dump_with_comments
    from cld_core.config.loader import dump_changed
    from cldctl.lookup import find_recipe

    if comments and changed:
        raise UsageError("--comments explains all keys, and --changed shows some. Leave one out.")
    resolved = load(find_recipe(recipe), overrides or [])
    if changed:
        text = dump_changed(resolved)
    elif comments:
        text = dump_with_comments(resolved)
    else:
        text = dump(resolved)
    out.print(text, end="", no_wrap=True)


def explain(
    name: str | None = Argument(
        None,
        metavar="KEY | SECTION",
        help="A key, a section, or a variant such as sde.cld; default: all sections.",
    ),
) -> None:
    """Explain a recipe key: its meaning, values and default, and what the recipes set.

    Example: cldctl explain train.ema

    Example: cldctl explain sampling
    """
    from cldctl.show.explain import show

    show(name)


_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    recipe: str | None = Argument(
        None, metavar="RECIPE", help="Check its data and FID weights, too."
    ),
    overrides: list[str] | None = options.OVERRIDES,
    cluster: str | None = options.CLUSTER,
    profile: str | None = options.PROFILE,
    job: bool = Option(True, "--job/--no-job", help="Look from a node, with a small job."),
    partition: str | None = Option(
        None, help="Only this partition, or these: low,high; default: all."
    ),
    account: str | None = Option(None, help="Account of the small job."),
    wait: float = Option(
        120, metavar="SECONDS", min=1, max=86400, help="How long the small job may take."
    ),
    gpu: bool = Option(False, help="Check this machine's GPU, too, for some seconds."),
    as_json: bool = options.AS_JSON,
    root: Path = options.RUNS_DIR,
) -> None:
    """Check Python, torch, GPUs, the runs folder; on Slurm, preemption and time limits.

    Exit code 0 if nothing fails, 1 if something does, 4 if the scheduler does not answer.

    Example: cldctl doctor cifar10 --partition gpu
    """
    from rich.text import Text

    from cld_core.config import load
    from cld_core.errors import CldError
    from cld_core.run import find_runs
    from cldctl import clusters, machine
    from cldctl.clusters.base import Check, DoctorOptions
    from cldctl.jobs.specs import measured_saves
    from cldctl.lookup import find_profile, find_recipe

    where = clusters.default() if cluster is None else clusters.find(cluster)
    unusable: list[Check] = []
    try:
        settings = find_profile(profile or clusters.default_profile(where))
        wanted = load(find_recipe(recipe or "toy"), overrides or (), settings)
    except CldError as error:
        if recipe is not None or profile is not None:
            raise
        # With a wrong default, the other checks are made nevertheless.
        fix = "Fix it, or $CLDCTL_PROFILE or the file of defaults."
        unusable = [Check("profile", "fail", str(error), fix)]
        wanted = load(find_recipe("toy"))
    with Working("checking this machine: torch, folders") as working:
        slowest_save_s, notice_s = measured_saves(find_runs(root))
        about = DoctorOptions(
            slowest_save_s=slowest_save_s,
            notice_s=notice_s,
            size=wanted.cluster,
            partition=partition,
            job=job,
            account=account,
            wait_s=wait,
            notify=working.phase,
        )
        checks = unusable + list(machine.checks(root, wanted if recipe else None, where.name))
        working.phase(f"asking the cluster ({where.name})")
        checks += where.checks(root, about)
        if gpu:
            working.phase("checking the GPU")
            checks += machine.gpu_checks()
    verdicts = {check.verdict for check in checks}
    worst = next((verdict for verdict in ("fail", "warn") if verdict in verdicts), "ok")
    if as_json:
        typer.echo(
            json.dumps({"verdict": worst, "checks": [vars(check) for check in checks]}, indent=1)
        )
    else:
        # Lines are not cut, so that paths and commands can be copied.
        for check in checks:
            label = (f"{check.verdict:<5}", _STYLE[check.verdict])
            out.print(Text.assemble(label, f" {check.name}: {check.found}"))
            if check.advice:
                out.print(f"      {check.advice}")
    if any((check.name, check.verdict) == (where.name, "fail") for check in checks):
        raise typer.Exit(4)
    raise typer.Exit(1 if worst == "fail" else 0)


def data_stats(
    name: str = Argument(..., metavar="RECIPE | RUN", help="Whose training images are meant."),
    overrides: list[str] | None = options.OVERRIDES,
    output: Path | None = Option(
        None,
        "--output",
        "-o",
        metavar="FILE.npz",
        help="Where to write; default: beside the images.",
    ),
    features: bool = Option(False, help="Keep the features, which --kid and --prc need."),
    shards: int | None = options.SHARDS,
    cluster: str | None = options.CLUSTER,
    follow: bool = options.FOLLOW,
    root: Path = options.RUNS_DIR,
) -> None:
    """Compute the statistics of a training set. Running it again continues where it stopped.

    The recipe's eval.fid section selects the extractor and its weights. Evaluations find the file
    automatically.

    Example: cldctl data stats cifar10 --shards 8 eval.fid.weights=inception.pth
    """
    from cld_core.evaluate.statistics import Statistics, StatsRequest
    from cldctl import clusters
    from cldctl.lookup import recipe_or_run
    from cldctl.runs.start import PlannedWork, clear, start

    from .finish import wait

    options.check_output(output, (".npz",), "statistics are")
    where = clusters.chosen(cluster)
    recipe = recipe_or_run(name, overrides or [], root)
    with Working(f"looking at the training images of {recipe.data.name}"):
        request = StatsRequest.of(
            recipe, output, features=features, shards=shards or recipe.cluster.world_size
        )
    if shards is not None and request.shards < shards:
        err.print(f"--shards {shards}: {request.shards} shards instead, one for each file of rows")
    work = Statistics(request.folder, request)
    submission = start([PlannedWork(work=work, size=recipe.cluster)], where)

    for text in submission.messages:
        err.print(text)
    for job in submission.jobs:
        err.print(f"statistics of {request.images:,} images, job {job.job_id} ({where.name})")
    if submission.is_over:
        err.print("these statistics exist already")
    elif not submission.jobs:
        err.print("these statistics are already being computed")
    waited = wait(submission, follow)
    if waited and not work.is_done:
        raise typer.Exit(say_incomplete([work]))
    out.print(request.output, no_wrap=True)
    if waited or submission.is_over:
        clear(work)
    else:
        err.print(f"logs: {work.folder / 'logs'}; run it again with --follow to watch")


def data_prepare(
    name: str = Argument(..., metavar="NAME", help="One of the kinds of data above."),
    source: Path = Option(..., help="The archive, folder, zip file or .tar that holds the data."),
    output: Path = Option(..., "--out", help="Folder to make; a recipe's data.path."),
    size: int | None = Option(None, min=1, help="Pixels of a side; for folder only."),
    split: float | None = Option(
        None, help="Share kept for validation (default: 0.1); for folder only."
    ),
    channels: int | None = Option(
        None, help="1: grey images, 3: RGB (default: grey if all pictures are); for folder only."
    ),
    download: bool = Option(False, help="Fetch CIFAR-10's archive into --source first."),
    any_count: bool = Option(False, help="Accept another number of images."),
) -> None:
    """Make a data set for training. Running it again continues where it stopped.

    cifar10: from cifar-10-python.tar.gz, or its folder. celebahq256: from GLOW's TFRecords, a
    folder or a .tar, or from published LMDB files. folder: from any folder, zip or .tar of
    pictures, which are scaled and cut to squares. Folders in it are classes. idx: from a folder of
    idx files, such as those of MNIST and Fashion-MNIST.

    Example: cldctl data prepare folder --source holiday.zip --size 64 --out data/holiday
    """
    from cld_core.data.cifar10 import download as download_cifar10
    from cld_core.data.prepare import prepare

    if download and name != "cifar10":
        raise UsageError(f"{name} cannot be downloaded. Fetch it yourself and pass --source PATH.")
    with Working(f"reading {source}") as working:

        def show(part: "SourcePart", images: int, expected: int | None) -> None:
            working.phase(f"{name}: {part.split}")
            working.at(images, expected, f"images {part.name}")

        if download:
            source = download_cifar10(source)
        expect: dict[str, int] | None = {} if any_count else None
        try:
            about = prepare(
                name,
                source,
                output,
                progress=show,
                size=size,
                split=split,
                channels=channels,
                expect=expect,
            )
        except KeyboardInterrupt:
            err.print("interrupted: the same command continues")
            raise typer.Exit(130) from None
    counts = ", ".join(f"{info.count:,} {split}" for split, info in about.splits.items())
    classes = f" in {len(about.classes)} classes" if about.classes else ""
    err.print(f"{about.name}: {counts} {about.words}{classes}")
    out.print(str(output), no_wrap=True)


def data_verify(path: Path = Argument(..., help="A folder that `prepare` made.")) -> None:
    """Read every image of a prepared data set and compare it with what was prepared.

    Example: cldctl data verify data/cifar10
    """
    from cld_core.data.prepare import verify

    with Working(f"verifying {path.name}") as working:
        about = verify(path, lambda read, total: working.at(read, total, "images"))
    out.print(f"{path}: {about.shape[0]:,} images are as they were prepared", no_wrap=True)
