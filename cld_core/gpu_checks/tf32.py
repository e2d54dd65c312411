"""Whether products and convolutions in float32 use TF32 where it is on, and only there."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cld_core import numerics

from .findings import Context, Finding, judged

# float32 has 24 bits, TF32 11. Of 24, sums over 512 or 1,152 products in any order leave 20, Winograd's method fewer.
_EXACT, _ROUNDED = 2.0**-15, 2.0**-14
_FIRST_CAPABILITY = 8  # Ampere
Product = Callable[[Tensor, Tensor], Tensor]


def check(context: Context) -> Finding:
    """The relative errors of both kinds of products, with TF32 off and on.

    Where it is on, a convolution need not use it: cuDNN may know a faster kernel without.
    """
    made = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=made) for _ in range(2))
    images, weight = torch.randn(4, 128, 16, 16, generator=made), torch.randn(128, 128, 3, 3, generator=made)
    kinds: dict[str, Product] = {"products": torch.matmul, "convolutions": F.conv2d}
    texts, good = [], True
    for (kind, function), arguments in zip(kinds.items(), ((a, b), (images, weight)), strict=True):
        off, on = (_error(function, arguments, context.device, tf32=tf32) for tf32 in (False, True))
        texts.append(f"{kind} {off:.1e} off, {on:.1e} on")
        good = good and off <= _EXACT
        if kind == "products":
            good = good and (on >= _ROUNDED) == has_tf32(context)
    found = f"relative errors: {'; '.join(texts)}" + ("" if has_tf32(context) else "; this device has no TF32")
    return judged(good, found, "train.tf32 does not do what it says with this torch: report it with torch's version.")


def has_tf32(context: Context) -> bool:
    """Whether the device has TF32 at all."""
    return context.on_gpu and torch.cuda.get_device_capability()[0] >= _FIRST_CAPABILITY


def _error(function: Product, arguments: tuple[Tensor, Tensor], device: str, *, tf32: bool) -> float:
    exact = function(*(x.double() for x in arguments))
    with numerics.using(tf32=tf32):
        found = function(*(x.to(device) for x in arguments)).cpu().double()
    return float((found - exact).norm() / exact.norm())
