"""Checks that a GPU computes the same as a CPU, for `cldctl doctor --gpu` (docs/gpu.md).

``python -m cld_core.gpu`` prints JSON objects, a line each: the card, then the finding of each
check. They take seconds; checks that take minutes are in tests/gpu.
"""

import json
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cld_core import loss as losses
from cld_core import nets, sde, seeds
from cld_core.config import Recipe, load, shipped
from cld_core.nets import execution
from cld_core.ranks import Ranks
from cld_core.score import Score
from cld_core.train.step import replicated

# A step that is the same on all devices, except for rounding: without dropout, whose masks differ
# between devices. The residual branches of a new network start at nearly zero, where half precision
# underflows, hence init_scale. More blocks would take longer, and test no further kind of layer.
COMPARABLE = (
    "network.dropout=0",
    "network.init_scale=1",
    "network.blocks=2",
    "train.batch_size=4",
    "cluster.nodes=1",
    "cluster.gpus_per_node=1",
)
# float32 has 24 bits; sums of up to 4,608 products in another order and Winograd's convolutions
# leave 17. TF32 and float16 round the factors to 11 bits, bfloat16 to 8. If TF32 is used although
# it is off, the errors are 10 times the tolerance.
_BITS = {"fp32": 17, "tf32": 11, "fp16": 11, "bf16": 8}
# Tolerances in units of 2^-bits: relative L2 errors of output and loss, of all gradients, and of
# the worst parameter's. On a CPU, networks of these sizes have 3 to 5, 2 to 8 and 6 to 21 units in
# TF32, bfloat16 and float16.
_OUTPUT = 16
_GRADIENTS = 32
_PARAMETER = 64
# To the size of a parameter's gradient, by which its error is divided, this fraction of the average
# size of all gradients is added.
_FLOOR = 0.1
# Loss scales that are tried in float16: the first one of GradScaler, down to one that makes no
# gradient overflow.
_SCALES = [2.0**power for power in range(16, -10, -1)]
# float32 has 24 bits, TF32 11. Of 24, sums over 512 or 1,152 products in any order leave 20,
# Winograd's method fewer.
_EXACT = 2.0**-15
_ROUNDED = 2.0**-14
_AMPERE = 8  # the first compute capability with TF32
_REPEATED = 50
# Memory is filled in blocks of so many numbers of 8 bytes; so many bytes are left free for
# comparing them.
_BLOCK = 2**25
_LEFT_FREE = 2**31


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        found: the result in words, with numbers.
        advice: what to do about a failure.
    """

    verdict: Literal["ok", "fail"]
    found: str
    advice: str = ""

    @classmethod
    def judged(cls, good: bool, found: str, advice: str) -> "Finding":
        return cls("ok", found) if good else cls("fail", found, advice)


def precisions(device: torch.device) -> Finding:
    """Check that products and convolutions use TF32 only if it is on, and are reproducible.

    With TF32 on, products must use it. A convolution need not: cuDNN may have a faster kernel.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(512, 512, generator=generator)
    b = torch.randn(512, 512, generator=generator)
    images = torch.randn(4, 128, 16, 16, generator=generator)
    weight = torch.randn(128, 128, 3, 3, generator=generator)
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _AMPERE

    def error(
        function: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor, tf32: bool
    ) -> float:
        exact = function(left.double(), right.double())
        with execution.using(tf32=tf32):
            result = function(left.to(device), right.to(device)).cpu().double()
        return float((result - exact).norm() / exact.norm())

    product = [error(torch.matmul, a, b, tf32) for tf32 in (False, True)]
    convolution = [error(F.conv2d, images, weight, tf32) for tf32 in (False, True)]
    left = a.to(device)
    right = b.to(device)
    first = left @ right
    changed = sum(not torch.equal(first, left @ right) for _ in range(_REPEATED))
    is_exact = max(product[0], convolution[0]) <= _EXACT
    uses_tf32 = product[1] >= _ROUNDED
    result = (
        f"relative errors with TF32 off and on: products {product[0]:.1e}, {product[1]:.1e}; "
        f"convolutions {convolution[0]:.1e}, {convolution[1]:.1e}"
    )
    if not has_tf32:
        result += "; this device has no TF32"
    if changed:
        result += f"; {changed} of {_REPEATED} products changed"
    return Finding.judged(
        is_exact and uses_tf32 == has_tf32 and not changed,
        result,
        "train.tf32 has no effect, or the card errs: report it with torch's version.",
    )


def step(device: torch.device, *changes: str) -> Finding:
    """One training step in every precision, compared with float32 on the CPU."""
    expected = numbers(
        _recipe(*changes, "train.precision=fp32", "train.tf32=false"), torch.device("cpu")
    )
    texts = []
    is_good = True
    for name in _BITS:
        kind, tf32 = ("fp32", "true") if name == "tf32" else (name, "false")
        recipe = _recipe(*changes, f"train.precision={kind}", f"train.tf32={tf32}")
        fits, text = compared(numbers(recipe, device), expected, name)
        texts.append(f"{name}: {text}")
        is_good = is_good and fits
    return Finding.judged(
        is_good,
        f"relative errors: {'; '.join(texts)}",
        "Do not train on this card, and report it with torch's version.",
    )


def _recipe(*changes: str) -> Recipe:
    return load(shipped.find("cifar10"), [*COMPARABLE, *changes])


@dataclass(frozen=True)
class Numbers:
    """The results of a training step, in float64 on the CPU.

    Attributes:
        loss: the mean over the batch.
        output: the network's output, (B, C, H, W), with gradients off.
        gradients: the gradients of the loss, by name of the parameter.
    """

    loss: float
    output: Tensor
    gradients: dict[str, Tensor]


def numbers(recipe: Recipe, device: torch.device) -> Numbers:
    """The results of a step of a new network on random images.

    Weights, images, times and noise are the same on every device.
    """
    train = recipe.train
    shape = recipe.data.shape
    assert shape is not None, "recipes of images say how large they are"
    diffusion = sde.build(recipe.sde)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nets.of_recipe(recipe, shape)
    model = replicated(net, train, Ranks(device=device))
    loss = losses.build(diffusion, recipe.objective)
    score = Score(diffusion, recipe.objective, model)
    noise = seeds.generator("step of a check")
    x = 2 * torch.rand(train.batch_size, *shape, generator=noise).to(device) - 1
    draws = loss.draw(noise, train.batch_size, shape, device)
    with execution.using(tf32=train.tf32):
        for scale in _SCALES if train.precision == "fp16" else (1.0,):
            net.zero_grad()
            mean = loss.losses(score, x, draws).weighted.mean()
            (scale * mean).backward()
            gradients = {
                name: _copied(p.grad) / scale
                for name, p in net.named_parameters()
                if p.grad is not None
            }
            if torch.isfinite(_joined(gradients)).all():
                break
        with torch.no_grad():
            output = model(loss.perturb(x, draws), draws.t.to(x.dtype))
    return Numbers(float(mean.detach()), _copied(output), gradients)


def compared(result: Numbers, expected: Numbers, kind: str) -> tuple[bool, str]:
    """Whether the results agree within the tolerance of a precision, and the errors in words.

    Args:
        kind: the precision, one of `_BITS`.
    """
    unit = 2.0 ** -_BITS[kind]
    floor = _FLOOR * float(_joined(expected.gradients).square().mean().sqrt())
    gradients = {}
    each = {}
    for name, gradient in expected.gradients.items():
        # A missing gradient counts as zero.
        gradients[name] = result.gradients.get(name, torch.zeros_like(gradient))
        each[name] = _error(gradients[name], gradient, floor * math.sqrt(gradient.numel()))
    # A NaN is worse than any number.
    worst = max(each, key=lambda name: each[name] if math.isfinite(each[name]) else math.inf)
    of_loss = abs(result.loss - expected.loss) / abs(expected.loss)
    of_output = _error(result.output, expected.output)
    of_gradients = _error(_joined(gradients), _joined(expected.gradients))
    errors = {
        "loss": (of_loss, _OUTPUT * unit),
        "output": (of_output, _OUTPUT * unit),
        "gradients": (of_gradients, _GRADIENTS * unit),
        f"worst parameter ({worst})": (each[worst], _PARAMETER * unit),
    }
    text = ", ".join(
        f"{what} {error:.1e} (at most {limit:.1e})" for what, (error, limit) in errors.items()
    )
    # With a NaN, this is false.
    return all(error <= limit for error, limit in errors.values()), text


def _copied(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)


def _joined(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def _error(result: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """The norm of the error, divided by ``floor`` plus the norm of ``expected``."""
    return float((result - expected).norm()) / (float(expected.norm()) + floor)


def memory(device: torch.device, free: int | None = None) -> Finding:
    """Check that memory keeps a pattern that is written into it, and its inverse.

    Args:
        free: bytes to check; None: most of the free memory.
    """
    free = torch.cuda.mem_get_info(device)[0] - _LEFT_FREE if free is None else free
    blocks = max(1, free // (8 * _BLOCK))
    size = min(_BLOCK, free // 8)

    def pattern(block: int) -> Tensor:
        # The multiplier of a generator of pseudo-random numbers: all bits vary.
        numbers = torch.arange(size, dtype=torch.int64, device=device) + block * size
        return numbers * 6364136223846793005

    filled = [pattern(number) for number in range(blocks)]
    wrong = sum(int((block != pattern(number)).sum()) for number, block in enumerate(filled))
    for block in filled:
        block.bitwise_not_()
    wrong += sum(int((block ^ pattern(number) != -1).sum()) for number, block in enumerate(filled))
    result = f"{wrong} wrong numbers of {2 * blocks * size} in {blocks * size * 8 / 2**30:.1f} GiB"
    return Finding.judged(
        wrong == 0, result, "Do not use this card: its memory errs. See `nvidia-smi -q -d ECC`."
    )


CHECKS: dict[str, Callable[[torch.device], Finding]] = {
    "precisions": precisions,
    "step": step,
    "memory": memory,
}


def main() -> int:
    card = None
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(torch.cuda.current_device())
        card = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    print(json.dumps({"card": card, "checks": len(CHECKS)}), flush=True)
    for name, check in CHECKS.items() if card is not None else ():
        try:
            finding = check(torch.device("cuda", torch.cuda.current_device()))
        except Exception as error:
            traceback.print_exc()
            first_line = f"it raised {type(error).__name__}: {error}".partition("\n")[0]
            finding = Finding("fail", first_line, "`python -m cld_core.gpu` shows where.")
        torch.cuda.empty_cache()
        print(json.dumps({"name": name, **asdict(finding)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
