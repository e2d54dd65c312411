"""What a recipe may say about sampling; like everything in `cld_core.recipe`, free of torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from cld_core.errors import UsageError

from .keys import key

# Keys of `sampling` that one method alone reads.
METHOD_KEYS = {"ode": ("solver",), "exponential": ("order", "corrector", "eta"), "sscs": ("sscs_order",)}


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    method: Literal["ode", "em", "sscs", "exponential"] = key(
        "ode", "adaptive probability flow, Euler-Maruyama, SSCS, or exponential multistep"
    )
    nfe: int = key(500, "network evaluations of a fixed-step method, denoising included", ge=2)
    grid: Literal["auto", "linear", "quadratic", "power"] = key(
        "auto", "spacing of the times; auto: power for the exponential method, else linear"
    )
    grid_power: float = key(6.0, "p of the power grid, which is uniform in B(t)^(1/p)", ge=1)
    order: int = key(1, "degree of the exponential method's interpolation", ge=0, le=3)
    corrector: bool = key(True, "let each evaluation of the exponential method correct the step before")
    eta: float = key(0.0, "noise of the exponential method: 0 the probability flow, 1 the reverse SDE", ge=0, le=1)
    sscs_order: int = key(1, "order of convergence of SSCS; 1 is the published one", ge=1, le=2)
    solver: Literal["rows", "torchdiffeq"] = key(
        "rows", "adaptive RK45 with a step size for every sample, or torchdiffeq's, one for the batch"
    )
    eps: float = key(1e-3, "time at which the reverse process ends", gt=0, lt=1)
    denoise: bool = key(True, "end with a noise-free step of size eps")
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)
    compile: bool = key(False, "torch.compile the network that samples are drawn with; GPUs: with CUDA graphs")

    @property
    def spacing(self) -> str:
        """The grid in force."""
        if self.grid != "auto":
            return self.grid
        return "power" if self.method == "exponential" else "linear"

    @property
    def idle(self) -> tuple[str, ...]:
        """Keys that the method does not read, whatever they are set to."""
        return ("nfe", "grid", "grid_power") if self.method == "ode" else ("rtol", "atol")

    def refuse_idle(self, names: Iterable[str]) -> None:
        """Refuse keys that somebody set though the method does not read them.

        Raises:
            UsageError: names the first.
        """
        for name in names:
            if name in self.idle:
                raise UsageError(f"sampling.{name} has no effect with sampling.method={self.method}. Leave it out.")

    def in_force(self) -> "SamplingSpec":
        """The same sampler, with every key that it does not read at its default: equal where the samples are."""
        changed = replace(self, **{name: getattr(SamplingSpec(), name) for name in self.idle})
        return changed if changed.method == "ode" else replace(changed, grid=cast(Any, changed.spacing))

    def switched(self, method: str) -> "SamplingSpec":
        """With another method, unchecked, and the keys that it does not read back at their defaults."""
        changed = replace(self, method=cast(Any, method))
        return replace(changed, **{name: getattr(SamplingSpec(), name) for name, _, _ in changed.problems()})

    def problems(self) -> list[tuple[str, str, str]]:
        """Keys that differ from their defaults without any effect, as `Recipe.problems` has them."""
        needs = [(name, "method", method) for method, names in METHOD_KEYS.items() for name in names]
        in_force = {"method": self.method, "grid": self.spacing}
        found = []
        for name, selector, value in [*needs, ("grid_power", "grid", "power")]:
            default = getattr(SamplingSpec(), name)
            if getattr(self, name) != default and in_force[selector] != value:
                text = f"has no effect with sampling.{selector}={in_force[selector]}"
                fix = f"Set sampling.{selector}={value} or leave it at {str(default).lower()}."
                found.append((name, selector, f"{text}. {fix}"))
        return found
