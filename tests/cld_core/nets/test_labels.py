"""Networks of labelled data, and that those of others are as they were."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets
from cld_core.config.network import MlpSpec, NcsnppSpec, ResnetSpec
from cld_core.errors import RecipeError
from cld_core.nets.execution import Compiled

IMAGES = NcsnppSpec(image_size=8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
SPECS = {
    "mlp": (MlpSpec(width=16, layers=3, input_features=4), (2,)),
    "resnet": (ResnetSpec(width=8, layers=2), (2,)),
    "ncsnpp": (IMAGES, (3, 8, 8)),
}
K = 5


def built(name, classes=K):
    spec, shape = SPECS[name]
    torch.manual_seed(0)
    net = nets.build(spec, data_shape=shape, halves_in=2, halves_out=1, classes=classes)
    return net, torch.randn(7, 2 * shape[0], *shape[1:]), torch.rand(7) * 0.9 + 0.1


@pytest.mark.parametrize("name", SPECS)
def test_without_classes_a_network_has_no_more_weights_and_draws_no_more_numbers(name):
    plain, u, t = built(name, classes=0)
    state = torch.random.get_rng_state()
    assert not any("label" in key for key in plain.state_dict())
    built(name, classes=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert plain(u, t).isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_each_label_has_its_own_result_and_no_label_is_the_last_one(name):
    net, u, t = built(name)
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
    labelled, u, t = built("ncsnpp")
    plain, _, _ = built("ncsnpp", classes=0)
    labels = labelled.state_dict()
    weights = {name: tensor for name, tensor in labels.items() if name != "label_embedding.weight"}
    assert list(weights) == list(plain.state_dict())
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(labelled(u, t, torch.arange(7) % K), plain(u, t))


def test_blocks_of_many_rows_keep_their_labels():
    net, _, _ = built("mlp")
    u, t, label = torch.randn(5000, 4), torch.rand(5000), torch.arange(5000) % K
    with torch.no_grad():
        whole = net(u, t, label)
        assert_close(whole[4000:4010], net(u[4000:4010], t[4000:4010], label[4000:4010]))


def test_a_compiled_batch_is_padded_with_its_labels(monkeypatch):
    monkeypatch.setattr("cld_core.nets.execution.BACKEND", "eager")
    net, u, t = built("mlp")
    compiled, label = Compiled(net), torch.arange(7) % K
    with torch.no_grad():
        for rows in (7, 5, 3):
            expected = net(u[:rows], t[:rows], label[:rows])
            assert_close(compiled(u[:rows], t[:rows], label[:rows]), expected)


def test_a_network_that_takes_no_labels_says_so():
    plain = SimpleNamespace(name="plain", takes_labels=False)
    with pytest.raises(RecipeError, match=r"network.name=plain takes no labels. Set data.labels=false"):
        nets.build(plain, data_shape=(2,), halves_in=2, halves_out=1, classes=3)
