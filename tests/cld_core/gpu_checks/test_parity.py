"""What is not the same numbers is not within the tolerances: wrong layers, wrong precision, wrong gradients, NaN."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cld_core.gpu_checks import parity
from cld_core.nets.layers import Attention

_ATEN = torch.ops.aten
_PRODUCTS = (
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
)


class Rounded(TorchDispatchMode):
    """Products with factors of so many bits, as on a GPU."""

    def __init__(self, bits):
        super().__init__()
        self.scale = 2.0**bits

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation in _PRODUCTS:
            arguments = tuple(self._rounded(argument) for argument in arguments)
        return operation(*arguments, **(options or {}))

    def _rounded(self, x):
        if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.bfloat16):
            return x
        mantissa, exponent = torch.frexp(x.float())
        return torch.ldexp((mantissa * self.scale).round() / self.scale, exponent).to(x.dtype)


@pytest.fixture
def reference(context):
    """What is broken afterwards is not the reference."""
    return parity.reference(context, "cifar10")


@pytest.mark.usefixtures("reference")
def test_tf32_where_it_is_off_is_found_and_where_it_is_on_is_not(context):
    with Rounded(bits=11):
        assert parity.check(context, "fp32").verdict == "fail"
        assert parity.check(context, "tf32").verdict == "ok"
    with Rounded(bits=3):
        assert parity.check(context, "tf32").verdict == "fail"
        assert parity.check(context, "bf16").verdict == "fail"


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_a_layer_that_computes_something_else_is_found(context, monkeypatch, form):
    monkeypatch.setattr(Attention, "forward", lambda self, x: x)
    finding = parity.check(context, form)
    assert finding.verdict == "fail"
    assert "output" in finding.found


@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda gradient: gradient * math.nan], ids=["zero", "nan"])
def test_one_wrong_gradient_among_many_is_found_and_named(context, reference, monkeypatch, spoil):
    sizes = {name: float(gradient.norm()) for name, gradient in reference.gradients.items() if "GroupNorm" in name}
    smallest = min(sizes, key=sizes.__getitem__)
    numbers = parity.numbers

    def spoiled(*arguments):
        found = numbers(*arguments)
        return parity.Numbers(found.loss, found.output, found.gradients | {smallest: spoil(found.gradients[smallest])})

    monkeypatch.setattr(parity, "numbers", spoiled)
    finding = parity.check(context, "fp32")
    assert finding.verdict == "fail"
    assert f"worst parameter ({smallest})" in finding.found
