"""One training step's loss and gradients, and the network's output, compared with float32 on the CPU."""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cld_core import numerics, seeds
from cld_core.config import Recipe
from cld_core.ranks import Ranks
from cld_core.train.forms import Choice
from cld_core.train.step import Trainer

from .findings import Context, Finding, judged
from .setups import image_recipe

# What is compared is the same numbers except for rounding: no dropout, whose masks differ between devices, and branches
# that count. (Those of a new network start at nearly zero, where half precision would underflow.)
_NETWORK = ("network.dropout=0", "network.init_scale=1", "train.batch_size=4")
# Depth adds time to the check, and no kind of layer.
_SHALLOW = {"cifar10": ("network.blocks=2",), "celebahq256": ("network.blocks=1", "train.batch_size=1")}
# Tolerances in units of 2^-bits: relative L2 errors of the output, of all gradients, and of the worst parameter's.
# On a CPU, networks of these sizes have 3 to 5, 2 to 8 and 6 to 21 units in TF32, bfloat16 and float16.
OUTPUT, GRADIENTS, PARAMETER = 16, 32, 64
# A parameter's error counts in relation to its gradient, or to this fraction of the average size of all gradients.
_FLOOR = 0.1
# Halvings of a loss scale of 65,536 after which no gradient can overflow for the scale's sake.
_HALVINGS = 24
# A CUDA graph is recorded in the second pass, and replayed from the third on.
_REPLAYED = 3


_EAGER, _LAST = Choice(), Choice(channels_last=True)
_COMPILED, _GRAPHS = Choice("compiled", channels_last=True), Choice("graphs", channels_last=True)


@dataclass(frozen=True)
class Form:
    """A way to compute, and how many bits of its products can be trusted."""

    bits: int
    choice: Choice = _EAGER
    precision: str = "fp32"
    tf32: bool = False


# float32 has 24 bits, of which sums of up to 4,608 products in another order and Winograd's convolutions leave 17. TF32
# and float16 round the factors to 11 bits, bfloat16 to 8. TF32 where it is off exceeds the tolerance 10 times.
_BITS = {"fp32": 17, "fp16": 11, "bf16": 8}
FORMS = {
    "fp32": Form(17),
    "channels_last": Form(17, _LAST),
    "zeros upsampling": Form(17, Choice(upsampling="zeros")),
    "polyphase upsampling": Form(17, Choice(upsampling="polyphase")),
    "compiled": Form(17, _COMPILED),
    "graphs": Form(17, _GRAPHS),
    "tf32": Form(11, _LAST, tf32=True),
    "bf16": Form(8, _LAST, "bf16"),
    "bf16 compiled": Form(8, _COMPILED, "bf16"),
    "fp16": Form(11, _LAST, "fp16"),
    "fp16 compiled": Form(11, _COMPILED, "fp16"),
    "fp16 graphs": Form(11, _GRAPHS, "fp16"),
}


@dataclass(frozen=True)
class Numbers:
    """What a step computes, in float64 on the CPU.

    Attributes:
        loss: the mean over the batch.
        output: of the network, (B, C, H, W), with gradients off.
        gradients: of the loss, by name of the parameter.
    """

    loss: float
    output: Tensor
    gradients: dict[str, Tensor]


def form_of(recipe: Recipe, choice: Choice) -> Form:
    """``choice`` in the precision of a recipe."""
    train = recipe.train
    bits = 11 if train.precision == "fp32" and train.tf32 else _BITS[train.precision]
    return Form(bits, choice, train.precision, train.tf32)


def check(context: Context, form: str, recipe: str = "cifar10") -> Finding:
    """Whether the form of this name agrees with the reference to its tolerance."""
    return compared(context, FORMS[form], recipe)


def compared(context: Context, spec: Form, recipe: str) -> Finding:
    """Whether a form agrees with the reference to its tolerance."""
    expected = reference(context, recipe)
    keys = (f"train.precision={spec.precision}", f"train.tf32={str(spec.tf32).lower()}")
    found = numbers(_recipe(context, recipe, *keys), torch.device(context.device), spec.choice)
    # One that is missing counts as zero.
    gradients = {name: found.gradients.get(name, torch.zeros_like(g)) for name, g in expected.gradients.items()}
    unit = 2.0**-spec.bits
    errors = {
        "loss": (abs(found.loss - expected.loss) / abs(expected.loss), OUTPUT * unit),
        "output": (_error(found.output, expected.output), OUTPUT * unit),
        "gradients": (_error(_joined(gradients), _joined(expected.gradients)), GRADIENTS * unit),
    }
    worst, name = _worst(gradients, expected.gradients)
    errors[f"worst parameter ({name})"] = (worst, PARAMETER * unit)
    text = ", ".join(f"{what} {error:.1e} (at most {limit:.1e})" for what, (error, limit) in errors.items())
    # Written so that a NaN fails.
    good = all(error <= limit for error, limit in errors.values())
    return judged(good, f"relative errors: {text}", "Do not train in this form on this card and torch; report it.")


@functools.lru_cache(maxsize=2)
def reference(context: Context, recipe: str) -> Numbers:
    """float32 on the CPU."""
    made = _recipe(replace(context, device="cpu"), recipe, "train.precision=fp32", "train.tf32=false")
    return numbers(made, torch.device("cpu"), _EAGER)


def numbers(recipe: Recipe, device: torch.device, choice: Choice) -> Numbers:
    """One step of a new network: the same weights, images, times and noise for all forms and devices."""
    with numerics.using(tf32=recipe.train.tf32):
        trainer = Trainer(recipe, Ranks(device=device), choice=choice)
        rows = recipe.train.batch_size
        x = trainer.source.batch(0, 0, 0, rows, slice(0, rows)).to(device)
        draws = trainer.loss.draw(seeds.generator("parity"), rows, trainer.source.shape, device)
        passes = _REPLAYED if choice.compile == "graphs" else 1
        for _ in range(_HALVINGS):
            for _ in range(passes):
                trainer.optimiser.zero_grad()
                loss = trainer.loss.per_sample(trainer.score, x, draws).mean()
                trainer.scaler.scale(loss).backward()
            trainer.scaler.unscale_(trainer.optimiser)
            gradients = {name: _copied(p.grad) for name, p in trainer.net.named_parameters() if p.grad is not None}
            if not trainer.scaler.is_enabled() or bool(torch.isfinite(_joined(gradients)).all()):
                break
            trainer.scaler.update()
        with torch.no_grad():
            for _ in range(passes):
                output = trainer.score.net(trainer.loss.perturb(x, draws), draws.t.to(x.dtype))
        trainer.close()
    return Numbers(float(loss.detach()), _copied(output), gradients)


def _recipe(context: Context, name: str, *changes: str) -> Recipe:
    shallow = () if context.small else _SHALLOW[name]
    return image_recipe(context, name, *_NETWORK, *shallow, *changes)


def _copied(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)


def _joined(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative error of a parameter's gradient, and the parameter's name."""
    average = float(_joined(expected).square().mean().sqrt())
    worst, whose = 0.0, ""
    for name, gradient in expected.items():
        size = float(gradient.norm()) + _FLOOR * average * math.sqrt(gradient.numel())
        error = float((found[name] - gradient).norm()) / size
        if not error <= worst:
            worst, whose = (error, name) if math.isfinite(error) else (math.inf, name)
    return worst, whose
