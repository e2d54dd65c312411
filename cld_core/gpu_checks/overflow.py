"""A step that overflows in float16: the loss scaler expects some, and nothing but its scale may show them."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from cld_core import numerics
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer

from . import states
from .findings import Context, Finding, judged
from .setups import image_recipe

_WARM_UP = 3
# A loss scale at which no gradient overflows by itself.
_SCALE = 256.0
# float16 ends at 65,504.
_TOO_LARGE = 1e6


def check(context: Context) -> Finding:
    """One overflow in the forward pass, between steps that are applied."""
    shallow = () if context.small else ("network.blocks=1",)
    recipe = image_recipe(context, "cifar10", "train.precision=fp16", "train.compile=false", *shallow)
    with numerics.using(tf32=recipe.train.tf32):
        trainer = Trainer(recipe, Ranks(device=torch.device(context.device)))
        for step in range(_WARM_UP):
            trainer.step(step)
            trainer.scaler.update(_SCALE)
        trainer.take_scalars()
        before = states.taken(trainer)
        with _overflowing(trainer.net):
            trainer.step(_WARM_UP)
        wrong = [f"{part} changed" for part in states.changed(before, states.taken(trainer))]
        lowered = trainer.scaler.get_scale()
        trainer.step(_WARM_UP + 1)
        scalars = trainer.take_scalars()
        stuck = set(before) - set(states.changed(before, states.taken(trainer)))
        trainer.close()
    if lowered != _SCALE / 2:
        wrong.append(f"the loss scale went from {_SCALE:g} to {lowered:g}, not to half")
    if scalars["skipped_steps"] != 1:
        wrong.append(f"{scalars['skipped_steps']:.0f} steps count as skipped, not 1")
    if not math.isfinite(scalars.get("loss", math.nan)):
        wrong.append(f"the mean loss is {scalars['loss']}")
    wrong += [f"{part} did not change in the step after it" for part in sorted(stuck)]
    found = f"a step that overflows changes nothing but the loss scale, from {_SCALE:g} to {lowered:g}"
    advice = "Train with train.precision=bf16, and report it with torch's version."
    return judged(not wrong, ", ".join(wrong) or found, advice)


@contextlib.contextmanager
def _overflowing(net: nn.Module) -> Iterator[None]:
    """The output of the first convolution is infinite in float16."""
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_hook(lambda module, arguments, output: output * _TOO_LARGE)
    try:
        yield
    finally:
        hook.remove()
