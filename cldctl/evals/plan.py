"""From the command line to the requests of evaluations, all checked before anything starts."""

import contextlib
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cld_core.config import Recipe, describe, override, with_overrides
from cld_core.config.loader import to_yaml_line
from cld_core.config.sampling import TunedSpec
from cld_core.digests import digest
from cld_core.errors import CheckpointError, NotFoundError, UsageError, did_you_mean
from cld_core.evaluate.request import request_of
from cld_core.run import RunFolder
from cld_core.run.checkpoints import (
    DamagedCheckpoint,
    all_whole,
    newest_good,
    verify,
    weights_digest,
)
from cld_core.run.evaluations import Axis, EvalRequest, Sweep, SweepCell, current_report
from cld_core.sanitize import is_count, one_line

CHANGEABLE = ("eval", "sampling", "ema", "cluster", "plugins")
SWEEPABLE = ("sampling", "eval", "ema")
# The axis of an evaluation of several checkpoints.
CHECKPOINT = "checkpoint"
# Each is an evaluation with a folder of its own.
MAX_CELLS = 10_000


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluations to make, each once; ``sweep`` if they are the cells of a table."""

    requests: tuple[EvalRequest, ...]
    sweep: Sweep | None = None


def make(
    run: RunFolder,
    metrics: Sequence[str],
    steps: Sequence[int],
    overrides: Sequence[str],
    axes: Sequence[Axis] = (),
    shards: int | None = None,
) -> EvaluationPlan:
    """The requests of every checkpoint step and combination of settings. Imports the plug-ins of
    the run.

    Raises:
        UsageError: a combination is invalid, or needs something that is missing; names it. Or an
            axis has no effect.
        OSError: the stored averages cannot be listed.
        DataError: there is no test set.
    """
    if axes and len(steps) > 1:
        axes = (Axis(CHECKPOINT, tuple(map(str, steps))), *axes)
    base = run.recipe(with_plugins=True)
    requests: dict[str, EvalRequest] = {}
    cells = []
    # A cell whose sampler lacks the key of an axis shares its evaluation with the other values of
    # that axis. If methods are swept, some may also lack keys that are the same for all cells. An
    # axis with one value is a setting like any other.
    idle = [axis.key for axis in axes if len(axis.values) > 1]
    if "sampling.method" in idle:
        idle = [*(axis.key for axis in axes), *(text.partition("=")[0] for text in overrides)]
    for values in combinations(axes):
        settings = [f"{key}={value}" for key, value in values.items() if key != CHECKPOINT]
        with named(settings):
            recipe = recipe_for_evaluation(
                base, [*overrides, *settings], str(run.recipe_file), idle
            )
            for step in [int(values[CHECKPOINT])] if CHECKPOINT in values else steps:
                # Each step has a solution of its own.
                settled = with_solution(run, recipe, step)
                request = request_of(settled, metrics, step, shards or recipe.cluster.world_size)
                # A finished evaluation does not need the average any more.
                if current_report(run.evals / request.id) is None:
                    require_average(run, step, recipe.ema.length)
                requests.setdefault(request.id, request)
                cells.append(SweepCell(values, request.id))
    if not axes:
        return EvaluationPlan(tuple(requests.values()))
    sweep = Sweep(tuple(axes), tuple(cells))
    refuse_idle_axes(sweep)
    return EvaluationPlan(tuple(requests.values()), sweep)


def with_solution(run: RunFolder, recipe: Recipe, step: int) -> Recipe:
    """The recipe with the digest of the tuned solution that its sampler follows, if it does.

    Warns, once, if the network of that step is not the one that the solution was fitted to.

    Raises:
        UsageError: the run has no such solution.
        OSError: the checksum of the checkpoint cannot be read.
    """
    spec = recipe.sampling
    if not isinstance(spec, TunedSpec):
        return recipe
    from cld_core.run.tunings import Network, Solutions

    network = Network(
        step=step,
        checkpoint=weights_digest(run, step) or "",
        ema_length=recipe.ema.length,
        labels=recipe.data.labels,
    )
    solution = Solutions.of_run(run).followed(spec, network)
    assert solution is not None, "a tuned sampler has a solution"
    return replace(recipe, sampling=replace(spec, solution=solution.digest))


def recipe_for_evaluation(
    base: Recipe, overrides: Sequence[str], source: str, idle: Collection[str] = ()
) -> Recipe:
    """``base`` with overrides of an evaluation, whose relative paths are taken from the working
    directory.

    Args:
        source: what messages call ``base``.
        idle: keys that are ignored if the chosen sampler lacks them.

    Raises:
        UsageError: a key of another section.
        RecipeError: a value is invalid.
    """
    for text in overrides:
        key = text.partition("=")[0]
        if key.split(".")[0] not in CHANGEABLE:
            raise UsageError(
                f"'{key}' is not a key of an evaluation. "
                f"Those of {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} can be changed."
            )
    return changed_recipe(base, overrides, source, idle).anchored(Path.cwd())


def changed_recipe(
    base: Recipe, overrides: Sequence[str], source: str, idle: Collection[str] = ()
) -> Recipe:
    """The recipe of a run with overrides, except for the network, diffusion and data.

    Plug-ins are added to those of the run, or replace files of the same name; new ones are
    imported.

    Raises:
        RecipeError: a value is invalid.
    """
    new = with_overrides(base, beside_own(base, overrides), source, idle)
    return replace(new, network=base.network, sde=base.sde, data=base.data)


def beside_own(recipe: Recipe, overrides: Sequence[str]) -> list[str]:
    """Overrides whose `plugins` also list those of a recipe, except for files of the same name."""
    added: list[Any] = []
    for key, value in map(override, overrides):
        if key == "plugins":
            added += value if isinstance(value, list) else [value]
    others = [text for text in overrides if not text.startswith("plugins=")]
    if not added:
        return others
    names = {Path(str(plugin)).name for plugin in added}
    kept = [plugin for plugin in recipe.plugins if Path(plugin).name not in names]
    return [f"plugins={to_yaml_line([*kept, *added])}", *others]


def require_average(run: RunFolder, step: int, length: float | None) -> None:
    """Refuse a length of which no average can be made for a checkpoint, before anything starts.

    Raises:
        UsageError: says which lengths can be.
        OSError: what is stored cannot be listed.
    """
    if length is not None:
        from cld_core.average_profiles import mixture

        mixture(run, step, length)


def checkpoints(run: RunFolder, wanted: str) -> tuple[list[int], list[DamagedCheckpoint]]:
    """The steps that ``last``, ``all`` or a STEP means, and the damaged ones that were skipped.

    Raises:
        NotFoundError: there is no checkpoint, or not the named one.
        CheckpointError: the named checkpoint is damaged.
    """
    steps = run.checkpoint_steps()
    if not steps:
        raise NotFoundError(
            f"{run.name} has no checkpoint yet; its first is of {_first_checkpoint(run)}. "
            f"Wait for it, or if it does not train: `cldctl resume {run.name}`."
        )
    if wanted == "last":
        step, damaged = newest_good(run)
        whole = [] if step is None else [step]
    elif wanted == "all":
        whole, damaged = all_whole(run)
    elif is_count(wanted) and int(wanted) in steps:
        verify(run, int(wanted))
        return [int(wanted)], []
    else:
        raise NotFoundError(
            f"{run.name} has no checkpoint '{one_line(wanted)}'. "
            f"There are: {', '.join(map(str, steps))}; or use 'last' or 'all'."
        )
    if not whole and damaged:
        raise CheckpointError(f"{run.name} has no whole checkpoint: {damaged[0].reason}")
    if not whole:
        raise CheckpointError(
            f"{run.name} has no whole checkpoint: they were removed meanwhile. Try again."
        )
    return whole, [entry for entry in damaged if entry.finished]


def _first_checkpoint(run: RunFolder) -> str:
    """When a run saves first, in words."""
    train = run.recipe().train
    step = f"step {min(train.checkpoint_every, train.steps)}"
    if train.checkpoint_minutes is None:
        return step
    return f"{step}, or after {train.checkpoint_minutes:g} minutes"


@contextlib.contextmanager
def named(settings: Sequence[str]) -> Iterator[None]:
    """Make errors say at which combination of a sweep they occur."""
    try:
        yield
    except UsageError as error:
        if not settings:
            raise
        raise UsageError(f"--sweep, at {' '.join(settings)}: {error}") from error


# --- axes of sweeps


def parse(
    texts: Sequence[str],
    sections: Sequence[str] = SWEEPABLE,
    otherwise: str = " Submit several runs instead.",
    example: str = "sampling.nfe=20,50",
) -> tuple[Axis, ...]:
    """The axes of ``--sweep KEY=a,b,c`` options.

    Args:
        sections: those of the recipe whose keys can be swept.
        otherwise: what to do about another key.

    Raises:
        UsageError: one is not of this form or has a key of another section, or a key or value is
            given twice.
    """
    axes: list[Axis] = []
    for text in texts:
        keys = describe.keys()
        choices = [name for name in keys if name.partition(".")[0] in sections]
        key, equals, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not equals or not key or not all(values):
            raise UsageError(f"--sweep '{text}': write KEY=a,b,c, for example --sweep {example}.")
        if key.split(".")[0] not in sections:
            candidates = [f"{name}.{key}" for name in sections if f"{name}.{key}" in choices]
            guess = did_you_mean(key, candidates)
            raise UsageError(
                f"--sweep '{key}': only keys of {', '.join(sections[:-1])} and {sections[-1]} "
                f"can be swept.{guess or otherwise}"
            )
        if key not in choices:
            raise UsageError(f"--sweep '{key}': there is no such key.{did_you_mean(key, choices)}")
        if key in [axis.key for axis in axes]:
            raise UsageError(f"--sweep '{key}' is given twice. Put all its values into one.")
        if len(set(values)) < len(values):
            raise UsageError(f"--sweep '{text}' has a value twice. Remove one.")
        axes.append(Axis(key, values))
    if (cells := math.prod(len(axis.values) for axis in axes)) > MAX_CELLS:
        raise UsageError(
            f"--sweep: {cells} combinations are more than {MAX_CELLS}. Sweep over fewer values at "
            f"once."
        )
    return tuple(axes)


def combinations(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every choice of one value on each axis, the last axis changing fastest.

    Without axes, there is one empty choice.
    """
    keys = [axis.key for axis in axes]
    return [
        dict(zip(keys, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def meaning(values: Mapping[str, str]) -> str:
    """A digest of values by key, in which 1e-4 is the same as 0.0001, in any order of the keys."""
    return digest(dict(override(f"{key}={value}") for key, value in values.items()))


def refuse_idle_axes(sweep: Sweep) -> None:
    """Refuse an axis along which no evaluation differs.

    Raises:
        UsageError: the key of an axis has no effect on what is evaluated.
    """
    for axis in sweep.axes:
        if len(axis.values) == 1:
            continue
        # By the values on the other axes.
        evaluations: dict[tuple[str, ...], set[str]] = {}
        for cell in sweep.cells:
            others = tuple(value for key, value in cell.values.items() if key != axis.key)
            evaluations.setdefault(others, set()).add(cell.evaluation)
        if all(len(names) == 1 for names in evaluations.values()):
            raise UsageError(
                f"--sweep '{axis.key}' has no effect on what is evaluated here. Leave it out."
            )
