"""Averages of the weights: those of other lengths, made of stored ones, and averages as trained."""

import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.testing import assert_close

from cld_core import averages
from cld_core.average_profiles import Basis, Profile, exponent, inner
from cld_core.averages import Ema, PowerAverages, averaged
from cld_core.checkpoint import checkpoints, read_tensors, snapshots
from cld_core.config.train import UNIFORM_LENGTH
from cld_core.errors import CheckpointError, UsageError
from cld_core.run.checkpoints import remove, snapshot_files, usable, weights_digest, weights_file
from tests.support.made_up import run_with
from tests.support.numeric import standard_normal
from tests.support.tools import same

STEPS, EVERY = 700, 20
LENGTHS = (0.05, 0.1)


def trajectory(steps, size=5, seed=0):
    """Weights after each step, (steps, size), float64: a trend, oscillations and a random walk."""
    noise = standard_normal(steps, size, seed=seed)
    s = torch.arange(1, steps + 1, dtype=torch.float64)[:, None]
    phases = torch.arange(size, dtype=torch.float64)
    return torch.exp(-3 * s / steps) + 0.3 * torch.sin(0.05 * s + phases) + 0.02 * noise.cumsum(0)


def brute_force(weights, length):
    """The average of weights (steps, size) in float64, from the weights that the paper's update
    gives each step."""
    decay = [(1.0 - 1.0 / t) ** (exponent(length) + 1.0) for t in range(1, len(weights) + 1)]
    share = np.array([(1.0 - decay[s]) * np.prod(decay[s + 1 :]) for s in range(len(decay))])
    return torch.from_numpy(share) @ weights


class Averaged:
    """A run whose weights follow a trajectory, with its averages, in float64 or another type.

    Attributes:
        net: one parameter, ``weight``.
        state: that of a checkpoint, of which only the averages are real.
    """

    def __init__(self, folder, lengths=LENGTHS, dtype=torch.float64, half=False):
        self.run = run_with(folder)
        self.net = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(5, dtype=dtype))})
        self.power = PowerAverages(self.net, lengths)
        self._snapshots = snapshots(self.run, half=half)
        self._checkpoints = checkpoints(self.run, keep=9)

    @property
    def state(self):
        weights = dict(self.net)
        state = {"model_digest": "mine", "model": weights, "power": self.power.state_dict()}
        return {**state, "ema": {"updates": 1, "average": weights}}

    def follow(self, weights, every, first=1):
        """Take steps from number ``first`` on, snapshots at multiples of ``every``, a checkpoint at
        the end."""
        for step, row in enumerate(weights, start=first):
            with torch.no_grad():
                self.net["weight"].copy_(row)
            self.power.update()
            if step % every == 0:
                self._snapshots.save(step, self.state)
        self._checkpoints.save(step, self.state)
        self._snapshots.wait()
        self._checkpoints.wait()


@pytest.fixture(scope="module")
def weights():
    return trajectory(STEPS)


@pytest.fixture(scope="module")
def whole(weights, tmp_path_factory):
    """One that no test changes."""
    return made(tmp_path_factory.mktemp("averages") / "mine", weights)


def made(path, weights, **options):
    result = Averaged(path, **options)
    result.follow(weights, EVERY)
    return result


def reconstructed(one, length, step=STEPS):
    found, error = averages.reconstructed(one.run, step, length, {"weight": one.net["weight"]})
    return found["weight"], error


def spread(weights):
    return float((weights - weights[-1]).square().mean().sqrt())


@pytest.mark.parametrize(
    ("length", "within"),
    [(0.02, 0.04), (0.03, 0.015), (0.1, 1e-6), (0.07, 2e-3), (0.15, 3e-3), (0.2, 0.01)],
)
def test_an_average_of_any_length_is_nearly_the_one_that_was_run(whole, weights, length, within):
    found, error = reconstructed(whole, length)
    assert error < within
    truth = brute_force(weights, length)
    # By Cauchy and Schwarz, for weights that change by their spread over a training.
    assert float((found - truth).abs().max()) < within * spread(weights)


def test_constant_weights_are_reproduced_however_bad_the_fit_is(tmp_path):
    one = made(tmp_path / "mine", torch.full((STEPS, 5), 3.25, dtype=torch.float64))
    found, error = reconstructed(one, 0.25)
    assert error > 0.01
    assert_close(found, torch.full((5,), 3.25, dtype=torch.float64), rtol=1e-9, atol=0)


def test_half_precision_costs_its_rounding(tmp_path, whole, weights):
    half = made(tmp_path / "half", weights, half=True)
    stored = read_tensors(half.run.snapshot_file(EVERY))["power"]["averages"]["0.05"]["weight"]
    assert stored.dtype == torch.float16
    difference = reconstructed(whole, 0.07)[0] - reconstructed(half, 0.07)[0]
    assert 0 < float(difference.abs().max()) < 2**-11 * float(weights.abs().max())


def test_values_beyond_half_precision_are_stored_in_full(tmp_path):
    one = made(tmp_path / "mine", torch.full((STEPS, 5), 1e6, dtype=torch.float64), half=True)
    assert reconstructed(one, 0.07)[0] == pytest.approx([1e6] * 5)


def test_damaged_and_lost_snapshots_are_made_up_for_and_told_of(tmp_path, weights, caplog):
    one = made(tmp_path / "mine", weights)
    whole, good = reconstructed(one, 0.07)
    assert not caplog.messages
    lost, cut, flipped = (one.run.snapshot_file(step) for step in (660, 640, 620))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    found, error = reconstructed(one, 0.07)
    assert good < error < 0.1
    assert float((found - whole).abs().max()) < error * spread(weights)
    assert [text.split(":")[0] for text in caplog.messages] == [
        "skipped the snapshot of averages of step 620",
        "EMA length 0.07",
    ]


def test_a_length_out_of_reach_is_refused_with_those_that_are_not(tmp_path, weights):
    one = made(tmp_path / "mine", weights)
    with pytest.raises(UsageError, match=r"ema\.length=0\.001 cannot be .* from 0\.01. to 0\.2"):
        reconstructed(one, 0.001)
    for file in snapshot_files(one.run):
        file.unlink()
    assert reconstructed(one, 0.05)[1] < 1e-6, "the checkpoint has what was tracked"
    with pytest.raises(UsageError, match=r"train\.ema_every"):
        reconstructed(one, 0.02)
    with pytest.raises(UsageError, match="the length of an average is a number above 0"):
        reconstructed(one, 0.5)


def test_a_checkpoint_without_averages_says_how_to_get_them(tmp_path, weights):
    one = made(tmp_path / "mine", weights, lengths=())
    with pytest.raises(UsageError, match=r"cldctl resume mine train\.ema_lengths=\[0\.05,0\.1\]"):
        reconstructed(one, 0.05)


def test_snapshots_of_another_beginning_do_not_count(tmp_path, weights):
    one = made(tmp_path / "mine", weights[:400])
    one.power.load_state_dict(None, 400)
    one.follow(weights[400:], EVERY, first=401)
    stored = usable(one.run, STEPS)
    assert [entry.step for entry in stored] == [*range(420, STEPS, EVERY), STEPS]
    found, error = reconstructed(one, 0.07)
    assert error < 0.01
    rest = weights[400:]
    assert float((found - brute_force(rest, 0.07)).abs().max()) < 0.01 * spread(rest)


def test_snapshots_of_another_recipe_do_not_count_and_tensors_of_another_network_are_refused(
    tmp_path, weights
):
    one = made(tmp_path / "mine", weights)
    sidecar = one.run.snapshot_file(660).with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace('"mine"', '"other"'))
    assert 660 not in [stored.step for stored in usable(one.run, STEPS)]
    for tensors in ({"weight": torch.zeros(4)}, {"other": torch.zeros(5)}):
        with pytest.raises(CheckpointError, match="not those of this network"):
            averages.reconstructed(one.run, STEPS, 0.07, tensors)


def test_an_average_is_made_once_and_again_if_its_file_is_damaged_or_its_snapshots_change(
    tmp_path, weights, monkeypatch
):
    one = made(tmp_path / "mine", weights)
    counted = Mock(side_effect=averages.reconstructed)
    monkeypatch.setattr(averages, "reconstructed", counted)

    def read():
        return averaged(one.run, STEPS, 0.07).tensors["weight"]

    first = read()
    file = weights_file(one.run, STEPS, 0.07)
    content = file.read_bytes()
    assert torch.equal(read(), first)
    assert counted.call_count == 1
    file.write_bytes(content[:-1] + b"?")
    assert torch.equal(read(), first)
    assert counted.call_count == 2
    assert file.read_bytes() == content
    before = weights_digest(one.run, STEPS, 0.07)
    one.run.snapshot_file(60).unlink()
    assert weights_digest(one.run, STEPS, 0.07) != before
    assert not torch.equal(read(), first)
    assert len({weights_digest(one.run, STEPS, length) for length in (None, 0.07, 0.1)}) == 3
    remove(one.run, STEPS)
    assert not file.exists()


def test_averages_are_those_of_the_definition(tmp_path):
    weights = trajectory(700)
    made = Averaged(tmp_path / "mine", (0.02, 0.1, 0.25))
    made.follow(weights, every=1000)
    for length, average in zip(made.power.lengths, made.power.averages, strict=True):
        assert_close(average[0], brute_force(weights, length), rtol=1e-11, atol=1e-12)


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
    assert_close(on_device.averages, on_host.averages)
    assert on_device.updates == on_host.updates == 3


def test_a_state_continues_to_the_last_bit_and_one_of_other_lengths_begins(tmp_path):
    weights = trajectory(60)
    whole, first, second = (
        Averaged(tmp_path / name, dtype=torch.float32) for name in ("whole", "first", "second")
    )
    whole.follow(weights, every=100)
    first.follow(weights[:25], every=100)
    second.power.load_state_dict(first.power.state_dict(), 25)
    second.follow(weights[25:], every=100, first=26)
    assert same(second.state, whole.state)
    turned = PowerAverages(second.net, LENGTHS[::-1])
    turned.load_state_dict(second.power.state_dict(), 60)
    assert same(turned.averages, second.power.averages[::-1]), "the order has no effect"
    others = PowerAverages(second.net, (0.05, 0.2))
    for state in (second.power.state_dict(), None, {}):
        others.load_state_dict(state, 60)
        assert (others.began, others.updates, others.begins) == (60, 0, True)


def density(profile, s):
    return stats.powerlaw(exponent(profile.length) + 1, scale=profile.updates).pdf(s)


@pytest.mark.parametrize("length", np.geomspace(1e-4, 0.9999 * UNIFORM_LENGTH, 20))
def test_a_length_is_the_standard_deviation_of_its_profile(length):
    assert stats.powerlaw(exponent(length) + 1).std() == pytest.approx(length, rel=1e-6)
    gamma = exponent(length)
    assert length**2 * (gamma + 2) ** 2 * (gamma + 3) == pytest.approx(gamma + 1, rel=1e-11)


@pytest.mark.parametrize("length", [0.0, -0.1, UNIFORM_LENGTH, 1.0, math.nan])
def test_what_is_no_length_is_refused(length):
    with pytest.raises(ValueError, match=r"a relative length is between 0 and 0\.2887"):
        exponent(length)


@pytest.mark.parametrize(
    "pair", [((0.05, 400), (0.1, 250)), ((0.02, 90), (0.2, 800)), ((0.1, 70), (0.1, 70))]
)
def test_inner_products_are_those_of_quadrature(pair):
    a, b = (Profile(*one) for one in pair)
    end = min(a.updates, b.updates)
    found, _ = integrate.quad(
        lambda s: density(a, s) * density(b, s), 0, end, epsabs=0, epsrel=1e-11
    )
    products = inner([a, b], [a, b])
    assert products[0, 1] == pytest.approx(found, rel=1e-9)
    assert np.array_equal(products, products.T)


def profiles(count):
    ends = [1000 * number // count for number in range(1, count + 1)]
    return [Profile(length, end) for end in ends for length in (0.05, 0.1)]


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_error_of_a_sum_is_the_distance_of_profiles(length):
    """The distance is that on a fine grid. No other sum that keeps constants is nearer."""
    stored = profiles(20)
    wanted = Profile(length, 1000)
    weights, error = Basis(stored).fit(wanted)
    assert weights.sum() == pytest.approx(1.0, rel=1e-9)
    s = (np.arange(20_000) + 0.5) / 20
    rows = np.stack([density(profile, s) for profile in stored])
    target = density(wanted, s)

    def distance(weights):
        return np.linalg.norm(weights @ rows - target) / np.linalg.norm(target)

    assert error == pytest.approx(distance(weights), rel=1e-2)
    for change in 1e-2 * np.random.default_rng(0).normal(size=(20, len(stored))):
        assert distance(weights + change - change.mean()) > distance(weights)


def test_more_snapshots_reach_more_lengths():
    errors = [Basis(profiles(count)).fit(Profile(0.02, 1000))[1] for count in (5, 20, 50)]
    assert errors[0] > 0.2 > 0.1 > errors[1] > 0.05 > 0.02 > errors[2]


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
