"""The `sampling` section: one spec for each `method`, which selects the keys that the section has.

A further sampler derives from `SamplingSpec` (or `FixedStepSpec`) and is registered in `registry`.
Another method keeps the keys of `SamplingSpec`, and `nfe` if both have it; its other keys start at
its defaults.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self, cast

from cld_core.errors import RecipeError

from .keys import Problem, key, spec_class


@spec_class
class SamplingSpec:
    """The keys that every method has.

    Attributes:
        needs_split: whether the method needs a diffusion that is `splittable`.
        adaptive: whether each sample has its own steps.
        needs_solution: whether the method needs a solution that was fitted to the network
            (`cld_core.run.tunings`).
        compared: the settings that `cldctl bench samplers` compares: keys of this section, as
            KEY=VALUE,..., by the names that it shows.
    """

    needs_split: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    needs_solution: ClassVar[bool] = False
    compared: ClassVar[Mapping[str, str]] = {}

    method: str = key("ode", "how samples are drawn")
    eps: float = key(1e-3, "time at which the reverse process ends", gt=0, lt=1)
    denoise: bool = key(True, "end with a noise-free step of size eps")
    compile: bool = key(
        False, "torch.compile the network that samples are drawn with; GPUs: with CUDA graphs"
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = key(
        "fp32", "precision of the network in sampling; tf32: on GPUs only"
    )
    guidance: float = key(
        1.0,
        "scale of classifier-free guidance: 1 is the conditional score, 0 the unconditional one; "
        "only with data.labels",
        ge=0,
        le=1000,
    )
    guidance_from: float = key(
        0.0, "smallest t with guidance; below it, the conditional score is used", ge=0, le=1
    )
    guidance_to: float = key(
        1.0, "largest t with guidance; above it, the conditional score is used", ge=0, le=1
    )

    def canonical(self) -> Self:
        """The same sampler with "auto" replaced by the grid that it means: equal if the samples are
        equal."""
        return self

    @property
    def follows_flow(self) -> bool:
        """Whether it approximates the probability flow: it draws no noise after the prior."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.guidance_from > self.guidance_to:
            yield (
                "guidance_from",
                "guidance_to",
                f"is {self.guidance_from:g}, above sampling.guidance_to={self.guidance_to:g}: "
                f"guidance would never act. Lower it.",
            )

    def require_usable(self) -> None:
        """Refuse settings that give useless samples. The recipe of a run that draws none may have
        them.

        Raises:
            RecipeError: names the keys.
        """


@spec_class
class OdeSpec(SamplingSpec):
    """The probability flow, by an adaptive solver that chooses its own number of network
    evaluations."""

    adaptive = True
    compared: ClassVar = {"ode": ""}
    follows_flow = True

    method: str = key("ode", "adaptive solver of the probability flow")
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)


@spec_class
class FixedStepSpec(SamplingSpec):
    """The keys of all methods that step through a fixed grid of times.

    Attributes:
        auto_grid: the grid that `auto` means.
    """

    auto_grid: ClassVar[str] = "linear"

    nfe: int = key(
        500, "network evaluations of a fixed-step method, denoising included", ge=2, le=1_000_000
    )
    grid: Literal["auto", "linear", "quadratic", "power", "noise", "flow"] = key(
        "auto",
        "spacing of the times; auto: power for the exponential method, else linear; "
        "flow: uniform in sigma / (1 + sigma) for the noise level sigma",
    )
    grid_power: float = key(
        6.0,
        "p of the grids power and noise, which are uniform in B(t)^(1/p) and in sigma^(1/p); "
        "EDM: noise, 7",
        ge=1,
        le=1000,
    )

    @property
    def spacing(self) -> str:
        """The spacing of the times: `grid`, with "auto" resolved."""
        return self.auto_grid if self.grid == "auto" else self.grid

    def canonical(self) -> Self:
        return replace(self, grid=cast(Any, self.spacing))

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        has_power = self.spacing in ("power", "noise")
        if self.grid_power != FixedStepSpec.grid_power and not has_power:
            yield (
                "grid_power",
                "grid",
                f"has no effect with sampling.grid={self.spacing}. Set sampling.grid=power or "
                f"leave it at {FixedStepSpec.grid_power}.",
            )


@spec_class
class EmSpec(FixedStepSpec):
    compared: ClassVar = {"em-quadratic": "grid=quadratic"}

    method: str = key("em", "Euler-Maruyama")


@spec_class
class SscsSpec(FixedStepSpec):
    needs_split = True
    compared: ClassVar = {
        "sscs-linear": "grid=linear",
        "sscs-quadratic": "grid=quadratic",
        "sscs-2-quadratic": "sscs_order=2,grid=quadratic",
    }

    method: str = key("sscs", "symmetric splitting (SSCS)")
    sscs_order: int = key(1, "order of convergence of SSCS; 1 is the published one", ge=1, le=2)


@spec_class
class MultistepSpec(FixedStepSpec):
    """The keys of methods that interpolate the score between steps (`samplers.multistep`)."""

    order: int = key(1, "degree of the interpolating polynomial", ge=0, le=3)
    corrector: bool = key(True, "let each evaluation correct the step before it")
    eta: float = key(0.0, "amount of noise: 0 the probability flow, 1 the reverse SDE", ge=0, le=1)


@spec_class
class ExponentialSpec(MultistepSpec):
    auto_grid = "power"
    compared: ClassVar = {
        "exponential": "",
        "exponential-2": "order=2,corrector=false",
        "exponential-3": "order=3,corrector=false,grid_power=3",
        "exponential-2-noise": "order=2,corrector=false,eta=1,grid=quadratic",
    }

    method: str = key("exponential", "exponential multistep")
    repeats: int = key(
        1,
        "how often each group of sampling.jump steps is made; before each repetition, the forward "
        "process leads back to its start; sampling.nfe counts each step once",
        ge=1,
        le=1000,
    )
    jump: int = key(20, "steps in a group that sampling.repeats repeats", ge=1)

    def canonical(self) -> Self:
        same = super().canonical()
        return same if self.repeats > 1 else replace(same, jump=ExponentialSpec.jump)

    @property
    def follows_flow(self) -> bool:
        return self.eta == 0 and self.repeats == 1

    def require_usable(self) -> None:
        # Where it does not diverge, other settings are as close: docs/samplers.md, "Noise".
        if self.order == 3 and self.corrector and self.eta >= 0.3:
            raise RecipeError(
                f"'sampling.order' cannot be 3 with sampling.corrector=true and sampling.eta of "
                f"0.3 or more: sampling.eta is {self.eta:g}, and noise grows in long steps. Set "
                f"sampling.corrector=false, and best sampling.order=2 with it."
            )


@spec_class
class GddimSpec(MultistepSpec):
    auto_grid = "power"
    compared: ClassVar = {"gddim": "", "gddim-noise": "order=0,eta=1"}

    method: str = key("gddim", "generalised DDIM (gDDIM)")
    root: Literal["flow", "cholesky"] = key(
        "flow", "root of the kernel's covariance that defines the noise: R_t (flow) or L_t of gDDIM"
    )
    order: int = 2
    corrector: bool = False

    @property
    def follows_flow(self) -> bool:
        return self.eta == 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.eta > 0 and (self.order > 0 or self.corrector):
            yield (
                "order",
                "eta",
                f"must be 0 with sampling.eta={self.eta:g}, and sampling.corrector false: gDDIM "
                f"with noise takes single steps. Set sampling.order=0 and "
                f"sampling.corrector=false, or sampling.method=exponential.",
            )
        if self.eta > 0 and self.root == "cholesky":
            yield (
                "root",
                "eta",
                f"has no effect with sampling.eta={self.eta:g}: gDDIM with noise is the same for "
                f"any root. Leave it at flow.",
            )


@spec_class
class ChangeOfVariablesSpec(FixedStepSpec):
    """The keys of methods that may change variables before they step (arXiv 2310.07894)."""

    conjugate_lambda: float = key(0.0, "lambda of B = lambda beta(t) J; 0 is DDIM", ge=-100, le=100)
    conjugate_matrix: Literal["identity", "ones"] = key("identity", "J of B = lambda beta(t) J")


@spec_class
class ConjugateSpec(ChangeOfVariablesSpec):
    """Euler steps after a change of variables: lambda-DDIM of arXiv 2310.07894.

    Attributes:
        scheme, reduced, conjugate, noise_scale: what it is as a `SplittingSpec`.
    """

    follows_flow = True
    scheme: ClassVar[str] = "euler"
    reduced: ClassVar[bool] = True
    conjugate: ClassVar[bool] = True
    noise_scale: ClassVar[float] = 1.0
    auto_grid = "power"
    compared: ClassVar = {"conjugate": ""}

    method: str = key("conjugate", "conjugate integrator (lambda-DDIM)")


@spec_class
class SplittingSpec(ChangeOfVariablesSpec):
    """Alternating updates of positions and velocities (arXiv 2310.07894).

    Attributes:
        stochastic: the schemes that follow the reverse SDE; the others follow the probability flow.
    """

    needs_split = True
    auto_grid = "quadratic"
    stochastic: ClassVar[tuple[str, ...]] = ("oba", "bao", "obab")
    compared: ClassVar = {
        "splitting-euler": "scheme=symplectic-euler",
        "splitting-verlet": "scheme=velocity-verlet",
        "splitting-obab": "scheme=obab",
    }

    method: str = key("splitting", "splitting integrator of positions and velocities")
    scheme: Literal["symplectic-euler", "velocity-verlet", "oba", "bao", "obab"] = key(
        "velocity-verlet", "order of the updates in a step; oba, bao and obab are stochastic"
    )
    reduced: bool = key(True, "one evaluation per step, shared by its updates")
    conjugate: bool = key(False, "split after the change of variables of method=conjugate")
    noise_scale: float = key(
        1.0,
        "lambda_s: scales the noise of scored halves before the last; 1 is the reverse SDE",
        ge=0,
    )

    @property
    def follows_flow(self) -> bool:
        return self.scheme not in self.stochastic

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        noisy = self.scheme in self.stochastic
        if noisy and self.conjugate:
            yield (
                "conjugate",
                "scheme",
                f"is true, but sampling.scheme={self.scheme} has noise. Set it to false, or "
                f"sampling.scheme=velocity-verlet.",
            )
        if not noisy and self.noise_scale != 1.0:
            yield (
                "noise_scale",
                "scheme",
                f"has no effect with sampling.scheme={self.scheme}, which has no noise. Leave it "
                f"at 1.",
            )
        if not self.conjugate and self.conjugate_lambda != 0.0:
            yield "conjugate_lambda", "conjugate", "has no effect. Set sampling.conjugate=true."


@spec_class
class TunedSpec(SamplingSpec):
    needs_solution = True
    follows_flow = True
    compared: ClassVar = {"tuned": ""}

    method: str = key("tuned", "times and coefficients fitted to the network by `cldctl tune`")
    nfe: int = key(
        10, "network evaluations of the tuned sampler, denoising included", ge=2, le=1000
    )
    solution: str | None = key(
        None, "digest of the fitted solution; null: the one for this number of evaluations"
    )
