"""Places of the processes of a job, and the interfaces between machines. Loads no torch.

gloo, through which the ranks of a job exchange small messages, listens at the address of the
machine's own name. On Debian that is 127.0.1.1 by default, which no other machine can reach.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Names of interfaces for gloo, separated by commas; prefixes of names for NCCL, which chooses a
# suitable one by default.
GLOO = "GLOO_SOCKET_IFNAME"
NCCL = "NCCL_SOCKET_IFNAME"
# A port for looking up a route; nothing is sent to it.
_DISCARD = 9

# The variables of torchrun, Open MPI, and MPICH or MVAPICH, in this order.
_VARIABLES = {
    "rank": ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "world_size": ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "local_rank": ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "local_world_size": ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}


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
        values: Any = {
            name: int(os.environ[variable])
            for name, variables in _VARIABLES.items()
            # The first variable that is set comes last, and its value is kept.
            for variable in reversed(variables)
            if variable in os.environ
        }
        return cls(**{"local_world_size": values.get("world_size", 1), **values})

    def export(self) -> None:
        """Set the variables that torchrun sets, for plug-ins and their libraries."""
        for name, (variable, *_) in _VARIABLES.items():
            os.environ[variable] = str(getattr(self, name))


def meeting_host(init_method: str) -> str | None:
    """The host at which processes meet; None if they meet at a file, or if it is unknown."""
    if init_method.startswith("env://"):
        return os.environ.get("MASTER_ADDR")
    return urlsplit(init_method).hostname if init_method.startswith("tcp://") else None


def is_loopback(address: str) -> bool:
    """Whether an address, such as 127.0.1.1 or ::1, reaches this machine only."""
    return ipaddress.ip_address(address).is_loopback


def address_of(host: str) -> str | None:
    """The address that a host's name resolves to on this machine; None if it does not resolve."""
    try:
        (*_, where), *_ = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(where[0])


def source_towards(host: str) -> str | None:
    """The address of this machine from which it reaches a host on another one.

    None if the host has no address, there is no route, or the route does not leave this machine.
    """
    try:
        addresses = socket.getaddrinfo(host, _DISCARD, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, where in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # With UDP this looks up the route and sends nothing.
                probe.connect(where)
                own = str(probe.getsockname()[0])
                return None if is_loopback(own) else own
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
    return next(
        (name for name, own in interfaces.items() if wanted in map(ipaddress.ip_address, own)), None
    )
