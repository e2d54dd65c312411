"""The `sampling` section: one spec for each `method`, which selects the keys that the section has.

A further sampler derives from `SamplingSpec` (or `FixedStepSpec`) and is registered in `variants`. Another method
keeps the keys that both methods have.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

from cld_core.errors import RecipeError

from .keys import key


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """The keys that every method has.

    Attributes:
        needs_split: the method needs a diffusion that is `splittable`.
        needs_solution: the method needs a solution that was fitted to the network, `cld_core.solutions`.
    """

    needs_split: ClassVar[bool] = False
    needs_solution: ClassVar[bool] = False

    method: str = key("ode", "how samples are drawn")
    eps: float = key(1e-3, "time at which the reverse process ends", gt=0, lt=1)
    denoise: bool = key(True, "end with a noise-free step of size eps")
    compile: bool = key(False, "torch.compile the network that samples are drawn with; GPUs: with CUDA graphs")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = key(
        "fp32", "precision of the network that samples are drawn with; tf32: on GPUs", added=True
    )

    def canonical(self) -> Self:
        """The same sampler with "auto" replaced by the grid that it means: equal if the samples are equal."""
        return self

    def problems(self) -> list[tuple[str, str, str]]:
        """Keys that do not go together, as in `checks.problems`, without the section's name."""
        return []

    def require_usable(self) -> None:
        """Refuse settings that give useless samples. They may be in the recipe of a run that does without samples.

        Raises:
            RecipeError: names the keys.
        """


@dataclass(frozen=True, kw_only=True)
class OdeSpec(SamplingSpec):
    """The probability flow, by an adaptive solver that chooses its own number of network evaluations."""

    method: Literal["ode"] = key("ode", "adaptive solver of the probability flow")
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)


@dataclass(frozen=True, kw_only=True)
class FixedStepSpec(SamplingSpec):
    """The keys of all methods that step through a fixed grid of times.

    Attributes:
        auto_grid: the grid that `auto` means.
    """

    auto_grid: ClassVar[str] = "linear"

    nfe: int = key(500, "network evaluations of a fixed-step method, denoising included", ge=2, le=1_000_000)
    grid: Literal["auto", "linear", "quadratic", "power"] = key(
        "auto", "spacing of the times; auto: power for the exponential method, else linear"
    )
    grid_power: float = key(6.0, "p of the power grid, which is uniform in B(t)^(1/p)", ge=1, le=1000)

    @property
    def spacing(self) -> str:
        """The spacing of the times: `grid`, with "auto" resolved."""
        return self.auto_grid if self.grid == "auto" else self.grid

    def canonical(self) -> Self:
        return replace(self, grid=cast(Any, self.spacing))

    def problems(self) -> list[tuple[str, str, str]]:
        default = FixedStepSpec.grid_power
        if self.grid_power == default or self.spacing == "power":
            return []
        text = f"has no effect with sampling.grid={self.spacing}"
        return [("grid_power", "grid", f"{text}. Set sampling.grid=power or leave it at {default}.")]


@dataclass(frozen=True, kw_only=True)
class EmSpec(FixedStepSpec):
    method: Literal["em"] = key("em", "Euler-Maruyama")


@dataclass(frozen=True, kw_only=True)
class SscsSpec(FixedStepSpec):
    needs_split: ClassVar[bool] = True

    method: Literal["sscs"] = key("sscs", "symmetric splitting (SSCS)")
    sscs_order: int = key(1, "order of convergence of SSCS; 1 is the published one", ge=1, le=2)


@dataclass(frozen=True, kw_only=True)
class ExponentialSpec(FixedStepSpec):
    auto_grid: ClassVar[str] = "power"

    method: Literal["exponential"] = key("exponential", "exponential multistep")
    order: int = key(1, "degree of the interpolating polynomial", ge=0, le=3)
    corrector: bool = key(True, "let each evaluation correct the step before it")
    eta: float = key(0.0, "amount of noise: 0 the probability flow, 1 the reverse SDE", ge=0, le=1)

    def require_usable(self) -> None:
        # Where it does not diverge, other settings are as close: docs/samplers.md, "Noise".
        if self.order == 3 and self.corrector and self.eta >= 0.3:
            text = "'sampling.order' cannot be 3 with sampling.corrector=true and sampling.eta of 0.3 or more"
            found = f"sampling.eta is {self.eta:g}, and noise grows in long steps"
            raise RecipeError(f"{text}: {found}. Set sampling.corrector=false, and best sampling.order=2 with it.")


@dataclass(frozen=True, kw_only=True)
class TunedSpec(SamplingSpec):
    needs_solution: ClassVar[bool] = True

    method: Literal["tuned"] = key("tuned", "times and coefficients that `cldctl tune` has fitted to the network")
    nfe: int = key(10, "network evaluations, denoising included, for which the network was tuned", ge=2, le=1000)
    solution: str | None = key(None, "digest of the fitted solution; null: the one for this number of evaluations")
