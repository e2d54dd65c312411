"""The networks alpha(u, t), and the interface of networks of your own.

See docs/howto/own-network.md. A network is a `torch.nn.Module` that is made as ``Network(spec,
data_shape, halves_in, halves_out)``, with these arguments of `build`, and called as ``net(u, t)``:

    u       (B, nC, ...), of the type of the network's weights: n halves of an example (C, ...),
            one after another
    t       (B,), of the same type, in (0, 1]: 0 is data, 1 is noise; at least `objective.loss_eps`
    result  (B, mC, ...), of any floating type: the noise in each of the m halves whose score is
            learned, or what `objective.mixed_score` or `objective.precondition` leave of it

n and m are `halves_in` and `halves_out`: 2 and 1 for CLD, whose halves are x and its velocity, 1
and 1 for VPSDE. Examples are vectors (d), curves (C, L) or images (C, H, W), whose numbers are
about as large as standard normal ones.

If the data are labelled, a network whose spec has ``takes_labels = True`` is made with
``classes=K``, and also called as ``net(u, t, label)``, with labels (B,), int64, from 0 to K - 1; K,
or no label, stands for none.

The examples of a batch do not affect each other, and only weights and buffers are kept between
calls.
"""

import copy
from collections.abc import Sized

import torch
from torch import Tensor, nn

from cld_core import sde
from cld_core.config import Recipe, registry
from cld_core.config.keys import Shape
from cld_core.config.network import ModuleSpec, NetworkSpec
from cld_core.errors import RecipeError
from cld_core.plugins import described, is_shipped, register, trial

__all__ = ["build", "of_recipe", "require_usable"]
# The size of the embedding of a label that is appended to an input.
LABEL_FEATURES = 16


def of_recipe(recipe: Recipe, data_shape: Shape, classes: Sized | None = None) -> nn.Module:
    """The network of a recipe, for the halves of its diffusion; see `build`."""
    diffusion = sde.build(recipe.sde)
    sizes = {"halves_in": diffusion.n, "halves_out": diffusion.m, "classes": len(classes or ())}
    return build(recipe.network, data_shape=data_shape, **sizes)


def build(
    spec: NetworkSpec,
    *,
    data_shape: Shape,
    halves_in: int,
    halves_out: int,
    classes: int = 0,
) -> nn.Module:
    """The network of a recipe's `network` section.

    Args:
        data_shape: shape of one example, (C, ...).
        halves_in: n, the halves of the input.
        halves_out: m, the halves of the result.
        classes: the number of classes; 0 for a network without labels.

    Raises:
        RecipeError: the network does not take data of this shape, or takes no labels.
    """
    if classes and not spec.takes_labels:
        raise RecipeError(
            f"network.name={spec.name} takes no labels. Set data.labels=false, or use mlp, resnet, "
            f"ncsnpp or unet1d."
        )
    for name, text in spec.misfits(data_shape):
        raise RecipeError(f"'network.{name}' {text}")
    # Networks of plug-ins need not have the argument.
    more = {"classes": classes} if classes else {}
    net: nn.Module = registry.implementation_of("network", spec)(
        spec, data_shape, halves_in, halves_out, **more
    )
    return net


def _module(spec: ModuleSpec, *sizes: object, **more: object) -> nn.Module:
    raise RecipeError(
        "network.name=module has no code. Pass the module itself, network=Net(), or register it "
        "in a plug-in (docs/howto/own-network.md)."
    )


# Registered as a plug-in's, so that it is tried as one. `_module` refuses a recipe that names it.
register("network", ModuleSpec.name, _module, ModuleSpec)


def outline(recipe: Recipe, data_shape: Shape, classes: Sized | None = None) -> nn.Module:
    """The network of a recipe without the numbers of its tensors, for comparing names, shapes and
    types. The network of a plug-in has numbers."""
    where = "meta" if is_shipped("network", recipe.network.name) else "cpu"
    with torch.device(where), torch.random.fork_rng(devices=[]):
        return of_recipe(recipe, data_shape, classes)


def require_usable(
    recipe: Recipe, data_shape: Shape, net: object = None, classes: Sized | None = None
) -> None:
    """Call the network of a recipe once, as training does, on two examples of noise of this shape.

    Args:
        net: a module, a copy of which is called; None: the network of the recipe.
        classes: the classes of the data; None: any number of classes, if the recipe has labels.

    Raises:
        RecipeError: the network cannot be made, fails, or returns another type or shape than this
            module documents.
    """
    diffusion = sde.build(recipe.sde)
    channels, *rest = data_shape
    classes = range(3 if recipe.data.labels else 0) if classes is None else classes
    label = [torch.tensor([0, len(classes)])] if classes else []
    with (
        trial("network.name", recipe.network.name),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        net = of_recipe(recipe, data_shape, classes) if net is None else copy.deepcopy(net)
        if not isinstance(net, nn.Module):
            raise ValueError(f"it is of type {type(net).__name__}, not a torch.nn.Module")
        net.cpu()
        if (weight := next(net.parameters(), None)) is None:
            raise ValueError("it has no weights")
        u = torch.randn(2, diffusion.n * channels, *rest).to(weight.dtype)
        alpha = net(u, u.new_tensor([recipe.objective.loss_eps, 1.0]), *label)
        shape = (2, diffusion.m * channels, *rest)
        if getattr(alpha, "shape", None) != shape or not alpha.is_floating_point():
            raise ValueError(
                f"for u of shape {tuple(u.shape)} it returns {described(alpha)}, not floats of "
                f"shape {shape}"
            )
        if not alpha.isfinite().all():
            raise ValueError("it returns numbers that are not finite")


class LabelEmbedding(nn.Embedding):
    """A vector for each class, and one for "no label"."""

    def of(self, like: Tensor, label: tuple[Tensor, ...]) -> Tensor:
        """(B, size), for a batch ``like`` (B, ...) with labels (B,), or without."""
        if label:
            return self(*label)
        none = self.num_embeddings - 1
        return self(torch.full((len(like),), none, device=like.device))


def embedding(classes: int, size: int) -> LabelEmbedding | None:
    """The embedding of labels; None for a network without labels, which draws no numbers."""
    return LabelEmbedding(classes + 1, size) if classes else None
