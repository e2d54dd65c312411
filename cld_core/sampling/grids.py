"""Grids of forward times t_0 = 1 > t_1 > ... > t_n = eps for the samplers with fixed steps."""

from collections.abc import Callable


def linear(n: int, eps: float) -> list[float]:
    """n equal steps."""
    return [1.0 - (1.0 - eps) * i / n for i in range(n)] + [eps]


def quadratic(n: int, eps: float) -> list[float]:
    """ "Quadratic striding": steps that shrink towards the data, t_i = eps + (1 - eps) (1 - i/n)^2."""
    return [eps + (1.0 - eps) * (1.0 - i / n) ** 2 for i in range(n)] + [eps]


GRIDS: dict[str, Callable[[int, float], list[float]]] = {"linear": linear, "quadratic": quadratic}
