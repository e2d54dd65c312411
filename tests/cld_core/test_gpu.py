"""The checks of a GPU, on the CPU with a small network: other numbers are found."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cld_core import gpu
from cld_core.nets import execution
from cld_core.nets.ncsnpp import Attention
from tests.support.images import SMALL

CPU = torch.device("cpu")
TINY = (*SMALL, "data.path=/nowhere")
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


@pytest.fixture(scope="module")
def expected():
    return gpu.numbers(recipe("fp32"), CPU)


def recipe(precision):
    return gpu._recipe(*TINY, f"train.precision={precision}", "train.tf32=false")


def fits(expected, kind, precision="fp32"):
    return gpu.compared(gpu.numbers(recipe(precision), CPU), expected, kind)


def test_a_step_in_every_precision_is_within_its_tolerance():
    finding = gpu.step(CPU, *TINY)
    assert finding.verdict == "ok", finding.found
    assert all(f"{name}: loss" in finding.found for name in ("fp32", "tf32", "fp16", "bf16"))


def test_tf32_where_it_is_off_is_found_and_where_it_is_on_is_not(expected):
    with Rounded(bits=11):
        assert not fits(expected, "fp32")[0]
        assert fits(expected, "tf32")[0]
        assert gpu.precisions(CPU).verdict == "fail"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_that_computes_something_else_is_found(expected, monkeypatch, precision):
    monkeypatch.setattr(Attention, "forward", lambda self, x: x)
    assert not fits(expected, precision, precision)[0]


@pytest.mark.parametrize(
    "spoil", [torch.zeros_like, lambda gradient: gradient * math.nan], ids=["zero", "nan"]
)
def test_one_wrong_gradient_among_many_is_found_and_named(expected, spoil):
    names = [name for name in expected.gradients if "GroupNorm" in name]
    smallest = min(names, key=lambda name: float(expected.gradients[name].norm()))
    gradients = expected.gradients | {smallest: spoil(expected.gradients[smallest])}
    good, text = gpu.compared(replace(expected, gradients=gradients), expected, "fp32")
    assert not good
    assert f"worst parameter ({smallest})" in text


def test_memory_that_forgets_a_bit_is_found(monkeypatch):
    assert gpu.memory(CPU, 2**16).verdict == "ok"
    inverse = torch.Tensor.bitwise_not_

    def forgetful(block):
        inverse(block)
        block[17] ^= 1 << 40
        return block

    monkeypatch.setattr(torch.Tensor, "bitwise_not_", forgetful)
    monkeypatch.setattr(gpu, "_BLOCK", 2**10)
    assert gpu.memory(CPU, 2**16).verdict == "fail"


def test_findings_are_lines_of_json(monkeypatch, capsys):
    card = SimpleNamespace(name="A card", total_memory=80 * 2**30)
    answers = {"is_available": True, "current_device": 0, "get_device_properties": card}
    for name, value in {**answers, "empty_cache": None}.items():
        monkeypatch.setattr(torch.cuda, name, Mock(return_value=value))
    broken = Mock(side_effect=RuntimeError("no kernel\nimage is available"))
    fine = Mock(side_effect=lambda device: gpu.Finding("ok", str(device)))
    monkeypatch.setattr(gpu, "CHECKS", {"fine": fine, "broken": broken})
    assert gpu.main() == 0
    first, passed, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"card": "A card, 80 GiB", "checks": 2}
    assert passed == {"name": "fine", "verdict": "ok", "found": "cuda:0", "advice": ""}
    assert (failed["verdict"], failed["found"]) == ("fail", "it raised RuntimeError: no kernel")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert json.loads(capsys.readouterr().out) == {"card": None, "checks": 2}


def current():
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("fixed_shapes", [True, False])
def test_settings_hold_inside_the_block_and_are_restored(tf32, fixed_shapes):
    before = current()
    with execution.using(tf32=tf32, fixed_shapes=fixed_shapes):
        assert current() == (tf32, tf32, fixed_shapes)
        with execution.using(tf32=not tf32):
            assert current() == (not tf32, not tf32, False)
        assert current() == (tf32, tf32, fixed_shapes)
    assert current() == before
