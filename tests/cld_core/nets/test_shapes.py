"""Networks take their shape from the data: any sides that their levels divide, one or two
dimensions, folded pixels."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets
from cld_core.config.network import MlpSpec, NcsnppSpec, ResnetSpec, Unet1dSpec
from cld_core.errors import RecipeError
from cld_core.nets.ncsnpp import fold, unfold
from tests.cld_core.nets.test_ncsnpp import TINY, build, inputs, tiny


def test_folding_moves_squares_into_channels_and_back():
    curves, images = torch.arange(72).reshape(3, 2, 12), torch.arange(324).reshape(3, 2, 6, 9)
    assert torch.equal(fold(curves, 3)[:, 3 + 2], curves[:, 1, 2::3]), (
        "channel 1, the third of each three"
    )
    assert torch.equal(fold(images, 3)[:, 9 + 3 * 1 + 2], images[:, 1, 1::3, 2::3])
    for x in (curves, images):
        assert torch.equal(unfold(fold(x, 3), 3), x)


@pytest.mark.parametrize(("made", "shape"), [(NcsnppSpec, (3, 8, 16)), (Unet1dSpec, (3, 16))])
def test_a_network_of_patches_is_that_of_folded_data(made, shape):
    spec = made(**TINY | {"attention": (4,)}, patch=2)
    folded = (shape[0] * 2 ** len(shape[1:]), *(side // 2 for side in shape[1:]))
    patched, plain = build(spec, shape), build(dataclasses.replace(spec, patch=1), folded)
    u, t = inputs(shape)
    assert torch.equal(patched(u, t), unfold(plain(fold(u, 2), t), 2))


def test_a_network_of_patches_follows_the_memory_format():
    net = build(tiny(patch=2), (3, 8, 8)).to(memory_format=torch.channels_last)
    u, t = inputs((3, 8, 8))
    found = net(u.contiguous(memory_format=torch.channels_last), t)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, net(u, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"resblock": "ddpm", "progressive_input": "input_skip"}, {"patch": 2}]
)
def test_in_one_dimension_a_shifted_signal_gives_the_shifted_result(changes):
    """Far from the ends, and by multiples of what the levels divide; attention and norms do not
    mind where it is."""
    spec = Unet1dSpec(**{**TINY, "attention": None, **changes})
    net, shift = build(spec, (2, 512), torch.float64), 10 * spec.patch
    u, t = inputs((2, 512), dtype=torch.float64)
    u[..., :252] = u[..., 260:] = 0.0
    expected, found = net(u, t), net(u.roll(shift, -1), t)
    assert_close(
        found[..., 150 + shift : 362 + shift], expected[..., 150:362], rtol=1e-9, atol=1e-9
    )
    assert expected[..., 252:260].std() > 10 * expected[..., 150:160].std(), (
        "of the signal, not of what is around it"
    )


def test_sides_of_two_lengths_and_any_number_of_channels():
    spec = tiny(attention=None, multipliers=(1, 1, 2))
    shape = (5, 8, 32)
    assert spec.attends(shape[1:]) == (False, True, False), "32 x 8, 16 x 4 and 8 x 2 pixels"
    assert build(spec, shape)(*inputs(shape)).shape == (2, 5, 8, 32)
    assert NcsnppSpec().attends((64, 64)) == (False, False, True, False)
    assert NcsnppSpec(patch=2).attends((32, 32)) == (True, False, False, False)


@pytest.mark.parametrize(
    ("spec", "shape", "fix"),
    [
        (
            NcsnppSpec(image_size=32, attention=(16,)),
            (3, 28, 28),
            "multipliers=[1,2,2] attention=null image_size=null",
        ),
        (NcsnppSpec(patch=8), (1, 28, 28), "multipliers=[1,2,2] patch=7"),
        (NcsnppSpec(augment=0.1), (3, 32, 64), "augment=0.0"),
        (
            NcsnppSpec(image_size=32, image_channels=1),
            (3, 32, 64),
            "image_size=null image_channels=null",
        ),
        (Unet1dSpec(patch=2), (2, 7), "multipliers=[1] patch=1"),
    ],
)
def test_a_misfit_names_all_keys_that_make_it_fit(spec, shape, fix):
    fix = " ".join(f"network.{text}" for text in fix.split())
    with pytest.raises(
        RecipeError, match=r"^'network\.\w+' is .* does not fit examples of shape"
    ) as error:
        nets.build(spec, data_shape=shape, halves_in=1, halves_out=1)
    assert str(error.value).endswith(f"Set {fix}.")
    assert list(spec.fitting(shape).misfits(shape)) == []


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        (MlpSpec(), (2, 128), "network.name=unet1d"),
        (ResnetSpec(), (1, 28, 28), "network.name=ncsnpp"),
        (NcsnppSpec(), (5,), "network.name=mlp"),
        (Unet1dSpec(), (1, 2, 3, 4), r"Reshape the examples to \(d\), \(C, L\) or"),
    ],
)
def test_a_network_for_examples_with_other_axes(spec, shape, words):
    with pytest.raises(RecipeError, match=rf"'network.name' cannot be {spec.name} for .*{words}"):
        nets.build(spec, data_shape=shape, halves_in=1, halves_out=1)
