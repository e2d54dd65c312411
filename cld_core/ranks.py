"""The ranks of one job, and how they talk to each other."""

import datetime
import math
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from . import rendezvous
from .errors import CldError, SaveError, UsageError
from .files import passes, system_error
from .rendezvous import Place
from .run.shards import share
from .stop import StopCode

T = TypeVar("T")
_FILE = "file://"
# Seconds that ranks wait for each other at least, because meeting, and loading and saving a
# checkpoint, take longer than a step.
_PATIENCE_S = 600.0
_NCCL_MONITOR = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"


class RankError(CldError):
    """Rank 0 could not continue, for a reason in its log. The exit code is that of rank 0."""

    def __init__(self, message: str, exit_code: int = CldError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: Exception) -> int:
    """The exit code of a process of a job: 75 (EX_TEMPFAIL) for a temporary error of the disk."""
    if passes(system_error(error) if isinstance(error, SaveError) else error):
        return os.EX_TEMPFAIL
    return getattr(error, "exit_code", CldError.exit_code)


@dataclass(frozen=True)
class Ranks(Place):
    """This process among its peers.

    Attributes:
        control: a gloo group for small messages on the CPU; None if there is no other process.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: "dist.ProcessGroup | None" = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def use_cores(self, cores: int | None) -> None:
        """On the CPU, compute in ``cores`` threads (`cluster.cpus_per_task`); None changes nothing.

        On a busy machine, the threads of a small network wait for each other most of the time.
        $OMP_NUM_THREADS takes precedence.
        """
        if cores is not None and self.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(cores)

    def lacks_gpu(self, wanted: bool) -> str | None:
        """A warning if GPUs were requested and this process has none."""
        if not wanted or self.device.type == "cuda":
            return None
        return (
            f"GPUs were requested, but torch {torch.__version__} sees none on "
            f"{socket.gethostname()}, so this runs on the CPU. `cldctl doctor` checks torch and "
            "the GPUs"
        )

    def rows(self, batch: int) -> slice:
        """This rank's share of a global batch of ``batch`` rows; shares differ by at most one row.

        Raises:
            UsageError: the batch has fewer rows than there are ranks.
        """
        if batch < self.world_size:
            raise UsageError(
                f"a batch of {batch} cannot be divided among {self.world_size} ranks. Raise "
                "train.batch_size."
            )
        return slice(*share(batch, self.rank, self.world_size))

    def on_first(self, work: Callable[[], T]) -> T:
        """Call ``work`` on rank 0, while the others wait; all return what it returns.

        Raises:
            RankError: on the other ranks, if ``work`` failed. Rank 0 raises the error of ``work``.
        """
        if self.world_size == 1:
            return work()
        # The result of ``work``, and the error that the other ranks raise.
        outcome: list[Any] = [None, None]
        problem: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:
                problem = error
                outcome[1] = RankError(f"rank 0 could not continue: {error}", exit_code(error))
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        result, failure = outcome
        if failure is not None:
            raise problem or failure
        return cast(T, result)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of tensors of one shape over the ranks, float64, on the CPU."""
        total = values.to("cpu", torch.float64, copy=True)
        if self.world_size > 1:
            dist.all_reduce(total, group=self.control)
        return total

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks in rank order, on rank 0; None on the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self.control)
        return values

    def leave(self) -> None:
        """Leave the other ranks. Rank 0 removes the file that they met at, if it was a file."""
        if self.control is None:
            return
        try:
            dist.destroy_process_group()
        finally:
            if self.is_first and self.init_method.startswith(_FILE):
                # It would mislead a later job of the same id.
                Path(self.init_method.removeprefix(_FILE)).unlink(missing_ok=True)


class Consensus:
    """The most important of all ranks' reasons to stop: one integer that they exchange each step.

    Its lowest bit is set to save without a stop, which only rank 0 requests; a stop always saves.
    The exchange runs on the CPU (gloo) during the step's computation, so no GPU waits for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._value = torch.zeros((), dtype=torch.int64)
        self._work: dist.Work | None = None

    def begin(self, code: StopCode, *, saves: bool = False) -> None:
        """Hand in this rank's reason, and whether to save, at the start of a step."""
        self._value.fill_(2 * int(code) + int(saves))
        if self._ranks.world_size > 1:
            self._work = dist.all_reduce(
                self._value, op=dist.ReduceOp.MAX, group=self._ranks.control, async_op=True
            )

    def result(self) -> StopCode:
        """The reason that all ranks see, the same on each, at the end of the step."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return StopCode(int(self._value) // 2)

    @property
    def saves(self) -> bool:
        """Whether all ranks are to save after the step, once there is a `result` without a stop."""
        return int(self._value) % 2 == 1


def join(place: Place, *, gpu: bool, timeout_s: float) -> Ranks:
    """Meet the other ranks at ``place.init_method``.

    Args:
        gpu: compute on a GPU and talk through NCCL, if torch sees one.
        timeout_s: seconds without a message after which a rank is considered dead,
            `train.hang_timeout_s`; groups of ranks wait at least 10 minutes. The time for which a
            scheduler suspends the job counts.
    """
    ranks = alone(place, gpu=gpu)
    if ranks.world_size == 1:
        return ranks
    patience_s = max(timeout_s, _PATIENCE_S)
    limit = datetime.timedelta(seconds=patience_s)
    if ranks.device.type == "cuda":
        # NCCL's monitor, whose default limit is 8 minutes, aborts a job that was suspended for
        # longer.
        os.environ.setdefault(_NCCL_MONITOR, str(math.ceil(patience_s)))
    store, *_ = next(
        dist.rendezvous(ranks.init_method, ranks.rank, ranks.world_size, timeout=limit)
    )
    store.set_timeout(limit)
    _let_gloo_be_reached(ranks, store)
    dist.init_process_group(
        "nccl" if ranks.device.type == "cuda" else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=limit,
    )
    # A group of its own, even if the default one is gloo, too: the stop flag must not wait for
    # DDP's reductions.
    return replace(ranks, control=dist.new_group(backend="gloo", timeout=limit))


def _let_gloo_be_reached(ranks: Ranks, store: "dist.Store") -> None:
    """If the ranks are on several machines, let gloo use the interface that leads to the others.

    It is the one that leads to the meeting point, or, on the machine of the meeting point, to
    another rank.
    """
    host = rendezvous.meeting_host(ranks.init_method)
    if ranks.world_size == ranks.local_world_size or host is None:
        return
    own = rendezvous.source_towards(host)
    # The others may need it, even if a variable names the interface of this rank.
    store.set(f"cldctl/address/{ranks.rank}", own or "")
    if rendezvous.GLOO in os.environ:
        return
    if own is None:
        addresses = (
            store.get(f"cldctl/address/{rank}").decode() for rank in range(ranks.world_size)
        )
        other = next(filter(None, addresses), None)
        own = None if other is None else rendezvous.source_towards(other)
    name = None if own is None else rendezvous.interface_with(own, rendezvous.interfaces())
    if name is not None:
        os.environ[rendezvous.GLOO] = name


def alone(place: Place, *, gpu: bool) -> Ranks:
    """The process at ``place`` with its device, without meeting the others.

    Its device is a GPU if ``gpu`` is set and torch sees one. Sets `RANK` and the other environment
    variables of torchrun (`Place.export`).
    """
    place.export()
    device = torch.device("cpu")
    if gpu and torch.cuda.is_available():
        # A scheduler may show each rank its own GPU only.
        device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    elif place.local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_world_size))
    return Ranks(**vars(place), device=device)


def peak_memory(device: torch.device) -> int:
    """The peak memory in bytes: of tensors on a GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
