"""The ranks of one job, and how they talk to each other."""

import datetime
import os
import resource
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .errors import UsageError
from .place import Place
from .ranges import share

_FILE = "file://"


@dataclass(frozen=True)
class Ranks(Place):
    """This process among its peers.

    Attributes:
        control: a gloo group for small messages on the CPU; None if this process talks to no other one.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: "dist.ProcessGroup | None" = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def lacks_gpu(self, wanted: bool) -> str | None:
        """A warning if GPUs were requested and this process has none."""
        if not wanted or self.device.type == "cuda":
            return None
        text = f"torch {torch.__version__} sees none on {socket.gethostname()}, so this runs on the CPU"
        return f"GPUs were requested, but {text}. `cldctl doctor` checks both"

    def rows(self, batch: int) -> slice:
        """This rank's share of a global batch of ``batch`` rows; shares differ by at most one row.

        Raises:
            UsageError: the batch has fewer rows than there are ranks.
        """
        if batch < self.world_size:
            text = f"a batch of {batch} cannot be divided among {self.world_size} ranks"
            raise UsageError(f"{text}. Raise train.batch_size.")
        return slice(*share(batch, self.rank, self.world_size))

    def from_first(self, value: Any = None) -> Any:
        """The value that rank 0 passes, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def mean(self, value: float) -> float:
        """The mean of one number over the ranks."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return float(tensor) / self.world_size

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks in rank order, on rank 0; None on the others."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, box, dst=0, group=self.control)
        return box

    def leave(self) -> None:
        """Leave the other ranks. Rank 0 removes the file that they met at, if it was a file."""
        if self.control is None:
            return
        try:
            dist.destroy_process_group()
        finally:
            if self.is_first and self.init_method.startswith(_FILE):
                # Left behind, it would mislead a job of the same id.
                Path(self.init_method.removeprefix(_FILE)).unlink(missing_ok=True)


def join(place: Place, *, gpu: bool, timeout_s: float = 600.0) -> Ranks:
    """Meet the other ranks at ``place.init_method``.

    Args:
        gpu: compute on a GPU and talk through NCCL, if torch sees one.
        timeout_s: seconds after which a collective operation fails.
    """
    ranks = alone(place, gpu=gpu)
    if ranks.world_size == 1:
        return ranks
    limit = datetime.timedelta(seconds=timeout_s)
    dist.init_process_group(
        "nccl" if ranks.device.type == "cuda" else "gloo",
        init_method=ranks.init_method,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=limit,
    )
    # Not the default group, even if that is gloo too: DDP's reductions and the stop flag must not queue up.
    return replace(ranks, control=dist.new_group(backend="gloo", timeout=limit))


def alone(place: Place, *, gpu: bool) -> Ranks:
    """The process at ``place`` with its device, without meeting the others; on a GPU if wanted and torch sees one.

    Sets `RANK` and the other environment variables of torchrun (`Place.export`).
    """
    place.export()
    device = _device(gpu, place.local_rank)
    if device.type == "cpu" and place.local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_world_size))
    return Ranks(**vars(place), device=device)


def _device(gpu: bool, local_rank: int) -> torch.device:
    if not gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    # A scheduler may show each rank its own GPU only.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def peak_memory(device: torch.device) -> int:
    """The most memory held at once, in bytes: by tensors on a GPU, or by the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
