"""The networks for toy data: inputs, shapes, how their layers are computed on CPUs; and labels in
all networks."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets
from cld_core.config.network import MlpSpec, NcsnppSpec, ResnetSpec
from cld_core.errors import RecipeError
from cld_core.nets import mlp
from cld_core.nets.execution import Compiled


def built(spec, d=2, n=2, m=1):
    return nets.build(spec, data_shape=(d,), halves_in=n, halves_out=m)


@pytest.mark.parametrize("time_input", ["raw", "log", "fourier"])
def test_every_form_of_the_time_gives_finite_results_and_gradients(time_input):
    net = built(MlpSpec(time_input=time_input))
    out = net(torch.randn(5, 4), torch.tensor([1e-5, 1e-3, 0.1, 0.5, 1.0]))
    assert out.shape == (5, 2)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_features_are_waves_of_the_position_alone():
    """2 pi f x, with x the first half of u; the frequencies have the standard deviation of the
    recipe."""
    net = built(MlpSpec(width=16, layers=3, input_features=4000, input_scale=3.0))
    u = torch.randn(5, 4)
    sines, cosines = net._position_features(u)
    phase = 2 * math.pi * u[:, :2] @ net.frequencies.T
    assert_close(sines, phase.sin())
    assert_close(cosines, phase.cos())
    assert net.frequencies.std().item() == pytest.approx(3.0, rel=0.05)
    moved = u + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert torch.equal(net._position_features(moved)[0], sines)
    assert net.main[0].weight.shape == (16, 4 + 2 * 4000 + 1)


def test_frequencies_follow_the_seed_and_belong_to_the_state():
    def made(seed):
        torch.manual_seed(seed)
        return built(MlpSpec(input_features=8))

    first, other = made(0), made(1)
    assert torch.equal(first.frequencies, made(0).frequencies)
    assert not torch.equal(first.frequencies, other.frequencies)
    other.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first.frequencies, other.frequencies)


def test_without_features_the_network_is_the_published_one():
    """No tensor more, and no random number less: its weights are what the seed makes of its layers
    alone."""
    torch.manual_seed(0)
    net = built(MlpSpec(layers=2, width=16))
    torch.manual_seed(0)
    first = torch.nn.Linear(5, 16)
    assert torch.equal(net.main[0].weight, first.weight)
    assert list(net.state_dict()) == [
        "main.0.weight",
        "main.0.bias",
        "main.2.weight",
        "main.2.bias",
    ]


@pytest.mark.parametrize("spec", [MlpSpec(width=16, layers=3), ResnetSpec(width=16, layers=4)])
def test_any_number_of_halves_goes_in_and_out(spec):
    for d, n, m in ((3, 1, 1), (2, 2, 2), (2, 3, 1)):
        assert built(spec, d, n, m)(torch.randn(4, n * d), torch.rand(4)).shape == (4, m * d)


@pytest.mark.parametrize("rows", [1, 17, 2500])
def test_without_gradients_the_result_is_the_same_to_rounding(rows, monkeypatch):
    net = built(MlpSpec())
    u, t = torch.randn(rows, 4), torch.rand(rows)
    plain = net(u, t).detach()
    with torch.no_grad():
        fused = net(u, t)
        monkeypatch.setattr(mlp, "_AVAILABLE", False)
        unfused = net(u, t)
    assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert_close(unfused, plain, rtol=1e-5, atol=1e-6)


def gradients(net, u, t):
    leaf = u.clone().requires_grad_()
    out = net(leaf, t)
    return [out, *torch.autograd.grad(out.square().sum(), [leaf, *net.parameters()])]


@pytest.mark.parametrize("rows", [1, 128, 500])
@pytest.mark.parametrize("width", [128, 256])
def test_in_training_the_result_is_that_of_torch_to_the_last_bit(rows, width, monkeypatch):
    net = built(MlpSpec(width=width))
    u, t = torch.randn(rows, 4), torch.rand(rows)
    monkeypatch.setattr(mlp, "_WORTHWHILE", float("inf"))  # whatever the time
    for trial in ("_is_same", "_is_faster"):  # which is made again, and not kept
        monkeypatch.setattr(mlp, trial, getattr(mlp, trial).__wrapped__)
    ours = gradients(net, u, t)
    monkeypatch.setattr(mlp, "_AVAILABLE", False)
    assert_close(ours, gradients(net, u, t), rtol=0, atol=0)


@pytest.mark.skipif(not mlp._AVAILABLE, reason="torch has no oneDNN")
def test_only_what_wants_a_gradient_gets_one(monkeypatch):
    monkeypatch.setattr(mlp, "_onednn_wins", lambda h, weight: True)
    net, u, t = built(MlpSpec()), torch.randn(128, 4), torch.rand(128)
    first, *others = net.parameters()
    first.requires_grad_(False)
    net(u, t).sum().backward()
    assert first.grad is None
    assert all(p.grad is not None for p in others)
    net.requires_grad_(False)
    leaf = u.clone().requires_grad_()
    (of_u,) = torch.autograd.grad(net(leaf, t).sum(), leaf)
    assert torch.isfinite(of_u).all()


IMAGES = NcsnppSpec(
    image_size=8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0
)
SPECS = {
    "mlp": (MlpSpec(width=16, layers=3, input_features=4), (2,)),
    "resnet": (ResnetSpec(width=8, layers=2), (2,)),
    "ncsnpp": (IMAGES, (3, 8, 8)),
}
K = 5


def labelled(name, classes=K):
    spec, shape = SPECS[name]
    torch.manual_seed(0)
    net = nets.build(spec, data_shape=shape, halves_in=2, halves_out=1, classes=classes)
    return net, torch.randn(7, 2 * shape[0], *shape[1:]), torch.rand(7) * 0.9 + 0.1


@pytest.mark.parametrize("name", SPECS)
def test_each_label_has_its_own_result_and_no_label_is_the_last_one(name):
    net, u, t = labelled(name)
    assert net.label_embedding.weight.shape[0] == K + 1
    torch.nn.init.normal_(net.label_embedding.weight)
    if name == "ncsnpp":  # Its branches end in layers that are almost zero.
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    label = torch.tensor([0, 1, 2, 3, 4, K, K])
    with torch.no_grad():
        given, free = net(u, t, label), net(u, t)
        assert_close(given[5:], free[5:])
        assert (given[:5] - free[:5]).flatten(1).abs().max(1).values.min() > 1e-4
        # A row's result is a function of its own label.
        assert_close(net(u[2:4], t[2:4], label[2:4]), given[2:4], rtol=1e-4, atol=1e-5)
    net(u, t, label).square().sum().backward()
    grads = net.label_embedding.weight.grad.abs().sum(1)
    assert (grads > 0).all()


def test_ncsnpp_begins_as_the_network_without_labels():
    net, u, t = labelled("ncsnpp")
    plain, _, _ = labelled("ncsnpp", classes=0)
    labels = net.state_dict()
    weights = {name: tensor for name, tensor in labels.items() if name != "label_embedding.weight"}
    assert list(weights) == list(plain.state_dict())
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(net(u, t, torch.arange(7) % K), plain(u, t))


def test_blocks_of_many_rows_keep_their_labels():
    net, _, _ = labelled("mlp")
    u, t, label = torch.randn(5000, 4), torch.rand(5000), torch.arange(5000) % K
    with torch.no_grad():
        whole = net(u, t, label)
        assert_close(whole[4000:4010], net(u[4000:4010], t[4000:4010], label[4000:4010]))


def test_a_compiled_batch_is_padded_with_its_labels(monkeypatch):
    monkeypatch.setattr("cld_core.nets.execution.BACKEND", "eager")
    net, u, t = labelled("mlp")
    compiled, label = Compiled(net), torch.arange(7) % K
    with torch.no_grad():
        for rows in (7, 5, 3):
            expected = net(u[:rows], t[:rows], label[:rows])
            assert_close(compiled(u[:rows], t[:rows], label[:rows]), expected)


def test_a_network_that_takes_no_labels_says_so():
    plain = SimpleNamespace(name="plain", takes_labels=False)
    with pytest.raises(
        RecipeError, match=r"network.name=plain takes no labels. Set data.labels=false"
    ):
        nets.build(plain, data_shape=(2,), halves_in=2, halves_out=1, classes=3)
