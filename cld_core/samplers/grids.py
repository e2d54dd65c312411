"""Grids of forward times t_0 = 1 > t_1 > ... > t_n = eps for the samplers with fixed steps."""

from collections.abc import Callable

from cld_core.config.sampling import FixedStepSpec
from cld_core.errors import RecipeError
from cld_core.sde import Schedule


def linear(n: int, eps: float) -> list[float]:
    """n equal steps."""
    return [1.0 - (1.0 - eps) * i / n for i in range(n)] + [eps]


def quadratic(n: int, eps: float) -> list[float]:
    """ "Quadratic striding": steps that shrink towards the data, t_i = eps + (1 - eps) (1 - i/n)^2."""
    return [eps + (1.0 - eps) * (1.0 - i / n) ** 2 for i in range(n)] + [eps]


def power(n: int, eps: float, *, rho: float, schedule: Schedule) -> list[float]:
    """n equal steps of B(t)^(1/rho), hence of t^(1/rho) if beta is constant."""
    first, last = (schedule.integral(t) ** (1.0 / rho) for t in (1.0, eps))
    return [1.0, *(schedule.time((first + (last - first) * i / n) ** rho) for i in range(1, n)), eps]


GRIDS: dict[str, Callable[[int, float], list[float]]] = {"linear": linear, "quadratic": quadratic}


def times(grid: str, n: int, eps: float, *, rho: float, schedule: Schedule) -> list[float]:
    """The n + 1 times of a grid by its name in recipes; ``rho`` and ``schedule`` are those of "power"."""
    return power(n, eps, rho=rho, schedule=schedule) if grid == "power" else GRIDS[grid](n, eps)


def grid_of(spec: FixedStepSpec, schedule: Schedule, *, per_step: int = 1) -> list[float]:
    """The times of a recipe's fixed-step method, for as many whole steps as its evaluations allow.

    Args:
        per_step: evaluations of a step. The denoising step takes one more.

    Raises:
        RecipeError: there are not enough evaluations for one step.
    """
    own = spec.nfe - 1 if spec.denoise else spec.nfe
    steps = own // per_step
    if steps == 0:
        least = per_step + spec.nfe - own
        text = f"is too small for sampling.method={spec.method}, a step of which takes {per_step} evaluations here"
        raise RecipeError(f"sampling.nfe={spec.nfe} {text}. Set sampling.nfe={least} or more.")
    return times(spec.spacing, steps, spec.eps, rho=spec.grid_power, schedule=schedule)
