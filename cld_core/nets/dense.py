"""Linear layers followed by SiLU, by oneDNN on CPUs."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Number of the family of AMD's processors.
_ZEN_5 = 26
# Characters that hold maker and family of the first core; the whole file is long where there are many.
_FIRST_CORE = 512


def _has_fused_kernel() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_outruns_mkl() -> bool:
    """On AMD's processors MKL computes with AVX2: half the rate where AVX-512 has its full width, from Zen 5 on.

    Elsewhere (measured on Zen 4) they are equally fast, and torch's own pair of layers, whose calls cost less, wins.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        with open("/proc/cpuinfo") as file:
            text = file.read(_FIRST_CORE)
    except OSError:
        return False
    family = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    return "AuthenticAMD" in text and family is not None and int(family[1]) >= _ZEN_5


_FUSED = _has_fused_kernel()
_FUSED_WITH_GRADIENTS = _FUSED and _onednn_outruns_mkl()
# Rows whose hidden layers stay in the cache and in memory that the allocator has at hand.
_BLOCK_ROWS = 2048
# Below it oneDNN's product for the gradient of the weights is the slower one.
_LEAST_WIDTH = 16


def _is_plain_inference(h: Tensor) -> bool:
    return h.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_blocks(function: Callable[[Tensor, Tensor], Tensor], u: Tensor, t: Tensor) -> Tensor:
    """function(u, t), in blocks of rows on a CPU without gradients: a third less time for 4,096 rows on one thread."""
    if len(u) <= _BLOCK_ROWS or not _is_plain_inference(u):
        return function(u, t)
    return torch.cat([function(*rows) for rows in zip(u.split(_BLOCK_ROWS), t.split(_BLOCK_ROWS), strict=True)])


def _onednn(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """activation(h weight^T + bias), (B, in) and (out, in) to (B, out)."""
    return torch.ops.mkldnn._linear_pointwise(h, weight, bias, activation, [], "")


def _weight_gradient(inner: Tensor, h: Tensor) -> Tensor:
    """inner^T h; with more threads than one MKL's product of this shape is the faster one."""
    return _onednn(inner.t(), h.t(), None) if torch.get_num_threads() == 1 else inner.t() @ h


class _LinearSilu(torch.autograd.Function):
    """SiLU(h W^T + b), whose products oneDNN computes both ways: torch takes MKL's, which know no AVX-512 on AMD."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        before = _onednn(h, weight, bias)
        ctx.save_for_backward(h, weight, before)
        return functional.silu(before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, before = ctx.saved_tensors
        inner = torch.ops.aten.silu_backward(gradient, before)
        wants_h, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _onednn(inner, weight.t().contiguous(), None) if wants_h else None,
            _weight_gradient(inner, h) if wants_weight else None,
            inner.sum(0) if wants_bias else None,
        )


def linear_silu(layer: nn.Module, h: Tensor) -> Tensor:
    """SiLU(layer(h)) of an `nn.Linear`; it can be differentiated once.

    Toy training and sampling spend their time here. On a CPU oneDNN computes it without gradients, in one pass, and
    with gradients where its products are faster than MKL's; to float32 rounding it is the same
    (tests/cld_core/test_score_and_loss.py). Elsewhere it is the plain pair.
    """
    assert isinstance(layer, nn.Linear), f"a linear layer is fused with SiLU, not {type(layer).__name__}"
    fusable = _FUSED and h.dtype == torch.float32 == layer.weight.dtype and not torch.is_autocast_enabled("cpu")
    if not fusable or h.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.silu(layer(h))
    if torch.is_grad_enabled():
        if not _FUSED_WITH_GRADIENTS or min(layer.weight.shape) < _LEAST_WIDTH:
            return functional.silu(layer(h))
        return _LinearSilu.apply(h, layer.weight, layer.bias)
    return _onednn(h, layer.weight, layer.bias, "swish")
