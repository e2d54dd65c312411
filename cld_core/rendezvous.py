"""Where the processes of a job meet, before any of them loads torch: their places, and the interfaces between machines.

gloo, through which the ranks of a job exchange small messages, listens at the address of the machine's own name. On
Debian that is 127.0.1.1 unless somebody changed it, where no other machine can reach it.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

# Names of interfaces for gloo, separated by commas; prefixes of names for NCCL, which chooses well without it.
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
# Nothing is sent there: a route is looked up for some port.
_DISCARD = 9

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


def meeting_host(init_method: str) -> str | None:
    """The host at which processes meet; None if they meet at a file, or if the environment does not say where."""
    if init_method.startswith("env://"):
        return os.environ.get("MASTER_ADDR")
    return urlsplit(init_method).hostname if init_method.startswith("tcp://") else None


def is_loopback(address: str) -> bool:
    """Whether an address, such as 127.0.1.1 or ::1, reaches this machine only."""
    return ipaddress.ip_address(address).is_loopback


def address_of(host: str) -> str | None:
    """The address that a host's name resolves to here; None if it does not."""
    try:
        (*_, where), *_ = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(where[0])


def source_towards(host: str) -> str | None:
    """The address of this machine from which it reaches a host; None if the host has no address or there is no way."""
    try:
        found = socket.getaddrinfo(host, _DISCARD, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # With UDP this looks up the route and sends nothing.
                probe.connect(where)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def interfaces() -> dict[str, list[str]]:
    """The IP addresses of each network interface of this machine."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [entry.address for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }


def interface_with(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The name of the interface that has an address; None if none has."""
    wanted = ipaddress.ip_address(address)
    return next((name for name, own in interfaces.items() if wanted in map(ipaddress.ip_address, own)), None)


def _first_of(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
