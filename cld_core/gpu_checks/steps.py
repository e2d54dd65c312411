"""Optimiser steps of the image recipes at the size that they train: whether they fit, and change what they should."""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from cld_core import numerics
from cld_core.config import Recipe
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer

from . import memory
from .findings import Context, Finding, judged
from .setups import image_recipe

# A loss scale starts at 65,536 and is halved by each step that it lets overflow: after these it cannot be the reason.
_MOST_STEPS = 20
# Measuring forms, and compiling, takes minutes; there are checks of their own for both.
_PLAIN = ("train.compile=false", "train.channels_last=true")


def check(context: Context, name: str) -> Finding:
    """Steps of the recipe ``name`` on the rows that each of its GPUs gets; if they do not fit, on half of them, ..."""

    def stepped(rows: int) -> Finding:
        return _stepped(context, image_recipe(context, name, *_PLAIN, f"train.batch_size={rows}"))

    wanted = image_recipe(context, name, *_PLAIN).train.batch_size
    fitting = memory.halved(wanted, stepped)
    if fitting is None:
        return Finding("fail", "one row does not fit into memory", "Use a card with more memory, alone on it.")
    rows, finding = fitting
    if rows < wanted and finding.verdict == "ok":
        fix = f"Set train.micro_batch={rows}."
        return replace(finding, found=f"{wanted} rows do not fit into memory; {finding.found}", advice=fix)
    return finding


def _stepped(context: Context, recipe: Recipe) -> Finding:
    """Steps until one is not skipped, the first aside."""
    if context.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    # As training does: timing kernels takes memory, too.
    with numerics.using(tf32=recipe.train.tf32, fixed_shapes=True):
        trainer = Trainer(recipe, Ranks(device=torch.device(context.device)))
        before = _carried(trainer)
        try:
            while True:
                begin = context.clock()
                trainer.step(len(seconds))
                scalars = trainer.take_scalars()
                seconds.append(context.clock() - begin)
                applied = scalars["skipped_steps"] == 0
                if (applied and len(seconds) > 1) or len(seconds) == _MOST_STEPS:
                    break
        finally:
            trainer.close()
    after = _carried(trainer)
    wrong = [problem for what in after for problem in _problems(what, before[what], after[what])]
    if not applied:
        wrong.insert(0, f"each of {_MOST_STEPS} steps was skipped")
    loss = scalars.get("loss", math.nan)
    if not math.isfinite(loss):
        wrong.insert(0, f"the loss is {loss}")
    train = recipe.train
    found = f"{train.batch_size} rows in {train.precision}: loss {loss:.4g}, first step {seconds[0]:.2f} s, step "
    found += f"{len(seconds)} {1e3 * seconds[-1]:.0f} ms, at most {scalars['memory_gib']:.1f} GiB"
    text = f"{', '.join(wrong)}; {found}" if wrong else found
    return judged(not wrong, text, "Do not train on this card before the parity checks pass.")


def _carried(trainer: Trainer) -> dict[str, list[Tensor]]:
    return {"weights": _copies(trainer.net.parameters()), "average": _copies(trainer.ema.average)}


def _copies(values: Iterable[Tensor]) -> list[Tensor]:
    """On the CPU: on the GPU they would count as memory of the step."""
    return [value.detach().to("cpu", copy=True) for value in values]


def _problems(what: str, before: list[Tensor], after: list[Tensor]) -> list[str]:
    finite = all(bool(torch.isfinite(value).all()) for value in after)
    changed = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return ([] if finite else [f"{what} that are not finite"]) + ([] if changed else [f"{what} did not change"])
