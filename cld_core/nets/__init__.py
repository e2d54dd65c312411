"""The networks alpha(u, t): ``net(u, t)`` with u (B, nC, ...) and t (B,) gives (B, mC, ...).

n counts the halves of the state u and m those whose score is learned: 2 and 1 for CLD, 1 and 1 for VPSDE.

A network that is built for K classes also takes ``net(u, t, label)`` with labels (B,), int64, from 0 to K - 1; K, or no
label, stands for none.
"""

import torch
from torch import Tensor, nn

from cld_core import sde
from cld_core.classes import Classes
from cld_core.config import Recipe, registry
from cld_core.config.network import NetworkSpec
from cld_core.errors import RecipeError

__all__ = ["build", "of_recipe"]
# Numbers that stand for a label where they are appended to an input.
LABEL_FEATURES = 16


def of_recipe(recipe: Recipe, data_shape: tuple[int, ...], classes: Classes | None = None) -> nn.Module:
    """The network of a recipe, for the halves of its diffusion; the other arguments, and errors, are as in `build`."""
    diffusion = sde.build(recipe.sde)
    sizes = {"halves_in": diffusion.n, "halves_out": diffusion.m, "classes": len(classes or ())}
    return build(recipe.network, data_shape=data_shape, **sizes)


def build(
    spec: NetworkSpec, *, data_shape: tuple[int, ...], halves_in: int, halves_out: int, classes: int = 0
) -> nn.Module:
    """The network of a recipe's `network` section.

    Args:
        data_shape: shape of one example, (C, ...).
        halves_in: n, halves of the state that the network sees.
        halves_out: m, halves that it answers for.
        classes: of the data; 0 if the network gets no labels.

    Raises:
        RecipeError: the network does not take data of this shape, or no labels.
    """
    if classes and not spec.takes_labels:
        fix = "Set data.labels=false, or use mlp, resnet, ncsnpp or unet1d"
        raise RecipeError(f"network.name={spec.name} takes no labels. {fix}.")
    for name, text in spec.misfits(data_shape):
        raise RecipeError(f"'network.{name}' {text}")
    # Networks of plug-ins need not know of classes.
    more = {"classes": classes} if classes else {}
    net: nn.Module = registry.build("network", spec, data_shape, halves_in, halves_out, **more)
    return net


class LabelEmbedding(nn.Embedding):
    """A vector for each of the classes, and one more for "no label"."""

    def of(self, like: Tensor, label: tuple[Tensor, ...]) -> Tensor:
        """(B, size), for a batch ``like`` (B, ...) with labels, or with none."""
        none = self.num_embeddings - 1
        return self(*(label or (torch.full((len(like),), none, device=like.device),)))


def embedding(classes: int, size: int) -> LabelEmbedding | None:
    """None, which draws no random numbers, for a network without labels."""
    return LabelEmbedding(classes + 1, size) if classes else None
