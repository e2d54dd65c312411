"""The average of the weights: how much memory an update takes, and what it takes up."""

import pytest
import torch
from torch import nn

from cld_core.averages import Ema


def test_an_update_on_the_device_holds_few_changes_at_once_and_is_that_of_the_host(monkeypatch):
    torch.manual_seed(0)
    net = nn.ModuleList(nn.Linear(2, 3) for _ in range(70))
    on_device, on_host = Ema(net, 0.9), Ema(net, 0.9)
    sizes, real = [], torch._foreach_sub
    monkeypatch.setattr(torch, "_foreach_sub", lambda these, those: sizes.append(len(these)) or real(these, those))
    for skip in (False, True, False):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        on_device.update(torch.tensor(skip))
        if not skip:
            on_host.update()
    assert sizes == 3 * [64, 64, 12]
    torch.testing.assert_close(on_device.average, on_host.average)
    assert on_device.updates == on_host.updates == 2


def test_the_decay_ramps_up():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema = Ema(net, decay=0.5)
    nn.init.ones_(net.weight)
    ema.update()
    assert float(ema.average[0]) == pytest.approx(1 - 2 / 11)
    for _ in range(20):
        ema.update()
    before = float(ema.average[0])
    ema.update()
    assert 1 - float(ema.average[0]) == pytest.approx(0.5 * (1 - before), abs=1e-7)


def test_late_updates_are_as_precise_on_the_device():
    moved = []
    for skip in (None, torch.tensor(False)):
        net = nn.Linear(3, 4)
        nn.init.zeros_(net.weight)
        ema = Ema(net, decay=0.9999)
        ema.load_state_dict({**ema.state_dict(), "updates": 800_000})
        nn.init.ones_(net.weight)
        ema.update(skip)
        assert ema.state_dict()["updates"] == 800_001
        moved.append(ema.average[0])
    torch.testing.assert_close(*moved, rtol=1e-5, atol=0)
