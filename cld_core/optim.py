"""The optimiser of a recipe, with the kernels that it chooses."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from cld_core.config.registry import implementation_of
from cld_core.config.train import OptimSpec
from cld_core.errors import RecipeError
from cld_core.plugins import described, trial


def build(spec: OptimSpec, parameters: Iterable[Parameter]) -> Optimizer:
    """The optimiser that a recipe's `optim` section describes.

    Raises:
        RecipeError: ``impl`` names kernels that are not available, or a plug-in returns something
            else.
    """
    with trial("optim.name", spec.name):
        optimiser = implementation_of("optim", spec)(spec, parameters)
        if not isinstance(optimiser, Optimizer):
            raise ValueError(f"it returns {described(optimiser)}, not a torch.optim.Optimizer")
        return optimiser


def adam(spec: OptimSpec, parameters: Iterable[Parameter]) -> Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return _adam(torch.optim.Adam, spec, parameters)


def adamw(spec: OptimSpec, parameters: Iterable[Parameter]) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return _adam(torch.optim.AdamW, spec, parameters)


def adamax(spec: OptimSpec, parameters: Iterable[Parameter]) -> Optimizer:
    """Adam with the largest moment in place of the second (Kingma and Ba 2015, section 7.1)."""
    if spec.impl == "apex":
        raise RecipeError("optim.impl=apex: NVIDIA apex has no adamax. Set optim.impl=auto.")
    if spec.impl == "fused":
        raise RecipeError("optim.impl=fused: adamax has no fused kernels. Set optim.impl=auto.")
    return torch.optim.Adamax(parameters, foreach=True, **_moments(spec))


def _adam(
    kind: type[torch.optim.Adam], spec: OptimSpec, parameters: Iterable[Parameter]
) -> Optimizer:
    if spec.impl == "apex":
        is_decoupled = kind is torch.optim.AdamW
        return _fused_adam()(parameters, adam_w_mode=is_decoupled, **_moments(spec))
    return kind(parameters, fused=spec.impl != "plain", **_moments(spec))


def _moments(spec: OptimSpec) -> dict[str, Any]:
    return {
        "lr": spec.lr,
        "betas": (spec.beta1, spec.beta2),
        "eps": spec.eps,
        "weight_decay": spec.weight_decay,
    }


def _fused_adam() -> Any:
    """NVIDIA apex's FusedAdam. The package of that name on PyPI is another project and has none."""
    if not torch.cuda.is_available():
        raise RecipeError(
            "optim.impl=apex: NVIDIA apex computes on GPUs only, and there is none. Set "
            "optim.impl=auto."
        )
    try:
        from apex.optimizers import FusedAdam
    except Exception as error:
        raise RecipeError(
            f"optim.impl=apex: NVIDIA apex cannot be loaded ({type(error).__name__}: {error}); "
            f"`pip install apex` is another project. Build NVIDIA's, or set optim.impl=auto."
        ) from error
    return FusedAdam


def skips_on_device(optimiser: Optimizer) -> bool:
    """Whether the step's kernels read ``optimiser.found_inf``, a tensor, 1 to skip the step.

    Then the host does not wait for the device to learn whether the gradient was good.
    """
    return isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW) and bool(
        optimiser.defaults.get("fused")
    )


def rate(spec: OptimSpec, step: int, steps: int) -> float:
    """The learning rate of optimiser step ``step``, counted from 0, in a training of ``steps``
    steps.

    It is the product of a linear warm-up and the decay (docs/math.md section 5), and depends on
    nothing else: a run that is resumed with more steps continues at the rate that a run of that
    length has there.
    """
    warm = min(1.0, step / spec.warmup_steps) if spec.warmup_steps else 1.0
    progress = min(1.0, step / steps)
    decays = {"linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return spec.lr * warm * decays.get(spec.decay, 1.0)


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's `state_dict` in torch's form: the number of steps with each parameter, as a
    float tensor.

    apex keeps that number once for a group. Checkpoints have torch's form, so that either can load
    them.
    """
    entries = {}
    groups = []
    for group in state["param_groups"]:
        for index in group["params"]:
            if index in state["state"]:
                entry = dict(state["state"][index])
                step = entry.pop("step", group.get("step", 0))
                count = torch.as_tensor(step, dtype=torch.float32)
                entries[index] = {"step": count, **entry}
        groups.append({name: value for name, value in group.items() if name != "step"})
    return {"state": entries, "param_groups": groups}


def load(optimiser: Optimizer, state: dict[str, Any]) -> None:
    """Load a `portable` state. Settings such as the kernels and the rate stay as they are.

    Raises:
        ValueError: it is the state of other parameters.
    """
    pairs = zip(optimiser.param_groups, state["param_groups"], strict=True)
    groups = [{**own, "params": saved["params"]} for own, saved in pairs]
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
