"""The optimiser of a recipe, whoever's kernels compute it."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cld_core.config.train import OptimSpec
from cld_core.errors import RecipeError


def build(spec: OptimSpec, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, AdamW or Adamax; the fused kernels where the optimiser has them.

    Raises:
        RecipeError: ``impl`` asks for kernels that are not there.
    """
    shared: dict[str, Any] = {
        "lr": spec.lr,
        "betas": (spec.beta1, spec.beta2),
        "eps": spec.eps,
        "weight_decay": spec.weight_decay,
    }
    if spec.impl == "apex":
        return _apex(spec)(parameters, adam_w_mode=spec.name == "adamw", **shared)
    if spec.name == "adamax":
        if spec.impl == "fused":
            raise RecipeError("optim.impl=fused: adamax has no fused kernels. Set optim.impl=auto.")
        return torch.optim.Adamax(parameters, foreach=True, **shared)
    cls = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return cls(parameters, fused=spec.impl != "plain", **shared)


def _apex(spec: OptimSpec) -> Any:
    """NVIDIA apex's FusedAdam. The package of that name on PyPI is another project and has none."""
    if spec.name == "adamax":
        raise RecipeError("optim.impl=apex: NVIDIA apex has no adamax. Set optim.impl=auto.")
    if not torch.cuda.is_available():
        raise RecipeError(
            "optim.impl=apex: NVIDIA apex computes on GPUs only, and there is none. Set "
            "optim.impl=auto."
        )
    try:
        from apex.optimizers import FusedAdam
    except Exception as error:
        text = (
            f"NVIDIA apex cannot be loaded ({type(error).__name__}: {error}); `pip install "
            f"apex` is another project"
        )
        raise RecipeError(
            f"optim.impl=apex: {text}. Build NVIDIA's, or set optim.impl=auto."
        ) from error
    return FusedAdam


def skips_on_device(optimiser: torch.optim.Optimizer) -> bool:
    """Whether ``optimiser.found_inf`` (a tensor, 1 where a step is to be skipped) is read by the
    step's kernels.

    Then nobody needs to wait for the device to know whether the gradient was good.
    """
    return isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW) and bool(
        optimiser.defaults.get("fused")
    )


def rate(spec: OptimSpec, step: int, steps: int) -> float:
    """The learning rate of optimiser step ``step``, counted from 0, in a training of ``steps``
    steps.

    The warm-up is a linear rise; its product with the decay is the rate (docs/math.md section 5).
    Nothing else is remembered: a run that is resumed with more steps goes on at the rate that a run
    of that length has there.
    """
    warm = min(1.0, step / spec.warmup_steps) if spec.warmup_steps else 1.0
    progress = min(1.0, step / steps)
    decays = {"linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return spec.lr * warm * decays.get(spec.decay, 1.0)


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's `state_dict` in torch's form: the number of steps with each parameter, as a
    float tensor.

    apex keeps it once for a group. Checkpoints have torch's form, so that either can go on with
    them.
    """
    counted = {}
    for group in state["param_groups"]:
        for index in group["params"]:
            if index in state["state"]:
                entry = state["state"][index]
                step = entry.get("step", group.get("step", 0))
                count = (
                    step.to(torch.float32)
                    if isinstance(step, Tensor)
                    else torch.tensor(float(step))
                )
                counted[index] = {
                    "step": count,
                    **{name: value for name, value in entry.items() if name != "step"},
                }
    groups = [
        {name: value for name, value in group.items() if name != "step"}
        for group in state["param_groups"]
    ]
    return {"state": counted, "param_groups": groups}


def load(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up a `portable` state; settings such as the kernels and the rate stay this optimiser's
    own.

    Raises:
        ValueError: it is the state of other parameters.
    """
    groups = [
        {**own, "params": saved["params"]}
        for own, saved in zip(optimiser.param_groups, state["param_groups"], strict=True)
    ]
    optimiser.load_state_dict({"state": state["state"], "param_groups": groups})
    steps = [int(entry["step"]) for entry in state["state"].values()]
    for group in optimiser.param_groups:
        if type(optimiser).__module__.startswith("apex"):
            group["step"] = max(steps, default=0)
        for parameter in group["params"]:
            entry = optimiser.state.get(parameter, {})
            for name, value in entry.items():
                if name == "step" and not skips_on_device(optimiser):
                    entry[name] = value.cpu()
                elif name != "step":
                    # The kernels want moments to lie in memory as their parameters do
                    # (channels_last).
                    entry[name] = torch.empty_like(parameter).copy_(value)
