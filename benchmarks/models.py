"""The networks that are measured: ours, and the baseline with the same weights."""

from pathlib import Path

import torch

from benchmarks.baseline import PlainCLD, PlainMLP
from cld_core import nets
from cld_core.config import Recipe, load
from cld_core.model import Model
from cld_core.nets.ncsnpp import Ncsnpp

RECIPES = Path(__file__).parents[1] / "recipes"


def toy_recipe(*overrides: str) -> Recipe:
    """The published toy setting."""
    return load(RECIPES / "toy.yaml", list(overrides))


def toy_model(device: str = "cpu", steps: int = 0) -> Model:
    """A toy model after ``steps`` training steps; for an untrained one, adaptive solvers need fewer
    evaluations."""
    from cld_core.ranks import Ranks
    from cld_core.train.step import Trainer

    recipe = toy_recipe()
    trainer = Trainer(recipe, Ranks(device=torch.device(device)))
    for step in range(steps):
        trainer.step(step)
    trainer.net.load_state_dict(trainer.ema.state_dict()["average"], strict=False)
    trainer.net.requires_grad_(False)
    return Model(recipe, device, net=trainer.net.eval(), data=trainer.source, step=steps)


# (in, out) of the layers of the published toy network.
TOY_LAYERS = ((5, 128), (128, 128), (128, 128), (128, 128), (128, 2))


def toy_flops(rows: int, passes: int = 1) -> float:
    """FLOP of the products in the forward pass of the toy network; ``passes``: 2 adds the backward
    pass to u."""
    return passes * rows * sum(2.0 * a * b for a, b in TOY_LAYERS)


def plain_toy(model: Model) -> PlainCLD:
    """The baseline with the weights of ``model``."""
    net = PlainMLP()
    net.load_state_dict({name: value.cpu() for name, value in model.net.state_dict().items()})
    net.requires_grad_(False)
    return PlainCLD(net)


def ncsnpp_recipe(quick: bool, *overrides: str) -> Recipe:
    """The CIFAR-10 recipe in float32 with a network of 10.1 million parameters, or with a tiny one
    (``quick``)."""
    size = 8 if quick else 32
    shape = (
        ["channels=8", "multipliers=[1,2]", "blocks=1", "attention=[4]"]
        if quick
        else ["channels=64", "blocks=2"]
    )
    network = [f"network.{text}" for text in [*shape, f"image_size={size}"]]
    data = ["data.name=folder", f"data.size={size}", "data.channels=3"]
    train = [
        "train.precision=fp32",
        "train.channels_last=false",
        f"train.batch_size={2 if quick else 16}",
        "cluster.nodes=1",
    ]
    train += ["cluster.gpus_per_node=0"]
    return load(RECIPES / "cifar10.yaml", [*network, *data, *train, *overrides])


def image_net(recipe: Recipe) -> Ncsnpp:
    made = nets.of_recipe(recipe, recipe.data.shape)
    assert isinstance(made, Ncsnpp), "an image recipe has NCSN++"
    return made
