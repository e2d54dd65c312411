import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cld_core.config.network import NcsnppSpec, Unet1dSpec
from cld_core.nets.ncsnpp import (
    ConvResample,
    FourierEmbedding,
    Ncsnpp,
    Resample,
    positional_embedding,
)
from tests.support import parity

TAPS = (1, 3, 3, 1)


# A network of milliseconds, whose residual branches do not start at zero.
TINY = {"channels": 4, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "init_scale": 1.0}
SHAPE = (3, 4, 4)


def tiny(**changes):
    return NcsnppSpec(**(TINY | changes))


def inputs(shape=SHAPE, *, batch=2, dtype=torch.float32):
    torch.manual_seed(1)
    u = torch.randn(batch, 2 * shape[0], *shape[1:], dtype=dtype)
    return u, torch.rand(batch, dtype=torch.float64) * 0.9 + 0.1


def build(spec, shape=SHAPE, dtype=torch.float32):
    torch.manual_seed(0)
    return Ncsnpp(spec, shape, halves_in=2, halves_out=1).to(dtype).eval()


# Our keys, and their names in the settings of the published code.
KEYS = (
    "image_size",
    "image_channels",
    "progressive_input",
    "fourier_scale",
    "nonlinearity",
    "skip_rescale",
    "dropout",
)
THEIRS = {name: name for name in (*KEYS, "init_scale")} | {
    "channels": "n_channels",
    "blocks": "n_resblocks",
}
THEIRS |= {"resblock": "resblock_type", "fir": "use_fir", "resample_with_conv": "resamp_with_conv"}
THEIRS |= {"combine": "progressive_combine", "embedding": "embedding_type"}
LISTS = {"multipliers": "ch_mult", "attention": "attn_resolutions", "fir_kernel": "fir_kernel"}


def published_spec(settings):
    lists = {
        name: tuple(int(number) for number in settings[its].split(","))
        for name, its in LISTS.items()
    }
    return NcsnppSpec(**{name: settings[its] for name, its in THEIRS.items()}, **lists)


def published(settings):
    spec = published_spec(settings)
    return build(spec, (spec.image_channels, spec.image_size, spec.image_size))


@pytest.mark.parametrize("name", ["ncsnpp_cifar_like", "ncsnpp_celeba_like"])
def test_computes_what_the_published_network_computes(name):
    arrays, settings = parity.arrays(name)
    net = published(settings)
    state = {
        key.removeprefix("state/"): array
        for key, array in arrays.items()
        if key.startswith("state/")
    }
    net.load_state_dict(state)
    with torch.no_grad():
        output = net(arrays["u"], arrays["t"])
    assert output.dtype == torch.float32
    assert_close(output, arrays["net"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("progressive_output", ["none", "output_skip", "residual"])
@pytest.mark.parametrize("progressive_input", ["none", "input_skip", "residual"])
@pytest.mark.parametrize("resblock", ["biggan", "ddpm"])
def test_every_combination_of_options_computes_and_trains_all_of_its_parameters(
    resblock, progressive_input, progressive_output
):
    fixed = {
        "resblock": resblock,
        "progressive_input": progressive_input,
        "progressive_output": progressive_output,
    }
    choices = {
        "fir": [True, False],
        # Read by these kinds of network only.
        "resample_with_conv": [True, False] if resblock == "ddpm" else [True],
        "combine": ["sum", "cat"] if progressive_input == "input_skip" else ["sum"],
        # No layer reads two of these.
        "embedding, skip_rescale, network": [
            ("fourier", True, (NcsnppSpec, SHAPE, 1)),
            ("positional", False, (Unet1dSpec, (3, 8), 2)),
        ],
    }
    for chosen in itertools.product(*choices.values()):
        options = dict(zip(choices, chosen, strict=True))
        options["embedding"], options["skip_rescale"], (made, shape, patch) = options.pop(
            "embedding, skip_rescale, network"
        )
        net = build(made(**TINY, **fixed, **options, patch=patch), shape).train()
        output = net(*inputs(shape))
        assert output.shape == (2, *shape)
        output.square().sum().backward()
        without = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"{options}: {without} take no part"
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("nonlinearity", ["relu", "elu", "lrelu"])
def test_other_nonlinearities_compute_something_else(nonlinearity):
    swish, other = build(tiny()), build(tiny(nonlinearity=nonlinearity))
    other.load_state_dict(swish.state_dict())
    arrays = inputs()
    assert not torch.allclose(swish(*arrays), other(*arrays), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_the_time_is_embedded_in_float32_whatever_autocast_says(embedding, dtype):
    net, t = (
        build(tiny(channels=16, embedding=embedding)),
        torch.linspace(1e-5, 1.0, 50, dtype=torch.float64),
    )
    expected = net.embed(t)
    with torch.autocast("cpu", dtype):
        found = net.embed(t)
        assert torch.mm(found, found.T).dtype is dtype, "autocast goes on after it"
        traced = torch.compile(net.embed, backend="aot_eager", fullgraph=True)(t)
    found.square().sum().backward()
    assert found.dtype is traced.dtype is torch.float32
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert_close(traced, expected, rtol=1e-6, atol=1e-6)
    assert all(
        layer.weight.grad is not None
        for layer in net.all_modules[:3]
        if isinstance(layer, torch.nn.Linear)
    )


def test_embeddings_are_the_formulas_in_float64():
    t = torch.tensor([1e-5, 0.3, 1.0], dtype=torch.float64)
    fourier = FourierEmbedding(2, 16.0)
    fourier.W.data = torch.tensor([10.0, 30.0])
    phase = 2 * np.pi * np.log(t.numpy())[:, None] * np.array([10.0, 30.0])
    expected = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    np.testing.assert_allclose(fourier(t).numpy(), expected, atol=1e-11)
    phase = t.numpy()[:, None] * np.array([1.0, 0.01, 0.0001])
    expected = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    np.testing.assert_allclose(positional_embedding(t, 6).numpy(), expected, atol=1e-12)


def test_another_image_size_is_refused_with_both_shapes():
    net = build(tiny())
    with pytest.raises(ValueError, match=r"\(2, 6, 8, 8\).*\(B, 6, 4, 4\)"):
        net(torch.randn(2, 6, 8, 8), torch.rand(2))


def resampled_by_direct_sum(x, taps, direction):
    """One axis, from the definition: the filter at output pixel i is centred on that pixel's place
    in the input."""
    h = np.array(taps) / sum(taps)
    n, half = len(x), len(taps) // 2
    if direction == "down":
        # Output pixel i covers the inputs 2i and 2i + 1, with its centre between them.
        return np.array(
            [
                sum(h[k] * x[j] for k in range(len(h)) if 0 <= (j := 2 * i + 1 - half + k) < n)
                for i in range(n // 2)
            ]
        )
    # Input pixel j sits between the outputs 2j and 2j + 1 and spreads 2 h around its place.
    output = np.zeros(2 * n)
    for j, k in itertools.product(range(n), range(len(h))):
        if 0 <= (i := 2 * j + 1 - half + k) < 2 * n:
            output[i] += 2 * h[k] * x[j]
    return output


@pytest.mark.parametrize("taps", [(1, 1), TAPS, (-1, 3, 7, 7, 3, -1)])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_fir_resampling_is_the_direct_sum_along_all_axes(taps, direction):
    x = np.random.default_rng(0).standard_normal((6, 8))
    rows = np.apply_along_axis(resampled_by_direct_sum, 1, x, taps, direction)
    in_one = Resample(direction, taps, axes=2).double()(torch.from_numpy(x)[None])
    assert_close(in_one, torch.from_numpy(rows)[None])
    expected = np.apply_along_axis(resampled_by_direct_sum, 0, rows, taps, direction)
    layer = Resample(direction, taps).double()
    image = torch.from_numpy(x)[None, None].expand(2, 3, 6, 8)
    assert_close(layer(image), torch.from_numpy(expected).expand(2, 3, *expected.shape))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_resampling_with_a_convolution_that_does_nothing_is_resampling(direction, axes):
    layer, sides = ConvResample(direction, TAPS, 3, 3, axes), (1,) * (axes - 1)
    layer.Conv2d_0.weight.data.zero_()
    layer.Conv2d_0.weight.data[(range(3), range(3), *sides)] = 1
    layer.Conv2d_0.bias.data = torch.tensor([0.0, 1.0, 2.0])
    x = torch.randn(2, 3, *[8] * (axes - 1))
    plain, bias = Resample(direction, TAPS, axes)(x), torch.tensor([0.0, 1.0, 2.0]).view(3, *sides)
    assert_close(layer(x), plain + bias)
    if direction == "up":
        layer.Conv2d_0.weight.data = layer.Conv2d_0.weight.data.roll(-1, -1)
        assert_close(
            layer(x)[..., 4:12], (plain.roll(1, -1) + bias)[..., 4:12], msg="it moves by one pixel"
        )


@pytest.mark.parametrize("direction", ["down", "up"])
def test_fir_resampling_follows_the_memory_format(direction):
    x, layer = torch.randn(2, 3, 6, 4), Resample(direction, TAPS)
    found = layer(x.contiguous(memory_format=torch.channels_last))
    assert_close(found, layer(x), rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not layer.state_dict()
