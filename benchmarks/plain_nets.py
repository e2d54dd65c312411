"""NCSN++ with straightforward resampling and attention; it uses the weights of `cld_core.nets`."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cld_core.nets.ncsnpp import Attention, ConvResample, Ncsnpp, Resample


def upfirdn(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int]
) -> Tensor:
    """Insert zeros, pad, filter, and keep every ``down``-th pixel: (B, C, H, W) -> (B, C, H',
    W')."""
    batch, channels, height, width = x.shape
    x = x.reshape(-1, 1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*padding, *padding)), kernel.flip(0, 1)[None, None].to(x.dtype))
    x = x[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


class PlainResample(nn.Module):
    """`Resample` with a FIR filter."""

    def __init__(self, like: Resample) -> None:
        super().__init__()
        self.direction, self.kernel = like.direction, like.kernel

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        assert self.kernel is not None, "only networks with FIR filters are supported"
        if self.direction == "down":
            return upfirdn(x, self.kernel, down=2, padding=(1, 1))
        return upfirdn(x, 4 * self.kernel, up=2, padding=(2, 1))


class PlainConvDown(nn.Module):
    """Downsampling `ConvResample` with a FIR filter."""

    def __init__(self, like: ConvResample) -> None:
        super().__init__()
        self.Conv2d_0, self.kernel = like.Conv2d_0, like.kernel

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        assert self.kernel is not None, "only networks with FIR filters are supported"
        blurred = upfirdn(x, self.kernel, padding=(2, 2))
        return F.conv2d(blurred, self.Conv2d_0.weight, self.Conv2d_0.bias, stride=2)


class PlainAttention(nn.Module):
    """`Attention` with einsum and softmax on the whole matrix."""

    def __init__(self, like: Attention) -> None:
        super().__init__()
        self.like = like

    def forward(self, x: Tensor) -> Tensor:
        like = self.like
        h = like.GroupNorm_0(x)
        q, k, v = (self._nin(layer, h) for layer in (like.NIN_0, like.NIN_1, like.NIN_2))
        weight = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
        weight = F.softmax(weight.flatten(3), dim=-1).view_as(weight)
        h = torch.einsum("bhwij,bcij->bchw", weight, v)
        return (x + self._nin(like.NIN_3, h)) * like.skip_scale

    @staticmethod
    def _nin(layer: nn.Module, h: Tensor) -> Tensor:
        y = torch.einsum("bchw,cd->bdhw", h, layer.W)
        return y + layer.b[None, :, None, None]


_PLAIN = {Resample: PlainResample, ConvResample: PlainConvDown, Attention: PlainAttention}


def plain_ncsnpp(net: Ncsnpp) -> Ncsnpp:
    """A copy of ``net`` that computes the same function in the plain way."""
    made = copy.deepcopy(net)
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _PLAIN:
                parent.add_module(name, _PLAIN[type(child)](child))
    return made
