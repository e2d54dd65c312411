"""The ranks of one job and what they say to each other."""

import datetime
import os
import resource
import socket
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from cld_core.data.order import rank_slice


@dataclass
class Ranks:
    """This process among its peers. ``control`` is a gloo group for small words on the CPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: "dist.ProcessGroup | None" = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def lacks_gpu(self, wanted: bool) -> str | None:
        """What to say where GPUs were asked for and this process has none."""
        if not wanted or self.device.type == "cuda":
            return None
        text = f"torch {torch.__version__} sees none on {socket.gethostname()}, so this runs on the CPU"
        return f"GPUs were asked for, but {text}. `cldctl doctor` looks at both"

    def rows(self, batch: int) -> slice:
        """This rank's share of a global batch of ``batch`` rows; shares differ by at most one row."""
        return rank_slice(batch, self.rank, self.world_size)

    def from_first(self, value: Any = None) -> Any:
        """The value that rank 0 passes, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier(group=self.control)

    def mean(self, value: float) -> float:
        """The mean over the ranks of one number."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return float(tensor) / self.world_size

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks in their order, on rank 0; None on the others."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, box, dst=0, group=self.control)
        return box

    def leave(self) -> None:
        """Take leave of the other ranks."""
        if dist.is_initialized():
            dist.destroy_process_group()


def join(*, gpu: bool, init_method: str = "env://", timeout_s: float = 600.0) -> Ranks:
    """Join the other ranks, as the environment variables of torchrun, Slurm (through submitit) or mpirun say.

    Args:
        gpu: work on a GPU and talk through NCCL, where torch sees one.
        init_method: where the ranks meet, see `torch.distributed.init_process_group`.
        timeout_s: how long a collective may take, seconds, before it fails.
    """
    ranks = alone(gpu=gpu)
    if ranks.world_size > 1:
        limit = datetime.timedelta(seconds=timeout_s)
        dist.init_process_group(
            "nccl" if ranks.device.type == "cuda" else "gloo",
            init_method=init_method,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=limit,
        )
        # Not the default group, even where that is gloo too: DDP's reductions and the stop flag must not queue up.
        ranks.control = dist.new_group(backend="gloo", timeout=limit)
    return ranks


def alone(*, gpu: bool) -> Ranks:
    """This process's place and device, without meeting the others; ``gpu``: a GPU, where torch sees one."""
    world_size = _from_environment("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", default=1)
    local_rank = _from_environment("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
    local_world_size = _from_environment(
        "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", default=world_size
    )
    device = _device(gpu, local_rank)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world_size))
    return Ranks(
        rank=_from_environment("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        device=device,
    )


def debugging(*, gpu: bool) -> Ranks:
    """This process as the only rank, whatever the environment says."""
    return Ranks(device=_device(gpu, 0))


def _device(gpu: bool, local_rank: int) -> torch.device:
    if not gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    # A scheduler may show each rank its own GPU only.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _from_environment(*names: str, default: int = 0) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def peak_memory(device: torch.device) -> int:
    """The most bytes that were held at once: of the GPU by tensors, or by the process where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
