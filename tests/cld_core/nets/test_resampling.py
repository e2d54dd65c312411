"""FIR resampling: what a direct sum gives, with a convolution, and in which memory format."""

import itertools

import numpy as np
import pytest
import torch

from cld_core.nets.ncsnpp import ConvResample, Resample

TAPS = (1, 3, 3, 1)


def resampled_by_direct_sum(x: np.ndarray, taps: tuple[int, ...], direction: str) -> np.ndarray:
    """One axis, from the definition: the filter at output pixel i is centred on that pixel's place in the input."""
    h = np.array(taps) / sum(taps)
    n, half = len(x), len(taps) // 2
    if direction == "down":
        # Output pixel i covers the inputs 2i and 2i + 1, with its centre between them.
        return np.array(
            [sum(h[k] * x[j] for k in range(len(h)) if 0 <= (j := 2 * i + 1 - half + k) < n) for i in range(n // 2)]
        )
    # Input pixel j sits between the outputs 2j and 2j + 1 and spreads 2 h around its place.
    output = np.zeros(2 * n)
    for j, k in itertools.product(range(n), range(len(h))):
        if 0 <= (i := 2 * j + 1 - half + k) < 2 * n:
            output[i] += 2 * h[k] * x[j]
    return output


@pytest.mark.parametrize("taps", [(1, 1), TAPS, (-1, 3, 7, 7, 3, -1)])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_fir_resampling_is_the_direct_sum_along_both_axes(taps, direction):
    x = np.random.default_rng(0).standard_normal((6, 8))
    expected = np.apply_along_axis(resampled_by_direct_sum, 0, x, taps, direction)
    expected = np.apply_along_axis(resampled_by_direct_sum, 1, expected, taps, direction)
    layer = Resample(direction, taps).double()
    image = torch.from_numpy(x)[None, None].expand(2, 3, 6, 8)
    torch.testing.assert_close(layer(image), torch.from_numpy(expected).expand(2, 3, *expected.shape))


@pytest.mark.parametrize("direction", ["down", "up"])
def test_resampling_with_a_convolution_that_does_nothing_is_resampling(direction):
    layer = ConvResample(direction, TAPS, 3, 3)
    identity = torch.zeros(3, 3, 3, 3)
    identity[range(3), range(3), 1, 1] = 1
    layer.Conv2d_0.weight.data = identity
    layer.Conv2d_0.bias.data = torch.tensor([0.0, 1.0, 2.0])
    x = torch.randn(2, 3, 8, 8)
    expected = Resample(direction, TAPS)(x) + torch.tensor([0.0, 1.0, 2.0])[:, None, None]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_fir_resampling_follows_the_memory_format(direction):
    x, layer = torch.randn(2, 3, 6, 4), Resample(direction, TAPS)
    found = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, layer(x), rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not layer.state_dict()
