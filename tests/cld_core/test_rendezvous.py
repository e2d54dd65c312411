"""Interfaces by their addresses, with made-up machines, and what is asked of the real one."""

import ipaddress

import pytest

from cld_core import rendezvous

MACHINE = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.7", "fe80::1"], "ib0": ["172.16.3.7", "fd00::0:7"]}


@pytest.mark.parametrize(
    ("init_method", "host"),
    [
        ("tcp://n1:29500", "n1"),
        ("tcp://[fd00::7]:29500", "fd00::7"),
        ("file:///runs/mine/logs/meeting", None),
        ("env://", "host1"),
    ],
)
def test_where_processes_meet(init_method, host, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host1")
    assert rendezvous.meeting_host(init_method) == host
    monkeypatch.delenv("MASTER_ADDR")
    assert rendezvous.meeting_host("env://") is None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.7", "eth0"),
        ("172.16.3.7", "ib0"),
        ("fd00::7", "ib0"),
        ("127.0.0.1", "lo"),
        ("10.0.0.8", None),
    ],
)
def test_the_interface_with_an_address(address, name):
    assert rendezvous.interface_with(address, MACHINE) == name


def test_this_machine():
    found = rendezvous.interfaces()
    assert "127.0.0.1" in found[rendezvous.interface_with("127.0.0.1", found)]
    assert rendezvous.source_towards("127.0.1.1") is None
    for addresses in found.values():
        for address in addresses:
            ipaddress.ip_address(address)
