"""Changing the resolution by 2: with a FIR filter, or by nearest neighbour and 2x2 average.

The FIR filter is that of StyleGAN2 (Karras et al. 2020, appendix B), as used by Song et al. 2021, appendix H: a
separable filter h with sum 1, applied before every second pixel is dropped, or (times 4) after zeros have been
inserted between the pixels. Outside the image everything is zero. An even number of symmetric taps keeps the
centre of the image in place.

One depthwise convolution filters and strides at once, so no pixel is computed and then dropped, and no inserted
zero is multiplied. These are ordinary convolutions: they can be compiled, differentiated any number of times, and
follow the memory format of their input.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Direction = Literal["down", "up"]


def fir_kernel(taps: Sequence[float]) -> Tensor:
    """The separable filter with these taps, normalised to sum 1: (K, K), K = len(taps) even."""
    h = torch.tensor(taps, dtype=torch.get_default_dtype())
    h = h / h.sum()
    return torch.outer(h, h)


def fir_filter(x: Tensor, kernel: Tensor, *, stride: int, padding: int, transposed: bool = False) -> Tensor:
    """Every channel of x (B, C, H, W) convolved with the same kernel (K, K): (B, C, H', W')."""
    if x.device.type == "cpu":
        # The 16-bit depthwise kernels of CPUs are up to thirty times slower than a cast there and back.
        with torch.autocast("cpu", enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            return _depthwise(wide, kernel, stride, padding, transposed).to(x.dtype)
    return _depthwise(x, kernel, stride, padding, transposed)


def _depthwise(x: Tensor, kernel: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    convolve = F.conv_transpose2d if transposed else F.conv2d
    return convolve(x, weight, stride=stride, padding=padding, groups=channels)


def fir_downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter and keep every second pixel: x (B, C, H, W), kernel (K, K) -> (B, C, H/2, W/2)."""
    return fir_filter(x, kernel, stride=2, padding=kernel.shape[0] // 2 - 1)


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Insert zeros and filter, mean preserved: x (B, C, H, W), kernel (K, K) -> (B, C, 2H, 2W)."""
    return fir_filter(x, 4 * kernel, stride=2, padding=kernel.shape[0] // 2 - 1, transposed=True)


class Resample(nn.Module):
    """Halve or double the resolution without parameters: (B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2H, 2W).

    Args:
        direction: "down" or "up".
        fir: taps of the FIR filter; None: 2x2 average down, nearest neighbour up.
    """

    kernel: Tensor | None

    def __init__(self, direction: Direction, fir: Sequence[float] | None) -> None:
        super().__init__()
        self.direction = direction
        self.register_buffer("kernel", None if fir is None else fir_kernel(fir), persistent=False)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """`temb` is ignored: it lets a resampling layer take the place of a residual block."""
        if self.direction == "down":
            return F.avg_pool2d(x, 2) if self.kernel is None else fir_downsample(x, self.kernel)
        if self.kernel is None:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return fir_upsample(x, self.kernel)
