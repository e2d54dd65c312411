"""The optimiser of a recipe."""

from collections.abc import Iterable
from typing import Any

import torch

from cld_core.recipe.schema import OptimSpec


def build(spec: OptimSpec, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, AdamW or Adamax; the fused kernels where the device and the optimiser have them."""
    shared: dict[str, Any] = {
        "lr": spec.lr,
        "betas": (spec.beta1, spec.beta2),
        "eps": spec.eps,
        "weight_decay": spec.weight_decay,
    }
    if spec.name == "adamax":
        return torch.optim.Adamax(parameters, foreach=True, **shared)
    cls = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return cls(parameters, fused=spec.impl != "plain", **shared)


def rate(spec: OptimSpec, step: int) -> float:
    """The learning rate of optimiser step ``step``, counted from 0: a linear rise over the warm-up, then constant."""
    return spec.lr * min(1.0, (step + 1) / spec.warmup_steps) if spec.warmup_steps else spec.lr
