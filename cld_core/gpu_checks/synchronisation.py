"""Whether a training step waits for the GPU: the CPU must be able to run ahead, or the card idles between kernels."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from cld_core import numerics
from cld_core.ranks import Ranks
from cld_core.train.forms import Choice, Compile
from cld_core.train.step import Trainer

from .findings import Context, Finding, judged
from .setups import image_recipe

_PACKAGE = str(Path(__file__).parents[1])
# The first steps create the moments, load kernels and time them, and compile.
_WARM_UP, _STEPS = 4, 4


@contextlib.contextmanager
def waits_are_errors() -> Iterator[None]:
    """Inside, torch raises a RuntimeError for an operation that makes the CPU wait for the GPU.

    It notices `Tensor.item`, copies to the CPU, `nonzero` and the like, but not `torch.cuda.synchronize`.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check(
    context: Context,
    precision: str,
    compile: Compile = "eager",
    *,
    forbidden: Callable[[], AbstractContextManager[None]] = waits_are_errors,
) -> Finding:
    """Steps of training where waiting is ``forbidden``."""
    if not context.on_gpu and forbidden is waits_are_errors:
        return Finding("skip", "needs a GPU to wait for")
    shallow = () if context.small else ("network.blocks=1",)
    recipe = image_recipe(context, "cifar10", *shallow, f"train.precision={precision}")
    with numerics.using(tf32=recipe.train.tf32, fixed_shapes=True):
        choice = Choice(compile, channels_last=True)
        trainer = Trainer(recipe, Ranks(device=torch.device(context.device)), choice=choice)
        try:
            for step in range(_WARM_UP):
                trainer.step(step)
            with forbidden():
                for step in range(_WARM_UP, _WARM_UP + _STEPS):
                    trainer.step(step)
        except RuntimeError as error:
            found = f"a step waits or fails at {_place(error)}: {str(error).splitlines()[0]}"
            return judged(False, found, "Each wait costs GPU time. Report it with torch's version.")
        finally:
            trainer.close()
    return judged(True, f"{_STEPS} steps in {recipe.train.precision} without waiting for the GPU, {choice}")


def _place(error: Exception) -> str:
    """File and line of this library where it was raised."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
