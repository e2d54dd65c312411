"""Which network interface of this machine leads to another one. Loads no torch: `cldctl doctor` asks from a node.

gloo, through which the ranks of a job exchange small messages, otherwise listens at the address of the machine's own
name. On Debian that is 127.0.1.1 unless somebody changed it, where no other machine can reach it.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import psutil

# Names of interfaces for gloo, separated by commas; prefixes of names for NCCL, which chooses well without it.
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
# Nothing is sent there: a route is looked up for some port.
_DISCARD = 9


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
    return _without_zone(str(where[0]))


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
                return _without_zone(probe.getsockname()[0])
        except OSError:
            continue
    return None


def interfaces() -> dict[str, list[str]]:
    """The IP addresses of each network interface of this machine."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [_without_zone(entry.address) for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }


def interface_with(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The name of the interface that has an address; None if none has."""
    wanted = ipaddress.ip_address(address)
    for name, addresses in interfaces.items():
        if any(ipaddress.ip_address(own) == wanted for own in addresses):
            return name
    return None


def _without_zone(address: str) -> str:
    """fe80::1 for fe80::1%eth0."""
    return address.partition("%")[0]
