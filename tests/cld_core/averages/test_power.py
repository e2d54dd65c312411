"""The power-function averages that training keeps: what they are, on host and device, and through checkpoints."""

import torch
from torch import nn

from cld_core.averages.power import PowerAverages
from tests.support.averaged import LENGTHS, Averaged, brute_force, trajectory
from tests.support.tools import same


def test_averages_are_those_of_the_definition(tmp_path):
    weights = trajectory(700)
    made = Averaged(tmp_path / "mine", (0.02, 0.1, 0.25))
    made.follow(weights, every=1000)
    for length, average in zip(made.power.lengths, made.power.averages, strict=True):
        torch.testing.assert_close(average[0], brute_force(weights, length), rtol=1e-11, atol=1e-12)


def test_the_device_skips_what_the_host_does_not_update():
    torch.manual_seed(0)
    net = nn.ModuleList(nn.Linear(2, 3) for _ in range(3))
    on_device, on_host = PowerAverages(net, LENGTHS), PowerAverages(net, LENGTHS)
    before = [[tensor.clone() for tensor in average] for average in on_device.averages]
    for number, skip in enumerate((True, False, True, False, False)):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        on_device.update(torch.tensor(skip))
        if number == 0:
            assert same(on_device.averages, before), "a first step that is skipped leaves no NaN"
        if not skip:
            on_host.update()
    torch.testing.assert_close(on_device.averages, on_host.averages)
    assert on_device.updates == on_host.updates == 3


def test_a_state_continues_to_the_last_bit_and_one_of_other_lengths_begins(tmp_path):
    weights = trajectory(60)
    whole, first, second = (Averaged(tmp_path / name, dtype=torch.float32) for name in ("whole", "first", "second"))
    whole.follow(weights, every=100)
    first.follow(weights[:25], every=100)
    second.power.load_state_dict(first.power.state_dict(), 25)
    second.follow(weights[25:], every=100, first=26)
    assert same(second.state, whole.state)
    others = PowerAverages(second.net, (0.05, 0.2))
    for state in (second.power.state_dict(), None, {}):
        others.load_state_dict(state, 60)
        assert (others.began, others.updates, others.begins) == (60, 0, True)


def test_the_order_of_lengths_does_not_matter():
    net = nn.Linear(2, 3)
    kept, turned = PowerAverages(net, (0.05, 0.1)), PowerAverages(net, (0.1, 0.05))
    for _ in range(3):
        kept.update()
        with torch.no_grad():
            net.weight.add_(1.0)
    turned.load_state_dict(kept.state_dict(), 3)
    assert turned.updates == 3
    assert same(turned.averages, kept.averages[::-1])
