"""The networks alpha(u, t): ``net(u, t)`` with u (B, nC, ...) and t (B,) gives (B, mC, ...).

n counts the halves of the state u and m those whose score is learned: 2 and 1 for CLD, 1 and 1 for VPSDE.
"""

from torch import nn

from cld_core.recipe import variants
from cld_core.recipe.network import NetworkSpec

__all__ = ["build"]


def build(spec: NetworkSpec, *, data_shape: tuple[int, ...], halves_in: int, halves_out: int) -> nn.Module:
    """The network of a recipe's `network` section.

    Args:
        data_shape: shape of one example, (C, ...).
        halves_in: n, halves of the state that the network sees.
        halves_out: m, halves that it answers for.

    Raises:
        RecipeError: the network does not take data of this shape.
    """
    net: nn.Module = variants.build("network", spec, data_shape, halves_in, halves_out)
    return net
