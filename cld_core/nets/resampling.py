"""Changing the resolution by 2: with a FIR filter, or by nearest neighbour and 2x2 average.

The FIR filter is that of StyleGAN2 (Karras et al. 2020, appendix B), as used by Song et al. 2021, appendix H: a
separable filter h with sum 1, applied before every second pixel is dropped, or (times 4) after zeros have been
inserted between the pixels. Outside the image everything is zero. An even number of symmetric taps keeps the
centre of the image in place.

One depthwise convolution filters and strides at once, so no pixel is computed and then dropped, and no inserted
zero is multiplied. These are ordinary convolutions: they can be compiled, differentiated any number of times, and
follow the memory format of their input.

Upwards that is a transposed convolution, for which not every GPU has a fast kernel. `Form` lists equivalents.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Direction = Literal["down", "up"]
# How the resolution is doubled with a FIR filter: as a transposed convolution; as a convolution of the image with
# zeros between its pixels; or as four convolutions of the image, one for each place in a block of 2x2 pixels. The
# results agree except for rounding.
Form = Literal["transposed", "zeros", "polyphase"]
FORMS: tuple[Form, ...] = get_args(Form)


def fir_kernel(taps: Sequence[float]) -> Tensor:
    """The separable filter with these taps, normalised to sum 1: (K, K), K = len(taps) even."""
    h = torch.tensor(taps, dtype=torch.get_default_dtype())
    h = h / h.sum()
    return torch.outer(h, h)


def phase_filters(kernel: Tensor) -> Tensor:
    """What is left of ``kernel`` (K, K), K even, for each of the 4 places in an output block of 2x2: (4, L, L), L odd.

    Every second tap meets a pixel, and the others meet inserted zeros. Where their number is even, a zero at one end
    makes it odd, so that the filters of all places have the same centre.
    """
    half = kernel.shape[0] // 2
    length = half // 2 * 2 + 1
    starts = (half % 2, half % 2 + 1)
    padded = F.pad(kernel, (1, 1, 1, 1))
    filters = [padded[row::2, column::2][:length, :length] for row in starts for column in starts]
    return torch.stack(filters).flip(1, 2)


def fir_filter(x: Tensor, kernel: Tensor, *, stride: int, padding: int, transposed: bool = False) -> Tensor:
    """Every channel of x (B, C, H, W) convolved with the same kernel (K, K): (B, C, H', W').

    With F kernels (F, K, K), (B, F C, H', W'): the F results of a channel are next to each other.
    """
    if x.device.type == "cpu":
        # The 16-bit depthwise kernels of CPUs are up to thirty times slower than a cast there and back.
        with torch.autocast("cpu", enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            return _depthwise(wide, kernel, stride, padding, transposed).to(x.dtype)
    return _depthwise(x, kernel, stride, padding, transposed)


def _depthwise(x: Tensor, kernel: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
    channels, taps = x.shape[1], kernel.shape[-1]
    weight = kernel.to(x.dtype).view(-1, taps, taps).expand(channels, -1, taps, taps).reshape(-1, 1, taps, taps)
    convolve = F.conv_transpose2d if transposed else F.conv2d
    return convolve(x, weight, stride=stride, padding=padding, groups=channels)


def fir_downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter and keep every second pixel: x (B, C, H, W), kernel (K, K) -> (B, C, H/2, W/2)."""
    return fir_filter(x, kernel, stride=2, padding=kernel.shape[0] // 2 - 1)


def fir_upsample(x: Tensor, kernel: Tensor, form: Form = "transposed", phases: Tensor | None = None) -> Tensor:
    """Insert zeros and filter, mean preserved: x (B, C, H, W), kernel (K, K) symmetric -> (B, C, 2H, 2W).

    Args:
        phases: `phase_filters` of 4 times the kernel, if they are known; for the form "polyphase".
    """
    half = kernel.shape[0] // 2
    if form == "transposed":
        return fir_filter(x, 4 * kernel, stride=2, padding=half - 1, transposed=True)
    if form == "zeros":
        return fir_filter(_with_zeros(x), 4 * kernel, stride=1, padding=half)
    filters = phase_filters(4 * kernel) if phases is None else phases
    return _interleaved(fir_filter(x, filters, stride=1, padding=half // 2))


def _has_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _with_zeros(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H - 1, 2W - 1) with a zero between two pixels, in the memory format of x."""
    batch, channels, height, width = x.shape
    if _has_channels_last(x):
        wide = x.new_zeros(batch, 2 * height - 1, 2 * width - 1, channels).permute(0, 3, 1, 2)
    else:
        wide = x.new_zeros(batch, channels, 2 * height - 1, 2 * width - 1)
    wide[..., ::2, ::2] = x
    return wide


def _interleaved(x: Tensor) -> Tensor:
    """(B, 4C, H, W) -> (B, C, 2H, 2W): 4 channels become a block of 2x2 pixels, in the memory format of x."""
    if not _has_channels_last(x):
        return F.pixel_shuffle(x, 2)
    # For which pixel_shuffle would change the format.
    blocks = x.permute(0, 2, 3, 1).unflatten(3, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
    return blocks.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class Resample(nn.Module):
    """Halve or double the resolution without parameters: (B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2H, 2W).

    Args:
        direction: "down" or "up".
        fir: taps of the FIR filter; None: 2x2 average down, nearest neighbour up.

    Attributes:
        form: how the resolution is doubled with a FIR filter; set it with `set_upsampling`.
    """

    kernel: Tensor | None
    phases: Tensor | None

    def __init__(self, direction: Direction, fir: Sequence[float] | None) -> None:
        super().__init__()
        self.direction = direction
        self.form: Form = "transposed"
        kernel = None if fir is None else fir_kernel(fir)
        phases = None if kernel is None or direction == "down" else phase_filters(4 * kernel)
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("phases", phases, persistent=False)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """`temb` is ignored: it lets a resampling layer take the place of a residual block."""
        if self.direction == "down":
            return F.avg_pool2d(x, 2) if self.kernel is None else fir_downsample(x, self.kernel)
        if self.kernel is None:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return fir_upsample(x, self.kernel, self.form, self.phases)


def _upsamplers(net: nn.Module) -> list[Resample]:
    layers = [layer for layer in net.modules() if isinstance(layer, Resample)]
    return [layer for layer in layers if layer.direction == "up" and layer.kernel is not None]


def upsampling_forms(net: nn.Module) -> tuple[Form, ...]:
    """The forms of doubling the resolution that a network can choose among, the default first."""
    return FORMS if _upsamplers(net) else FORMS[:1]


def set_upsampling(net: nn.Module, form: Form) -> None:
    """Let a network double the resolution in this form from now on."""
    for layer in _upsamplers(net):
        layer.form = form
