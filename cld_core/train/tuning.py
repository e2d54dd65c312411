"""In which form the network trains fastest on this machine, found by timing when training starts.

Only what the recipe leaves to `auto` is chosen, and on GPUs only. First the memory formats and the forms of upsampling
are compared, uncompiled; then the best of them is compiled. All ranks time the same form at the same time: each has
then compiled what it needs, and the slowest counts.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cld_core import nets, sde, seeds
from cld_core.data.source import source
from cld_core.nets.resampling import upsampling_forms
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe
from cld_core.run import events
from cld_core.run.ledger import Ledger
from cld_core.stop import StopCode, StopFlag

from .forms import Choice, Compile, Options, Timings, compare
from .parallel import Autocast, prepare

# CUDA graphs are recorded in the second pass.
WARM_UP, PASSES = 4, 9
_MAX_REASON = 160  # characters


@dataclass(frozen=True)
class Card:
    """How to measure on a device.

    Attributes:
        name: its kind, such as "NVIDIA A100-SXM4-80GB".
        clock: seconds, read when the device has done what it was told.
        release: gives unused memory back to the device.
    """

    name: str
    clock: Callable[[], float]
    release: Callable[[], None]

    @classmethod
    def of(cls, device: torch.device) -> "Card | None":
        """None for a CPU, where nothing is measured."""
        if device.type != "cuda":
            return None
        return cls(torch.cuda.get_device_name(device), clock_of(device), _release)


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that waits for the device."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _release() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    # Training reports its own.
    torch.cuda.reset_peak_memory_stats()


class Stopped(Exception):
    """A rank was asked to stop while forms were compared."""


class Bench:
    """Times forward and backward passes of the recipe's network: of a copy, with random weights and data.

    It has the precision and the rows that a pass has in training, and as much memory is taken as there.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, card: Card, stop: StopFlag | None = None) -> None:
        self._train, self._ranks, self._card, self._stop = recipe.train, ranks, card, stop
        diffusion, shape = sde.build(recipe.sde), source(recipe.data).shape
        self.net = nets.build(recipe.network, data_shape=shape, halves_in=diffusion.n, halves_out=diffusion.m)
        self.rows = rows_of(recipe, ranks)
        noise = seeds.generator("tuning")
        self._u = torch.randn(self.rows, diffusion.n * shape[0], *shape[1:], generator=noise).to(ranks.device)
        self._t = torch.rand(self.rows, generator=noise).to(ranks.device)
        parameters = list(self.net.parameters())
        # The average of the weights and two moments.
        self._others = [torch.empty_like(it, device=ranks.device) for it in parameters for _ in range(3)]

    def take(self, choice: Choice, timings: Timings) -> None:
        """Measure one form on all ranks together.

        Raises:
            Stopped: a rank was asked to stop.
        """
        milliseconds, problem = 0.0, None
        try:
            milliseconds = self._milliseconds(choice)
        except Exception as error:
            problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:_MAX_REASON]
        self.net.zero_grad(set_to_none=True)
        if choice.compile != "eager":
            torch.compiler.reset()
        self._card.release()
        asked = self._stop is not None and self._stop.code is not StopCode.NONE
        reports = self._ranks.gather((milliseconds, problem, asked))
        slowest, problem, asked = self._ranks.from_first(None if reports is None else _joined(reports))
        if asked:
            raise Stopped
        if problem is None:
            timings.milliseconds[choice] = slowest
        else:
            timings.failed[choice] = problem

    def _milliseconds(self, choice: Choice) -> float:
        # The ranks exchange nothing: one that fails must not keep the others waiting.
        prepared: Any = prepare(self.net, self._train, self._ranks, choice, alone=True)
        model = Autocast(prepared, self._ranks.device, self._train, choice)
        taken, clock = [], self._card.clock
        with getattr(prepared, "no_sync", contextlib.nullcontext)():
            for _ in range(WARM_UP + PASSES):
                began = clock()
                model(self._u, self._t).square().mean().backward()
                taken.append(clock() - began)
                self.net.zero_grad(set_to_none=True)
        return 1e3 * statistics.median(taken[WARM_UP:])


def _joined(reports: list[tuple[float, str | None, bool]]) -> tuple[float, str | None, bool]:
    """Of all ranks, the slowest time, the first problem, and whether any was asked to stop."""
    times, problems, asked = zip(*reports, strict=True)
    return max(times), next((problem for problem in problems if problem is not None), None), any(asked)


def rows_of(recipe: Recipe, ranks: Ranks) -> int:
    """The examples that this rank computes at once."""
    share = ranks.rows(recipe.train.batch_size)
    rows: int = share.stop - share.start
    return min(recipe.train.micro_batch or rows, rows)


def _passes(recipe: Recipe, ranks: Ranks) -> int:
    """Forward and backward passes of this rank in a step."""
    share = ranks.rows(recipe.train.batch_size)
    return -(-(share.stop - share.start) // rows_of(recipe, ranks))


def options_of(recipe: Recipe, ranks: Ranks, net: nn.Module) -> Options:
    """What the recipe leaves to `auto`, and what ``net`` and the ranks allow."""
    train = recipe.train
    compiling: tuple[Compile, ...] = ("eager", "compiled")
    layouts: tuple[bool, ...] = (False, True) if recipe.network.images else (False,)
    if ranks.world_size == 1 and _passes(recipe, ranks) == 1:
        # Further passes of a step would overwrite its gradients, which are in the memory of the graphs.
        compiling = (*compiling, "graphs")
    if train.compile != "auto":
        compiling = ("compiled",) if train.compile else ("eager",)
    if train.channels_last != "auto":
        layouts = (train.channels_last,)
    return Options(compiling, layouts, upsampling_forms(net))


def place_of(recipe: Recipe, ranks: Ranks, card: Card) -> str:
    """What the speed of a form depends on; its choice is valid wherever this is the same."""
    train = recipe.train
    rows = f"{ranks.world_size} x {rows_of(recipe, ranks)} rows"
    parts = [card.name, f"torch {torch.__version__}", rows, train.precision, *(["tf32"] if train.tf32 else [])]
    return ", ".join(parts)


def decide(
    recipe: Recipe,
    ranks: Ranks,
    *,
    ledger: Ledger | None = None,
    stop: StopFlag | None = None,
    card: Card | None = None,
) -> Choice:
    """The form to train in, the same on all ranks; weights, gradients and random numbers stay as they are.

    Args:
        ledger: of the run, if there is one. What was found is written down there, and is not measured again at the
            same kind of place.
        stop: ends the comparison.
        card: instead of that of the ranks' device.
    """
    card = card or Card.of(ranks.device)
    if card is None:
        return Choice.plain(recipe.train)
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        bench = Bench(recipe, ranks, card, stop)
        options, where = options_of(recipe, ranks, bench.net), place_of(recipe, ranks, card)
        known: Choice | None = ranks.from_first(_known(ledger, where) if ranks.is_first else None)
        if known is not None and known in options:
            _say(ranks, f"{known}, as measured before on {where}")
            return known
        began = card.clock()
        try:
            choice, timings = compare(options, bench.take, recipe.train.steps * _passes(recipe, ranks))
        except Stopped:
            return Choice.plain(recipe.train)
        seconds = card.clock() - began
    if timings.milliseconds or timings.failed:
        _say(ranks, f"measured on {card.name}: {timings} -> {choice} (measuring took {seconds:.0f} s)")
    if ledger is not None and ranks.is_first and timings.milliseconds:
        ledger.append(_event(where, choice, timings, seconds))
    return choice


def _known(ledger: Ledger | None, where: str) -> Choice | None:
    event = None if ledger is None else ledger.history().measured.get(where)
    return None if event is None else Choice(event.compile, event.channels_last, event.upsampling)


def _event(where: str, choice: Choice, timings: Timings, seconds: float) -> events.Measured:
    return events.Measured(
        where=where,
        compile=choice.compile,
        channels_last=choice.channels_last,
        upsampling=choice.upsampling,
        milliseconds={str(form): round(ms, 3) for form, ms in timings.milliseconds.items()},
        failed={str(form): reason for form, reason in timings.failed.items()},
        seconds=round(seconds, 1),
    )


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        print(text, flush=True)
