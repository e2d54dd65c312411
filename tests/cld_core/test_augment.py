"""Non-leaking augmentation: the changes of images, and the numbers that the network gets."""

import math

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets, seeds
from cld_core.config.network import NcsnppSpec
from cld_core.train.step import Transformations, draw_transformations

SIZE = 8


def changes(probability=1.0, batch=64, seed=0):
    return draw_transformations(seeds.generator(seed), batch, SIZE, probability)


def one(*, flipped=(False, False), shift=(0, 0), sources=((1.0, 0.0), (0.0, 1.0)), warped=False):
    parts = (torch.tensor([part]) for part in (flipped, shift, warped, sources))
    return Transformations(*parts, torch.zeros(1, 9))


def images(count=1):
    return 2.0 * torch.rand(count, 3, SIZE, SIZE, generator=seeds.generator(7)) - 1.0


def test_without_a_change_images_stay_and_the_network_is_told_zeros():
    none, x = changes(0.0), images(64)
    assert torch.equal(none.apply(x), x)
    assert not none.conditions.any()


def test_mirrored_and_shifted_images_are_exact():
    x = images()
    assert torch.equal(one(flipped=(True, False)).apply(x), x.flip(3))
    assert torch.equal(one(flipped=(False, True)).apply(x), x.flip(2))
    moved = one(shift=(2, -1)).apply(x)
    assert torch.equal(moved[:, :, :-1, 2:], x[:, :, 1:, :-2])
    # Beyond the edge as in a mirror, which repeats the outermost pixel.
    assert torch.equal(moved[:, :, :-1, :2], x[:, :, 1:, :2].flip(3))
    assert torch.equal(moved[:, :, -1, 2:], x[:, :, -1, :-2])
    assert torch.equal(one(shift=(2 * SIZE, 0)).apply(x), x)
    both = one(flipped=(True, False), shift=(1, 0)).apply(x)
    assert torch.equal(both[..., 1:], x.flip(3)[..., :-1])


def test_warped_images_are_those_of_their_map():
    x = images()
    quarter = one(sources=((0.0, 1.0), (-1.0, 0.0)), warped=True).apply(x)
    assert_close(quarter, torch.rot90(x, -1, (2, 3)), rtol=0, atol=1e-5)
    # A ramp that is twice as wide is half as steep.
    ramp = (torch.arange(SIZE) - (SIZE - 1) / 2).expand(1, 3, SIZE, SIZE) / SIZE
    wide = one(sources=((0.5, 0.0), (0.0, 1.0)), warped=True).apply(ramp)
    assert_close(wide[..., 2:-2], 0.5 * ramp[..., 2:-2], rtol=0, atol=0.01)
    skewed = one(sources=((0.7, 0.2), (0.0, 1.1)), warped=True)
    assert float(skewed.apply(x.sign()).abs().max()) <= 1.0


def test_the_map_is_what_the_network_is_told():
    """The numbers describe a change completely, and equal changes have equal numbers."""
    made = changes(0.5, batch=256)
    told = made.conditions.double()
    assert torch.equal(told[:, :2] == 1, made.flipped)
    assert_close((told[:, 2:4] * SIZE / 8).round().long(), made.shift)
    octave = 0.2 * math.log(2.0)
    scale = (octave * told[:, 4]).exp()
    cosine, sine, along, across = told[:, 5:].T
    turn = torch.stack([cosine + 1, -sine, sine, cosine + 1], dim=1).view(-1, 2, 2)
    stretch = octave * torch.stack([along, across, across, -along], dim=1).view(-1, 2, 2)
    forward = turn @ torch.linalg.matrix_exp(stretch) * scale[:, None, None]
    assert_close(torch.linalg.inv(forward), made.sources.double(), rtol=1e-4, atol=1e-5)
    assert torch.equal(made.warped, (told[:, 4:] != 0).any(1))


def test_each_change_has_the_probability():
    told = changes(0.12, batch=20_000).conditions
    for columns in ((0,), (1,), (2, 3), (4,), (5, 6), (7, 8)):
        # One shift in sixty is of less than half a pixel in both directions, and none at all.
        made = float((told[:, columns] != 0).any(1).double().mean())
        assert made == pytest.approx(0.12, abs=0.03 if columns == (2, 3) else 0.012)
    assert float(told[told[:, 4] != 0, 4].std()) == pytest.approx(1.0, abs=0.05)


def network(spec):
    torch.manual_seed(0)
    return nets.build(spec, data_shape=(3, SIZE, SIZE), halves_in=2, halves_out=1)


def test_a_network_that_is_told_nothing_is_one_without_augmentation():
    keys = {
        "image_size": SIZE,
        "channels": 8,
        "multipliers": (1, 2),
        "attention": (4,),
        "blocks": 1,
        "init_scale": 1.0,
    }
    plain = network(NcsnppSpec(**keys)).eval()
    told = network(NcsnppSpec(**keys, augment=0.1)).eval()
    own = told.state_dict()
    assert set(own) - set(plain.state_dict()) == {"augmentation.weight"}
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    u = torch.cat([images(4), images(4)], dim=1)
    t = torch.tensor([0.1, 0.2, 0.3, 1.0])
    assert torch.equal(told(u, t), plain(u, t))
    assert torch.equal(told(u, t, augmented=torch.zeros(4, 9)), plain(u, t))
    assert not torch.equal(told(u, t, augmented=changes(batch=4).conditions), plain(u, t))
