"""The image recipes have every published value, and keys that do not go together are refused."""

from dataclasses import replace

import pytest
import torch

from cld_core import nets
from cld_core.config import with_overrides
from cld_core.config.data import CelebaHq256Spec, Cifar10Spec
from cld_core.config.network import NcsnppSpec
from cld_core.config.sampling import OdeSpec
from cld_core.config.sde import CldSpec, PsldSpec, VpsdeSpec
from cld_core.config.train import ObjectiveSpec, OptimSpec
from tests.cld_core.config.test_loading import refused
from tests.support.paths import RECIPES
from tests.support.recipes import shipped_recipe

CIFAR = {
    "data": Cifar10Spec(path="data/cifar10", flip=True),
    "sde": CldSpec(beta0=4.0, beta1=0.0, m_inv=4.0, gamma=0.04, numerical_eps=1e-9),
    "network": NcsnppSpec(
        image_size=32,
        image_channels=None,
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=8,
        attention=(16,),
        resblock="biggan",
        fir=True,
        fir_kernel=(1, 3, 3, 1),
        progressive_input="residual",
        progressive_output="none",
        combine="sum",
        embedding="fourier",
        fourier_scale=16.0,
        nonlinearity="swish",
        skip_rescale=True,
        dropout=0.1,
        init_scale=0.0,
    ),
    "objective": ObjectiveSpec(
        name="hsm", weighting="reweightedv2", mixed_score=True, loss_eps=1e-5
    ),
    "optim": OptimSpec(
        name="adam",
        lr=2e-4,
        weight_decay=0.0,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        warmup_steps=100_000,
        grad_clip=1.0,
    ),
}
CELEBAHQ = {
    "data": CelebaHq256Spec(path="data/celebahq256", flip=True),
    "sde": replace(CIFAR["sde"], numerical_eps=1e-6),
    "network": replace(
        CIFAR["network"],
        image_size=256,
        multipliers=(1, 1, 2, 2, 2, 2, 2),
        blocks=2,
        fir=False,
        progressive_input="none",
        embedding="positional",
    ),
    "objective": CIFAR["objective"],
    "optim": replace(CIFAR["optim"], lr=1e-4, max_grad_growth=100.0),
}
POST_PAPER = {
    **CELEBAHQ,
    "sde": replace(CELEBAHQ["sde"], beta0=0.1, beta1=6.9),
    "network": replace(CELEBAHQ["network"], blocks=4),
    "objective": replace(CIFAR["objective"], loss_eps=1e-3),
    "optim": replace(CELEBAHQ["optim"], name="adamw", weight_decay=1e-2),
}
# Steps, global batch, milestones, parameters.
TRAINING = {
    "cifar10": (800_000, 128, (50_000, 300_000), 107_593_987),
    "celebahq256_paper": (320_000, 64, (None, 0), 65_466_371),
    "celebahq256": (600_000, 64, (None, 0), 103_073_795),
}


def parameters_of(recipe, halves_out):
    shape = (3, recipe.data.pixels, recipe.data.pixels)
    with torch.device("meta"):
        net = nets.build(recipe.network, data_shape=shape, halves_in=2, halves_out=halves_out)
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "sections"),
    [("cifar10", CIFAR), ("celebahq256_paper", CELEBAHQ), ("celebahq256", POST_PAPER)],
)
def test_every_published_value(name, sections):
    recipe = shipped_recipe(name)
    for section, value in sections.items():
        assert getattr(recipe, section) == value
    train = recipe.train
    steps, batch, milestones, parameters = TRAINING[name]
    assert (train.steps, train.batch_size) == (steps, batch)
    assert (train.ema, train.precision, train.checkpoint_every) == (0.9999, "fp16", 10_000)
    assert (train.milestone_every, train.milestone_from) == milestones
    assert recipe.sampling == OdeSpec(eps=1e-3, denoise=True, rtol=1e-5, atol=1e-5)
    assert recipe.periodic.samples_every == 10_000
    cluster = recipe.cluster
    assert (cluster.nodes, cluster.gpus_per_node, cluster.cpus_per_task) == (2, 8, 4)
    assert parameters_of(recipe, halves_out=1) == parameters


# Of PSLD's scripts: friction, nu, multipliers, blocks, dropout, steps (its epochs); and parameters.
PSLD = {
    "cifar10_psld": (0.01, 4.01, (2, 2, 2), 8, 0.15, 2500 * 390, 97_627_910),
    "celeba64_psld": (0.005, 4.005, (1, 2, 2, 2), 4, 0.1, 500 * 1582, 62_769_286),
}


@pytest.mark.parametrize("name", PSLD)
def test_every_published_value_of_psld(name):
    recipe = shipped_recipe(name)
    friction, nu, multipliers, blocks, dropout, steps, parameters = PSLD[name]
    assert recipe.sde == PsldSpec(
        beta0=8.0, friction=friction, nu=nu, kappa=0.04, numerical_eps=1e-9, triangle="lower"
    )
    changed = {
        "image_size": recipe.data.pixels,
        "multipliers": multipliers,
        "blocks": blocks,
        "dropout": dropout,
    }
    assert recipe.network == replace(CIFAR["network"], **changed)
    assert recipe.objective == replace(CIFAR["objective"], mixed_score=False)
    assert recipe.optim == replace(CIFAR["optim"], warmup_steps=5000)
    train = recipe.train
    assert (train.steps, train.batch_size) == (steps, 128)
    assert (train.ema, train.precision) == (0.9999, "fp32")
    assert (recipe.cluster.nodes, recipe.cluster.gpus_per_node) == (1, 8)
    assert parameters_of(recipe, halves_out=2) == parameters


@pytest.mark.parametrize(
    ("name", "base", "allowed"),
    [
        ("cifar10_vpsde", "cifar10", {"name", "sde", "objective"}),
        ("cifar10_hold", "cifar10", {"name", "sde"}),
        ("toy_psld", "toy", {"name", "sde"}),
        ("toy_hold", "toy", {"name", "sde"}),
        ("toy_vpsde", "toy", {"name", "sde", "objective"}),
    ],
)
def test_recipes_that_compare_diffusions_differ_only_in_them(name, base, allowed):
    ours = shipped_recipe(name)
    theirs = shipped_recipe(base)
    sections = ours.to_dict()
    assert {key for key in sections if getattr(ours, key) != getattr(theirs, key)} == allowed
    assert replace(ours.objective, name=theirs.objective.name) == theirs.objective
    if "vpsde" in name:
        assert ours.sde == VpsdeSpec(beta0=0.1, beta1=19.9, numerical_eps=0.0)


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("cifar10", ["data.size=64"], ["'data.size'", "cifar10 has 32"]),
        (
            "cifar10_smoke",
            ["data.channels=2"],
            ["'data.channels' cannot be 2; expected one of 1, 3 or null"],
        ),
        ("toy", ["data.name=cifar10"], ["'network.name'", "(3, 32, 32)", "network.name=ncsnpp"]),
        ("toy", ["network.name=ncsnpp"], ["'network.name'", "(2,)", "network.name=mlp"]),
        ("cifar10", ["data.name=cifar100"], ["'data.name'", "Did you mean 'cifar10'?"]),
        (
            "cifar10",
            ["network.attention=[7]"],
            ["command line: 'network.attention'", "at resolutions 32, 16, 8, 4"],
        ),
        ("cifar10", ["network.fir_kernel=[1,3,3,2]"], ["'network.fir_kernel'", "symmetric"]),
        (
            "cifar10",
            ["network.channels=5", "network.embedding=positional"],
            ["'network.channels'", "even number"],
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(recipe, overrides, words):
    message = refused(RECIPES / f"{recipe}.yaml", overrides)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        (
            "toy",
            ["train.steps=5", "optim.lr=1e-4", "sampling.method=em"],
            ["sde.beta0=5", "network.width=64"],
        ),
        (
            "toy",
            ["train.batch_size=9", "monitor.wandb.project=p"],
            ["objective.mixed_score=true", "data.name=diamond"],
        ),
        (
            "cifar10",
            ["data.path=/elsewhere", "data.flip=false"],
            ["network.channels=64", "sde.beta1=1"],
        ),
        ("cifar10", ["optim.impl=plain", "train.channels_last=false"], ["network.fourier_scale=8"]),
    ],
)
def test_only_keys_of_the_model_change_its_digest(name, same, other):
    recipe = shipped_recipe(name)
    for text in (*same, *other):
        changed = with_overrides(recipe, [text])
        assert (changed.model_digest() == recipe.model_digest()) == (text in same)


def test_checkpoints_of_earlier_versions_fit_their_recipes():
    """The digest is that of the version before patches; its frozen recipes name the channels."""
    recipe = shipped_recipe("cifar10", "network.image_channels=3")
    assert recipe.model_digest() == "08ad9278cbfb9e64"
    assert with_overrides(recipe, ["network.patch=2"]).model_digest() != recipe.model_digest()
