"""How a network computes: its precision and the memory format of images. Training and sampling share this."""

import torch
from torch import Tensor, nn

# By the names of recipes. TF32 is a setting of the whole process (`cld_core.numerics`), not of a network.
AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Autocast(nn.Module):
    """A network that computes in a lower precision and returns that of its input.

    Args:
        precision: a name in `AUTOCAST`.
        channels_last: hand images over with channels last.
    """

    def __init__(self, net: nn.Module, device: torch.device, precision: str, *, channels_last: bool) -> None:
        super().__init__()
        self.net, self._device_type, self._dtype = net, device.type, AUTOCAST[precision]
        self._channels_last = channels_last

    def forward(self, u: Tensor, t: Tensor, *label: Tensor, **more: Tensor) -> Tensor:
        """(B, nC, ...) and (B,) to (B, mC, ...), as ``net``."""
        if self._channels_last and u.ndim == 4:
            u = u.contiguous(memory_format=torch.channels_last)
        if self._dtype is None:
            return self.net(u, t, *label, **more)
        with torch.autocast(self._device_type, dtype=self._dtype):
            return self.net(u, t, *label, **more).to(u.dtype)


def prepared(net: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """What to call instead of ``net`` to compute in ``precision``: ``net`` itself if there is nothing to change.

    Images are handed over as the weights are stored, except on CPUs, where they stay as they are.
    """
    channels_last = prefers_channels_last(device) and _stores_channels_last(net)
    if AUTOCAST[precision] is None and not channels_last:
        return net
    return Autocast(net, device, precision, channels_last=channels_last)


def prefers_channels_last(device: torch.device) -> bool:
    """Whether images are computed with channels last there, unless a recipe says otherwise: on GPUs."""
    return device.type == "cuda"


def store(net: nn.Module, *, channels_last: bool) -> None:
    """Store the weights of convolutions with channels last or first, in place; other weights stay as they are."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Documented, but no overload in torch's annotations takes this argument alone.
    net.to(memory_format=layout)  # type: ignore[call-overload]


def _stores_channels_last(net: nn.Module) -> bool:
    # Of a 1x1 convolution both formats are the same.
    return any(
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in net.parameters()
    )
