"""Health of the machines: checks before training, and slow or hanging ranks while training.

Each rank checks its own machine before the ranks meet: a rank whose GPU is lost could not even take
part in a collective. Then all of them add up numbers. No check draws random numbers or changes
anything that training depends on.
"""

import faulthandler
import math
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from cld_core import ranks as distributed
from cld_core.errors import UnfitError
from cld_core.files import passes
from cld_core.ranks import Ranks
from cld_core.rendezvous import Place

# Bytes of free memory that training needs: of the machine, and of a GPU.
HOST_BYTES = 256 * 2**20
GPU_BYTES = 512 * 2**20
# Seconds after which a check fails. Checks take a fraction of a second, except for the first use of
# a GPU, and of NCCL between many machines.
MEMORY_WITHIN_S = 10.0
GPU_WITHIN_S = 60.0
FOLDER_WITHIN_S = 30.0
SUM_WITHIN_S = 60.0
# The difference of clocks, in seconds, that causes a warning: expiry dates and times in logs would
# be wrong.
CLOCKS_S = 60.0
# Reports of the log (`train.log_every`) from one comparison of the ranks to the next.
EVERY = 5
# A straggler is a rank that is slower than the median in several comparisons in a row.
SLOWER = 1.3  # times the median, at least
BY_S = 0.005  # seconds, at least
IN_A_ROW = 3
# Upper ends of ranges of t, the same for all runs, so that their curves can be compared. The first
# range begins at 0.
ENDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# The names of the losses in these ranges: from and to.
RANGES = [f"loss_at_t/{start:g}_to_{end:g}" for start, end in zip((0.0, *ENDS), ENDS, strict=False)]
# Steps whose losses are kept before they are summed: summing a few numbers at each step would cost
# more.
_KEPT = 64
# Steps whose own times are kept.
_TIMED = 1000
_SIZE = 512  # rows and columns of the matrices, and numbers that are added up
_CONTENT = b"cldctl health check\n" * 200


# Returns what is wrong with this machine, for the reason of an `UnfitError`; None if nothing is.
Check = Callable[[], str | None]


def alone(folder: Path, place: Place, *, gpu: bool, allotted: bool, node: str) -> None:
    """Check the memory, the GPU, and whether this rank can write into the run folder.

    Args:
        gpu: GPUs were requested.
        allotted: a scheduler gave a GPU to this rank. Otherwise, a machine without a GPU computes
            on its CPU.
        node: the scheduler's name of this machine.

    Raises:
        UnfitError: one of the checks failed, or took too long.
    """

    def require(name: str, within_s: float, check: Check) -> None:
        if (problem := _within(within_s, check)) is not None:
            raise UnfitError(f"{node}: {name}: {problem}", name, {place.rank: node})

    require("memory", MEMORY_WITHIN_S, _memory)
    if gpu:
        require("gpu", GPU_WITHIN_S, lambda: _gpu(place, allotted))
    require("folder", FOLDER_WITHIN_S, lambda: _folder(folder, place.rank))


def together(ranks: Ranks, *, node: str) -> list[str]:
    """Check a sum over all ranks, and their clocks; returns warnings, on rank 0.

    Raises:
        UnfitError: a sum was wrong on some ranks, or took too long; on all ranks.
    """
    if ranks.world_size == 1:
        return []
    problem = _within(SUM_WITHIN_S, lambda: _sum(ranks))
    answers: list[tuple[str, str | None, float]] = [("", None, 0.0)] * ranks.world_size
    # All ranks leave the barrier at the same time, and only then read their clocks: a rank whose
    # sum took longer would seem to have a clock that is fast.
    dist.barrier(group=ranks.control)
    dist.all_gather_object(answers, (node, problem, time.time()), group=ranks.control)
    wrong = {rank: host for rank, (host, problem, _) in enumerate(answers) if problem is not None}
    if wrong:
        # If the sum is wrong on most ranks, the faulty machine is unknown.
        blamed = wrong if 2 * len(wrong) < ranks.world_size else {}
        where = ", ".join(sorted(set(blamed.values()))) or "one of the machines"
        _, problem, _ = answers[min(wrong)]
        raise UnfitError(f"{where}: all-reduce: {problem}", "all-reduce", blamed)
    if not ranks.is_first:
        return []
    median = statistics.median_low(clock for _, _, clock in answers)
    off = {host: clock - median for host, _, clock in answers if abs(clock - median) > CLOCKS_S}
    return [f"the clock of {host} is wrong by {seconds:+.0f} s" for host, seconds in off.items()]


def _within(seconds: float, check: Check) -> str | None:
    """What a check returns, in a thread of its own: a driver or a network file system may hang."""
    future: Future[str | None] = Future()

    def run() -> None:
        try:
            future.set_result(check())
        except BaseException as error:
            text = str(error).strip().partition("\n")[0]
            future.set_result(f"{type(error).__name__}: {text}")

    threading.Thread(target=run, name="health check", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        return f"no answer within {seconds:.0f} s"


def _memory() -> str | None:
    # Includes caches that the system gives up.
    free = psutil.virtual_memory().available
    return f"only {free // 2**20} MiB of memory are free" if free < HOST_BYTES else None


def _gpu(place: Place, allotted: bool) -> str | None:
    if not torch.cuda.is_available():
        lacks_one = allotted and torch.version.cuda is not None
        return "the job was given a GPU, and torch sees none" if lacks_one else None
    device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
    with torch.cuda.device(device):
        free, _ = torch.cuda.mem_get_info()
        if free < GPU_BYTES:
            return f"only {free // 2**20} MiB of GPU {device.index} are free"
        return product(device)


def product(device: torch.device) -> str | None:
    """Multiply two matrices of small whole numbers, and return what is wrong with the product.

    Every precision holds these numbers exactly.
    """
    rows = torch.arange(_SIZE, dtype=torch.int64)
    left = (rows[:, None] * 3 + rows[None, :] * 5) % 7 - 3
    right = (rows[:, None] * 2 + rows[None, :]) % 5 - 2
    result = (left.float().to(device) @ right.float().to(device)).cpu().to(torch.int64)
    wrong = int((result != left @ right).sum())
    return f"a matrix product has {wrong} wrong numbers of {result.numel()}" if wrong else None


def _folder(folder: Path, rank: int) -> str | None:
    """Write, read and delete a file. Errors that may pass, such as a full disk, are ignored."""
    file = folder / f".health_{rank}_{socket.gethostname()}_{os.getpid()}"
    try:
        file.write_bytes(_CONTENT)
        content = file.read_bytes()
        file.unlink()
    except OSError as error:
        return None if passes(error) else f"{folder} cannot be written: {error.strerror or error}"
    return None if content == _CONTENT else f"{folder}: a file has another content than was written"


def _sum(ranks: Ranks) -> str | None:
    """Add up numbers over all ranks, and return what is wrong with the sums."""
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    numbers = torch.arange(_SIZE, dtype=torch.float32, device=ranks.device) % 13
    shares = [rank % 7 + 1 for rank in range(ranks.world_size)]
    mine = numbers * shares[ranks.rank]
    dist.all_reduce(mine)
    wrong = int((mine != numbers * sum(shares)).sum())
    return f"{wrong} of {_SIZE} sums are wrong" if wrong else None


def join(
    folder: Path,
    place: Place,
    *,
    gpu: bool,
    timeout_s: float,
    allotted: bool,
    node: str,
    check: bool,
) -> Ranks:
    """Check this machine, join the other ranks, and check them together.

    Args:
        timeout_s: the seconds after which a silent rank is considered dead (`cld_core.ranks.join`).
        check: whether to check, `train.health_check`.

    Raises:
        UnfitError: a check failed.
    """
    began = time.perf_counter()
    node = node or socket.gethostname()
    if check:
        alone(folder, place, gpu=gpu, allotted=allotted, node=node)
    lone_s = time.perf_counter() - began
    ranks = distributed.join(place, gpu=gpu, timeout_s=timeout_s)
    if check:
        began = time.perf_counter()
        for warning in together(ranks, node=node):
            print(f"warning: {warning}", flush=True)
        if ranks.is_first:
            print(
                f"health check passed in {lone_s + time.perf_counter() - began:.2f} s", flush=True
            )
    return ranks


@dataclass
class Stragglers:
    """Compares the speed of the ranks, and on rank 0 names the slow ones.

    Attributes:
        hosts: the machine of each rank, on rank 0.
        in_a_row: by rank, in how many comparisons in a row it was slow.
    """

    ranks: Ranks
    hosts: Sequence[str]
    in_a_row: dict[int, int] = field(default_factory=dict)

    def compare(self, own_s: float) -> tuple[str, str | None] | None:
        """Compare the ranks. All of them must call this.

        Args:
            own_s: this rank's own time of a step (`Interval.take_own_time`); 0 without peers.

        Returns:
            On rank 0, if it has peers, a line for the log and a warning or None; else None.
        """
        seconds = self.ranks.gather(own_s)
        return None if seconds is None else self.judge(seconds)

    def judge(self, seconds: Sequence[float]) -> tuple[str, str | None] | None:
        """The line for the log, and the warning if any, for these times of the ranks."""
        # The lower of two middle times, so that with two ranks, the slow one is not the median.
        median = statistics.median_low(seconds)
        if median <= 0:
            return None
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        for rank, own in enumerate(seconds):
            is_slow = own > SLOWER * median and own - median > BY_S
            self.in_a_row[rank] = self.in_a_row.get(rank, 0) + 1 if is_slow else 0
        line = (
            f"own step time: median {_ms(median)}, slowest {self._named(slowest)} "
            f"{_ms(seconds[slowest])} ({seconds[slowest] / median:.1f}x), "
            f"fastest {_ms(min(seconds))}"
        )
        slow = [rank for rank, count in self.in_a_row.items() if count >= IN_A_ROW]
        if not slow:
            return line, None
        worst = max(slow, key=seconds.__getitem__)
        others = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
        warning = (
            f"{self._named(worst)} is slow: {seconds[worst] / median:.1f} times the median{others}"
        )
        return line, warning

    def _named(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


class Interval:
    """Losses over all ranks, skipped steps, waits for data, and this rank's own times of steps.

    Each is counted since it was last taken. Losses of skipped steps do not count: a step that
    overflows in the forward pass has a loss that is not finite on some rank. No step depends on
    these values.

    A rank's own time of a step ends where the ranks exchange gradients, and so wait for each other.
    It covers reading the batch and the forward pass, and with accumulation all but the last
    backward pass. On the CPU it is measured by the clock. On a GPU, where the host runs ahead, two
    events are recorded in the stream and read when they have passed, so it includes the GPU's waits
    for data. A rank without peers does not measure it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._is_timed = ranks.world_size > 1
        self._on_gpu = ranks.device.type == "cuda"
        self._ends = torch.tensor(ENDS[:-1], dtype=torch.float64, device=ranks.device)
        self._ranges = torch.arange(len(ENDS), device=ranks.device)
        # Sums and numbers of losses: of steps in the first column, of the examples in a range of t
        # in each of the others.
        self._sums = torch.zeros(2, 1 + len(ENDS), dtype=torch.float64, device=ranks.device)
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._steps = 0
        self._wait_s = 0.0
        # Seconds on the CPU, events on a GPU.
        self._began: Any = None
        self._own: deque[tuple[Any, Any]] = deque(maxlen=_TIMED)

    def begin(self) -> None:
        """Note that a step begins."""
        if self._is_timed:
            self._began = self._now()

    def exchange(self) -> None:
        """Note that this rank's own time of the step ends: the exchange of gradients follows."""
        if self._is_timed:
            self._own.append((self._began, self._now()))

    def count(
        self, loss: Tensor, skip: Tensor, t: Tensor, losses: Tensor, wait_s: float = 0.0
    ) -> None:
        """Count a step.

        Args:
            loss: this rank's loss, a scalar.
            skip: whether the losses do not count; a bool scalar on the device, the same on all
                ranks.
            t: this rank's times (B,); B is the same in every step.
            losses: the losses without weights at these times (B,).
            wait_s: seconds that the step waited for data.
        """
        self._steps += 1
        self._wait_s += wait_s
        self._kept.append((loss, t, losses, skip))
        if len(self._kept) == _KEPT:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._kept:
            return
        loss, t, losses, skips = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        good = ~skips
        counted = (torch.bucketize(t, self._ends)[..., None] == self._ranges) & good[:, None, None]
        # A skipped loss may be infinite, and infinity times 0 is not a number.
        loss = loss.double().masked_fill(skips, 0.0)
        values = losses.double()[..., None].masked_fill(~counted, 0.0)
        self._sums[:, 0] += torch.stack([loss.sum(), good.double().sum()])
        numbers = counted.double().sum((0, 1))
        self._sums[:, 1:] += torch.stack([values.sum((0, 1)), numbers])

    def take(self) -> dict[str, float]:
        """The mean losses, overall and by range of t, the wait for data, and the skipped steps.

        The wait is in seconds a step. The loss is missing if all steps were skipped, and so are
        ranges in which no t was drawn. Waits for the device and all ranks.
        """
        self._sum_up()
        totals, counts = self._ranks.sums(self._sums)
        named = zip(("loss", *RANGES), totals.tolist(), counts.tolist(), strict=True)
        scalars = {name: total / count for name, total, count in named if count}
        scalars["data_wait_s"] = self._wait_s / max(self._steps, 1)
        scalars["skipped_steps"] = self._steps - float(counts[0]) / self._ranks.world_size
        self._sums.zero_()
        self._steps = 0
        self._wait_s = 0.0
        return scalars

    def take_own_time(self) -> float:
        """The median of this rank's own times of steps, seconds; 0 if none was measured."""
        times = []
        for began, ended in self._own:
            if not self._on_gpu:
                times.append(ended - began)
            elif ended.query():
                times.append(began.elapsed_time(ended) / 1000)
        self._own.clear()
        return statistics.median(times) if times else 0.0

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Watchdog:
    """Prints all stacks and ends the process, unless it is reset within ``timeout_s`` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._set = -math.inf
        self.reset()

    def reset(self) -> None:
        """Note that there is progress; after `close`, start again."""
        now = time.monotonic()
        # Setting it starts a thread, so not at every step.
        if now - self._set > min(5.0, self._timeout_s / 4):
            self._set = now
            faulthandler.dump_traceback_later(
                self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr
            )

    def close(self) -> None:
        """Stop watching."""
        self._set = -math.inf
        faulthandler.cancel_dump_traceback_later()
