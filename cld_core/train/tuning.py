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
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cld_core import nets, sde, seeds
from cld_core.config import Recipe
from cld_core.data.source import classes_of, source
from cld_core.nets.resampling import upsampling_forms
from cld_core.ranks import Ranks
from cld_core.run import Lease
from cld_core.run.ledger import Ledger
from cld_core.stop import StopCode, StopFlag

from .forms import Choice, Compile, Options, Timings, compare
from .notes import DIED, Notes
from .parallel import Autocast, prepare

T = TypeVar("T")

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
    """A rank was asked to stop while forms were compared; ``code`` says why, the same on all ranks."""

    def __init__(self, code: StopCode) -> None:
        super().__init__(code)
        self.code = code


class _Setup(NamedTuple):
    """What forms are tried on; ``others`` only takes memory."""

    net: nn.Module
    u: Tensor
    t: Tensor
    others: list[Tensor]


class Bench:
    """Times forward and backward passes of the recipe's network: of a copy, with random weights and data.

    It has the precision and the rows that a pass has in training, and as much memory is taken as there. All of that is
    built for the first form.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, card: Card, stop: StopFlag | None = None) -> None:
        self._recipe, self._ranks, self._card, self._stop = recipe, ranks, card, stop
        self._setup: _Setup | None = None

    def take(self, choice: Choice, timings: Timings) -> None:
        """Measure one form on all ranks together.

        Raises:
            Stopped: a rank was asked to stop.
        """
        # Nothing may raise on one rank only: the others wait for its report.
        milliseconds, problem = _tried(lambda: self._milliseconds(choice))
        # Not while an error is handled: it keeps the memory of the pass.
        _, trouble = _tried(lambda: self._clean_up(choice))
        asked = StopCode.NONE if self._stop is None else self._stop.code
        reports = self._ranks.gather((milliseconds or 0.0, problem or trouble, asked))
        slowest, problem, asked = self._ranks.from_first(None if reports is None else _joined(reports))
        if asked is not StopCode.NONE:
            raise Stopped(asked)
        if problem is None:
            timings.milliseconds[choice] = slowest
        else:
            timings.failed[choice] = problem

    def _milliseconds(self, choice: Choice) -> float:
        if self._setup is None:
            self._setup = _set_up(self._recipe, self._ranks)
        net, u, t, _ = self._setup
        train = self._recipe.train
        # The ranks exchange nothing: one that fails must not keep the others waiting.
        prepared: Any = prepare(net, train, self._ranks, choice, alone=True)
        model = Autocast(prepared, self._ranks.device, train, choice)
        taken, clock = [], self._card.clock
        with getattr(prepared, "no_sync", contextlib.nullcontext)():
            for _ in range(WARM_UP + PASSES):
                began = clock()
                model(u, t).square().mean().backward()
                taken.append(clock() - began)
                net.zero_grad(set_to_none=True)
        return 1e3 * statistics.median(taken[WARM_UP:])

    def _clean_up(self, choice: Choice) -> None:
        if self._setup is not None:
            self._setup.net.zero_grad(set_to_none=True)
        if choice.compile != "eager":
            torch.compiler.reset()
        self._card.release()


def _set_up(recipe: Recipe, ranks: Ranks) -> _Setup:
    rows, noise = rows_of(recipe, ranks), seeds.generator("tuning")
    diffusion, shape = sde.build(recipe.sde), source(recipe.data).shape
    net = _network(recipe, "cpu")
    u = torch.randn(rows, diffusion.n * shape[0], *shape[1:], generator=noise).to(ranks.device)
    t = torch.rand(rows, generator=noise).to(ranks.device)
    # The average of the weights and two moments.
    others = [torch.empty_like(it, device=ranks.device) for it in net.parameters() for _ in range(3)]
    return _Setup(net, u, t, others)


def _network(recipe: Recipe, device: str) -> nn.Module:
    diffusion, data = sde.build(recipe.sde), source(recipe.data)
    sizes = {"halves_in": diffusion.n, "halves_out": diffusion.m, "classes": len(classes_of(data) or ())}
    with torch.device(device):
        return nets.build(recipe.network, data_shape=data.shape, **sizes)


def _tried(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """The result of ``work``, or why there is none."""
    try:
        return work(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:_MAX_REASON]


def _joined(reports: list[tuple[float, str | None, StopCode]]) -> tuple[float, str | None, StopCode]:
    """Of all ranks, the slowest time, the first problem, and why to stop."""
    times, problems, asked = zip(*reports, strict=True)
    return max(times), next((problem for problem in problems if problem is not None), None), max(asked)


def rows_of(recipe: Recipe, ranks: Ranks) -> int:
    """The examples that this rank computes at once."""
    share = ranks.rows(recipe.train.batch_size)
    rows: int = share.stop - share.start
    return min(recipe.train.micro_batch or rows, rows)


def _passes(recipe: Recipe, ranks: Ranks) -> int:
    """Forward and backward passes of this rank in a step."""
    share = ranks.rows(recipe.train.batch_size)
    return -(-(share.stop - share.start) // rows_of(recipe, ranks))


def options_of(recipe: Recipe, ranks: Ranks) -> Options:
    """What the recipe leaves to `auto`, and what its network and the ranks allow."""
    train = recipe.train
    compiling: tuple[Compile, ...] = ("eager", "compiled")
    layouts: tuple[bool, ...] = (False, True) if recipe.network.images else (False,)
    if ranks.world_size == 1 and _passes(recipe, ranks) == 1:
        # Gradients are in the memory of the graphs. Further passes of a step would overwrite them, and DDP's reductions
        # would read them there, beside the replay; that has not been tried on a card.
        compiling = (*compiling, "graphs")
    if train.compile != "auto":
        compiling = ("compiled",) if train.compile else ("eager",)
    if train.channels_last != "auto":
        layouts = (train.channels_last,)
    # Looked at only, so it needs no memory.
    return Options(compiling, layouts, upsampling_forms(_network(recipe, "meta")))


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
    lease: Lease | None = None,
    stop: StopFlag | None = None,
    card: Card | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> Choice:
    """The form to train in, the same on all ranks; weights, gradients and random numbers stay as they are.

    Args:
        ledger: of the run, if there is one. What was found is written down there, and is not measured again at the
            same kind of place.
        lease: of the run, on rank 0 alone: nothing is written once another job holds it.
        stop: ends the comparison.
        card: instead of that of the ranks' device.
        heartbeat: called before each form.

    Raises:
        Stopped: a rank was asked to stop.
        LeaseLostError: another job owns the run folder; RankError on ranks other than the first.
    """
    card = card or Card.of(ranks.device)
    # A run that is to be repeatable does not leave its form to a stopwatch.
    if card is None or recipe.train.on_resume == "exact":
        return Choice.plain(recipe.train)
    notes = Notes(ranks, place_of(recipe, ranks, card), ledger, lease)
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        options, passes = options_of(recipe, ranks), recipe.train.steps * _passes(recipe, ranks)
        known = notes.known(options, passes)
        if known is not None:
            _say(ranks, f"{known}, as measured before on {notes.where}")
            return known
        began = time.monotonic()
        choice, timings = compare(options, _noted(Bench(recipe, ranks, card, stop), notes, heartbeat), passes)
        seconds = time.monotonic() - began
    if timings.milliseconds or timings.failed:
        _say(ranks, f"measured on {card.name}: {timings} -> {choice} (measuring took {seconds:.0f} s)")
        notes.end(choice, timings, seconds)
    return choice


def _noted(bench: Bench, notes: Notes, heartbeat: Callable[[], None]) -> Callable[[Choice, Timings], None]:
    """`Bench.take`, which skips forms that end the process, and notes that it begins one that might."""
    deadly = notes.deadly()

    def take(choice: Choice, timings: Timings) -> None:
        heartbeat()
        if str(choice) in deadly:
            timings.failed[choice] = DIED
            return
        if choice.compile != "eager":
            notes.begin(choice)
        bench.take(choice, timings)

    return take


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        print(text, flush=True)
