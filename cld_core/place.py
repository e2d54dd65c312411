"""Where this process stands among the ranks of its job. Loads no torch: jobs ask before they load anything slow."""

import os
from dataclasses import dataclass

# Of torchrun, Open MPI, and MPICH or MVAPICH.
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_LOCAL_WORLD_SIZE = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


@dataclass(frozen=True)
class Place:
    """One process of a world of processes; the default is a process on its own.

    Attributes:
        rank: its number among all processes, from 0.
        local_rank: its number among those on the same machine, from 0.
        init_method: where the processes meet, see `torch.distributed.init_process_group`.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    init_method: str = "env://"

    @classmethod
    def from_environment(cls) -> "Place":
        """The place that torchrun or mpirun set in environment variables."""
        world_size = _first_of(_WORLD_SIZE, 1)
        return cls(
            rank=_first_of(_RANK, 0),
            world_size=world_size,
            local_rank=_first_of(_LOCAL_RANK, 0),
            local_world_size=_first_of(_LOCAL_WORLD_SIZE, world_size),
        )

    def export(self) -> None:
        """Set the variables that torchrun sets: plug-ins, and libraries that they use, read them."""
        place = (self.rank, self.world_size, self.local_rank, self.local_world_size)
        for (name, *_), value in zip((_RANK, _WORLD_SIZE, _LOCAL_RANK, _LOCAL_WORLD_SIZE), place, strict=True):
            os.environ[name] = str(value)


def _first_of(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
