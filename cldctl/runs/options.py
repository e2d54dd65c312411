"""Options of commands that start works; recipes and names of new runs, and what a recipe needs."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from cld_core import cpu
from cld_core.config import Recipe, load, load_frozen
from cld_core.config.data import StoredDataSpec
from cld_core.config.loader import COMMAND_LINE, as_overrides, to_yaml_line
from cld_core.config.network import ATTENTION
from cld_core.config.schema import leaves, problems_of_shape
from cld_core.data import store
from cld_core.digests import digest
from cld_core.errors import DataError, RecipeError, UsageError
from cld_core.evaluate.request import periodic_request
from cld_core.metrics import parse_metrics
from cld_core.plugins import is_shipped
from cld_core.run import RunFolder
from cld_core.run.evaluations import Axis
from cld_core.run.events import JobRef
from cld_core.run.folder import check_name
from cld_core.run.groups import Group, values_of
from cld_core.run.identity import new_name
from cld_core.sanitize import is_count, one_line
from cldctl.clusters.base import After, Cluster
from cldctl.evals.plan import combinations, meaning, named, parse
from cldctl.lookup import find_profile, find_recipe

from . import selection

if TYPE_CHECKING:
    from cld_core.importing import StartingWeights

# Shows a message of one line.
Say = Callable[[str], None]
# Each is a run with a folder of its own, which is locked while the jobs are submitted.
MAX_CELLS = 500
# The rest of a name of 100 letters is for what a run has of its own.
MAX_GROUP_NAME = 60
_MAX_NAME = 100
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
# A job, or a task of an array, as launchers number them.
_JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")
_AFTER: Mapping[str, Literal["ended", "succeeded"]] = {"ok": "succeeded", "any": "ended"}
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_IN_TRAINING = (
    "it changes no training. Sweep over it afterwards: `cldctl eval RUN --sweep KEY=a,b`"
)
# Sections whose keys cannot be swept, and why.
_NOT_SWEPT = {
    "cluster": (
        "the jobs of a sweep are one array, in which all are of the same size. "
        "Submit a group for each value"
    ),
    "sampling": _NOT_IN_TRAINING,
    "eval": _NOT_IN_TRAINING,
    "ema": _NOT_IN_TRAINING,
}
# Keys that follow from the data where they are null; recipes of earlier versions have numbers.
_OF_DATA = ("data.size", "data.channels", "network.image_size", "network.image_channels")
_SECTIONS = tuple(entry.name for entry in fields(Recipe) if entry.name not in ("name", *_NOT_SWEPT))


@dataclass(frozen=True, kw_only=True)
class RunCell:
    """A run of a sweep, or the only run.

    Attributes:
        group: the name of the sweep's group, or again that of the run.
        values: the value on each axis, by key.
    """

    name: str
    group: str
    values: Mapping[str, str]
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """A new run, or the runs of a sweep, as typed on the command line. Nothing is written.

    Attributes:
        recipe: the name or file of the recipe.
        root: the folder of the runs.
        name: the name of the run, or of a sweep's group; None to derive one from the recipe's name.
        given: overrides of the command line.
        profile: the name of a profile.
        sweep: axes, "KEY=a,b,c"; each combination of values is a run.
        parallel: how many runs of a sweep may train at once.
        chained: metrics of the evaluation that waits for each training, lists of names with commas;
            empty for no evaluation.
        tags: the tags of the run.
        note: its note.
        live_code: run the checkout itself, in place of a copy in the run's folder.
        after: "JOBID[:ok|any]", a job of the same cluster that must succeed, or end, before a
            training starts.
        weights: "RUN[@STEP]" or "FILE.safetensors", whose weights the runs start from.
        partial: weights that do not fit may start afresh.
    """

    recipe: str
    root: Path
    name: str | None = None
    given: tuple[str, ...] = ()
    profile: str | None = None
    sweep: tuple[str, ...] = ()
    parallel: int | None = None
    chained: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str | None = None
    live_code: bool = False
    after: str | None = None
    weights: str | None = None
    partial: bool = False

    @cached_property
    def file(self) -> Path:
        """The file of the recipe."""
        return find_recipe(self.recipe)

    @cached_property
    def cells(self) -> tuple[RunCell, ...]:
        """The runs of a sweep, the last axis changing fastest, or the only run.

        Raises:
            RecipeError: there is no such recipe, it cannot be read, or its plug-in cannot be
                imported.
            UsageError: the name is invalid, options are wrong or do not go together, a value is
                invalid, the jobs are not of the same size, or two cells are the same; names the
                cell.
        """
        selection.check_labels(self.tags, self.note)
        if self.parallel is not None and not self.sweep:
            raise UsageError("--parallel goes with --sweep: one run is one job. Leave it out.")
        profile = find_profile(self.profile)
        axes = axes_of(self.sweep)
        refuse_twice("--sweep", [axis.key for axis in axes], self.given)
        name: str = ""
        # By the digest of the recipe.
        cells: dict[str, RunCell] = {}
        for values in combinations(axes):
            own = settings(values)
            # Errors of the first cell do not name it: they may be those of all cells.
            with named(own if cells else ()):
                recipe = load(self.file, [*self.given, *own], profile)
            if not cells:
                # A recipe may be complete only with the values of a cell.
                name = new_name(recipe.name) if self.name is None else self.name
                check_name(name)
                if axes and len(name) > MAX_GROUP_NAME:
                    raise UsageError(
                        f"--name {name}: the name of a group has at most {MAX_GROUP_NAME} letters, "
                        f"because the names of its runs begin with it. Use a shorter one."
                    )
            with named(own):
                cell = RunCell(
                    name=run_name(name, values), group=name, values=values, recipe=recipe
                )
                check_name(cell.name)
                _check_size(next(iter(cells.values()), cell), cell)
                key = digest(recipe.to_dict())
                if key in cells:
                    raise UsageError(
                        f"the recipe is the same as at {' '.join(settings(cells[key].values))}. "
                        f"Leave one of them out."
                    )
            cells[key] = cell
        return tuple(cells.values())

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the evaluation that waits for each training."""
        # Reading the recipes imports their plug-ins, which may register metrics.
        return parse_metrics(self.chained if self.cells else ())

    @cached_property
    def origin(self) -> "StartingWeights | None":
        """The weights that the runs start from; None for new ones.

        Raises:
            UsageError: --partial goes with --from.
            CldError: as `StartingWeights.of`.
        """
        if self.weights is None:
            if self.partial:
                raise UsageError("--partial goes with --from. Leave it out.")
            return None
        from cld_core.importing import StartingWeights

        return StartingWeights.of(self.weights, self.root)

    @property
    def group(self) -> Group | None:
        """The runs of a sweep."""
        return Group(self.root, self.cells[0].group) if self.sweep else None

    def waits_for(self, cluster: Cluster) -> After | None:
        """The job that the trainings wait for; None without ``--after``.

        Raises:
            UsageError: ``after`` is not JOB or JOB:HOW, or jobs of the cluster cannot wait.
        """
        if self.after is None:
            return None
        job_id, colon, how = self.after.partition(":")
        if not colon:
            how = "ok"
        if not _JOB_ID.fullmatch(job_id) or how not in _AFTER:
            raise UsageError(
                f"--after '{self.after}': write the number of a job, and perhaps how it must end: "
                f"--after 1234, --after 1234:ok or --after 1234:any."
            )
        if not cluster.queues:
            raise UsageError(
                f"--after {self.after}: the cluster {cluster.name} has no queue in which a "
                f"training could wait for a job. Leave it out, or use another --cluster."
            )
        return After((JobRef(cluster=cluster.name, job_id=job_id),), _AFTER[how])

    def run(self, cell: RunCell | None = None) -> RunFolder:
        """The folder of a run; default: the first one."""
        return RunFolder(self.root / (cell or self.cells[0]).name)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Requested evaluations of a run, as typed on the command line.

    Attributes:
        named: further metrics, lists of names with commas; plug-ins may register them.
        samples: number of samples, or of test points if none are drawn; None for that of the
            recipe.
        sweep: settings of which each is evaluated, as "KEY=a,b,c".
        checkpoint: "last", "all" or a step.
        allow_plugin: whether code that others can write may run.
    """

    metrics: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    samples: int | None = None
    sweep: tuple[str, ...] = ()
    checkpoint: str = "last"
    shards: int | None = None
    allow_plugin: bool = False


def with_profile(profile: str | None, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a profile, followed by those of the command line, which take precedence.

    Raises:
        RecipeError: there is no such profile, or it cannot be read.
    """
    file = find_profile(profile)
    return tuple(overrides) if file is None else (*as_overrides(file), *overrides)


def axes_of(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of ``submit --sweep KEY=a,b,c`` options.

    Raises:
        UsageError: a text is not of this form, a key cannot be swept, a key or value is given
            twice, or there are too many cells.
    """
    for text in texts:
        key = text.partition("=")[0]
        if (why := _NOT_SWEPT.get(key.split(".")[0])) is not None:
            raise UsageError(f"--sweep '{key}': {why}.")
    axes = parse(texts, _SECTIONS, " `cldctl render RECIPE` lists the keys.", "train.seed=0,1,2")
    cells = len(combinations(axes))
    if cells > MAX_CELLS:
        raise UsageError(
            f"--sweep: {cells} runs are more than {MAX_CELLS} at once. "
            f"Sweep over fewer values, then add the others with the same --name."
        )
    return axes


def run_name(group: str, values: Mapping[str, str]) -> str:
    """The name of a run of a group, made of its values alone: toy-seed0-lr1e-4.

    Values that cannot be part of a name as they are, or could be read in two ways, are
    distinguished by a digest.
    """
    shorts = [key.rpartition(".")[2] for key in values]
    words = []
    is_plain = True
    for key, value in values.items():
        short = key.rpartition(".")[2]
        is_number = _NUMBER.fullmatch(value) is not None
        is_plain &= is_number or not (_UNUSABLE.search(value) or "-" in value)
        word = short if shorts.count(short) == 1 else key
        words.append(f"{word}{'' if is_number else '-'}{_UNUSABLE.sub('_', value)}")
    name = "-".join([group, *words])
    if is_plain and len(name) <= _MAX_NAME:
        return name
    mark = digest(dict(values))[:8]
    return f"{name[: _MAX_NAME - len(mark) - 1]}-{mark}"


def existing(options: SubmitOptions) -> dict[str, RunFolder]:
    """The runs of the group that exist already, by the name of their cell.

    Raises:
        UsageError: a name is taken by a run of no group, or of another; or a run was submitted with
            another recipe.
    """
    if options.group is None:
        return {}
    by_values = {meaning(values_of(run)): run for run in options.group.runs()}
    by_cell = {}
    for cell in options.cells:
        run = by_values.get(meaning(cell.values))
        if run is not None:
            _check_same(run, cell)
            _check_origin(run, options.origin)
            by_cell[cell.name] = run
        elif (other := options.run(cell)).exists:
            raise UsageError(
                f"{other.path}: a run of this name exists, and is not part of the group "
                f"{options.group.name}. Choose another --name."
            )
    return by_cell


def _check_same(run: RunFolder, cell: RunCell) -> None:
    """Raises UsageError if the run of a cell was submitted with other settings."""
    requested = _comparable(cell.recipe.anchored(Path.cwd()))
    submitted = _comparable(load_frozen(run.recipe_file))
    differing = _differing(submitted, requested)
    # The settings may also be those that `resume` has changed.
    if not differing or not _differing(_comparable(run.recipe()), requested):
        return
    texts = [f"{key}={to_yaml_line(submitted.get(key))}" for key in differing[:3]]
    raise UsageError(
        f"{run.name} exists, and was submitted with {', '.join(texts)}. "
        f"Use another --name, or the settings that the group was submitted with."
    )


def _check_origin(run: RunFolder, origin: "StartingWeights | None") -> None:
    """Raises UsageError if the run of a cell started from other weights."""
    stored = run.identity().get("started_from")
    if stored != (None if origin is None else origin.identity):
        words = "new weights" if stored is None else f"{stored['path']} at step {stored['step']}"
        raise UsageError(
            f"{run.name} exists, and started from {words}. "
            f"Use another --name, or the --from that the group was submitted with."
        )


def _comparable(recipe: Recipe) -> dict[str, object]:
    """By key, the settings that a training depends on: not `cluster`, nor the path of a plug-in."""
    values = leaves(recipe.to_dict())
    return {
        key: value
        for key, value in values.items()
        if key != "plugins" and not key.startswith("cluster.")
    }


def _differing(stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """The keys whose values differ in meaning.

    Null is the same as the default that it stands for: the shape of the data, or of attention.
    """

    def same(key: str) -> bool:
        pair = stored.get(key), wanted.get(key)
        if pair[0] == pair[1]:
            return True
        is_default = key in _OF_DATA or (key == "network.attention" and (ATTENTION,) in pair)
        return None in pair and is_default

    return [key for key in {**wanted, **stored} if not same(key)]


def _check_size(first: RunCell, cell: RunCell) -> None:
    if cell.recipe.cluster != first.recipe.cluster:
        expected = asdict(first.recipe.cluster)
        size = asdict(cell.recipe.cluster)
        keys = [f"cluster.{name}" for name, value in size.items() if value != expected[name]]
        raise UsageError(
            f"{', '.join(keys)} differs from that of {' '.join(settings(first.values))}: "
            f"the jobs of an array are all of the same size. Set it to one value."
        )


def settings(values: Mapping[str, str]) -> list[str]:
    """The values of a cell as overrides."""
    return [f"{key}={value}" for key, value in values.items()]


def require_inputs(recipe: Recipe, say: Say = lambda text: None) -> None:
    """Refuse a recipe whose data, loggers, or inputs of periodic evaluations are unusable.

    Loads torch if the network, diffusion, objective or data set is that of a plug-in, to run each
    once.

    Args:
        say: called with remarks about the data.

    Raises:
        UsageError
        RecipeError: data are not there or not usable, the network does not take them, a plug-in
            fails, or a logger's package is not installed.
    """
    recipe.monitor.require_installed()
    try:
        shape = store.require(recipe.data, say)
        if not is_shipped("data", recipe.data.name):
            from cld_core.data import source

            shape = source.require_usable(recipe)
    except DataError as error:
        # An error of the recipe, which names missing data, and not of a computation.
        key = "path" if isinstance(recipe.data, StoredDataSpec) else "name"
        raise RecipeError(f"'data.{key}': {error}") from error
    for name, _, problem in problems_of_shape(recipe, shape):
        raise RecipeError(f"'{name}' {problem}")
    if not is_shipped("network", recipe.network.name):
        from cld_core import nets

        nets.require_usable(recipe, shape)
    if not (is_shipped("sde", recipe.sde.name) and is_shipped("objective", recipe.objective.name)):
        from cld_core import loss

        loss.require_usable(recipe, shape)
    periodic_request(recipe, "fid")
    periodic_request(recipe, "elbo")


def require_native(recipe: Recipe, cluster: Cluster, say: Say) -> None:
    """Raises RecipeError if this machine's processor emulates the precision of the training.

    `train.emulated` allows it.
    """
    precision = recipe.train.precision
    if precision == "fp32" or recipe.cluster.uses_gpu:
        return
    if cluster.queues:
        say(
            f"{cpu.warning(precision, 'most processors')} unless those of the nodes have "
            f"instructions for it."
        )
    elif cpu.emulates(precision):
        warning = cpu.warning(precision)
        if not recipe.train.emulated:
            raise RecipeError(f"{warning}, or train.emulated=true.")
        say(f"{warning}.")


def refuse_twice(option: str, keys: Iterable[str], overrides: Iterable[str]) -> None:
    """Raises UsageError if an override sets one of the keys that an option has set."""
    for text in overrides:
        if text.partition("=")[0] in keys:
            raise UsageError(f"{option} and {text} set the same key. Leave one out.")


def network_evaluations(text: str) -> tuple[int, ...]:
    """The numbers of network evaluations that ``--nfe`` lists, in their order.

    Raises:
        UsageError: a number is not positive and whole, or is given twice.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not is_count(word) or int(word) < 1:
            raise UsageError(
                f"--nfe: '{word}' is not a number of network evaluations. Write --nfe 5,7,10."
            )
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--nfe {text} has a number twice. Remove one.")
    return numbers


def minutes(text: str) -> float | None:
    """The minutes of ``--budget``; None for no limit.

    Raises:
        UsageError: ``text`` is neither a number nor "none".
    """
    try:
        return None if text.strip() == "none" else float(text)
    except ValueError:
        raise UsageError(
            f"--budget {one_line(text)}: that is not a number of minutes. "
            f"Write a number of them, or none to set no limit."
        ) from None


@contextmanager
def named_as_typed(
    run: RunFolder, options: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """Make errors of recipes name the typed option rather than the key that it set, and the run.

    Args:
        options: the option of each key, such as "--nfe" of "sampling.nfe".
    """
    try:
        yield
    except UsageError as error:
        raise type(error)(as_typed(str(error), run, options)) from error


def as_typed(text: str, run: RunFolder, options: Mapping[str, str]) -> str:
    """A message of a recipe in the words of the command line; see `named_as_typed`."""
    for key, option in options.items():
        text = re.sub(
            rf"{COMMAND_LINE}(?:, and [^']*)?: '{re.escape(key)}' (?!is not a key)",
            f"{option} ",
            text,
        )
    return text.replace("`cldctl resume RUN ", f"`cldctl resume {run.name} ")
