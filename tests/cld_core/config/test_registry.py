"""Variants of sections: the registry, changes from one variant to another, and their keys."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from cld_core.config import dump, load, load_frozen, with_overrides
from cld_core.config.data import ImageDataSpec
from cld_core.config.keys import key
from cld_core.config.loader import elbo_spec, sampling_spec
from cld_core.config.network import MlpSpec, ResnetSpec
from cld_core.config.registry import SECTIONS
from cld_core.config.sampling import (
    EmSpec,
    ExponentialSpec,
    FixedStepSpec,
    GddimSpec,
    OdeSpec,
    SscsSpec,
)
from cld_core.config.sde import VpsdeSpec
from cld_core.errors import RecipeError
from cld_core.plugins import register, resolve
from tests.cld_core.config.test_loading import refused
from tests.support.paths import TOY
from tests.support.recipes import toy_recipe


def sampling(*overrides):
    return toy_recipe(*(f"sampling.{text}" for text in overrides)).sampling


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section, entry in SECTIONS.items() for name in entry.variants],
)
def test_every_variant_is_implemented_and_selects_itself(section, name):
    variant = SECTIONS[section].variants[name]
    assert callable(resolve(variant.implementation))
    if issubclass(variant.spec, ImageDataSpec):
        assert callable(resolve(variant.spec.preparation))
    if section not in ("data", "objective", "optim"):
        assert getattr(variant.spec(), SECTIONS[section].key) == name


@pytest.mark.parametrize(
    "keys",
    [
        {"eta": 0.1},
        {"eta": 1.0, "corrector": False},
        {"order": 2, "eta": 1.0},
        {"corrector": False},
    ],
    ids=str,
)
def test_order_three_is_usable_with_little_noise_or_without_the_corrector(keys):
    ExponentialSpec(**{"order": 3, **keys}).require_usable()


def test_order_three_with_noise_and_the_corrector_can_be_read_but_not_used():
    spec = sampling("method=exponential", "order=3", "eta=0.3")
    with pytest.raises(
        RecipeError, match=r"'sampling\.order' cannot be 3 .*sampling\.order=2 with"
    ):
        spec.require_usable()


def test_another_method_starts_at_its_defaults_except_for_the_shared_keys():
    before = toy_recipe("sampling={method: exponential, order: 3, grid_power: 3, nfe: 20}")

    def changed(*overrides):
        return with_overrides(before, [f"sampling.{text}" for text in overrides]).sampling

    assert changed("method=exponential") == before.sampling
    assert changed("method=sscs", "grid=power") == SscsSpec(nfe=20, grid="power")
    assert changed("method=gddim") == GddimSpec(nfe=20), "a corrector would make it diverge"
    assert changed("order=1", "method=gddim") == GddimSpec(nfe=20, order=1)
    assert changed("method=ode") == OdeSpec()
    assert sampling_spec(before, {"method": "gddim", "nfe": 7}, "Model.sample") == GddimSpec(nfe=7)
    assert sampling("denoise=false", "method=em") == EmSpec(denoise=False)


def test_a_method_that_is_chosen_again_starts_at_its_defaults(tmp_path):
    file = tmp_path / "tuned.yaml"
    file.write_text("sampling: {method: exponential, order: 3, corrector: false, nfe: 20}")
    (tmp_path / "other.yaml").write_text("extends: tuned.yaml\nsampling: {method: gddim, order: 1}")
    again = tmp_path / "again.yaml"
    again.write_text("extends: other.yaml\nsampling: {method: exponential, eta: 0.1}")
    expected = ExponentialSpec(eta=0.1, nfe=20)
    assert load(again).sampling == expected
    # The overrides of two continuations, in the order of the ledger.
    overrides = ["sampling={method: gddim, order: 1}", "sampling={method: exponential, eta: 0.1}"]
    file.write_text(dump(load(file)))
    assert load_frozen(file, overrides).sampling == expected


def test_the_order_on_a_command_line_does_not_matter():
    assert sampling("nfe=20", "method=em") == sampling("method=em", "nfe=20") == EmSpec(nfe=20)
    assert sampling("method=exponential", "nfe=20", "method=em") == EmSpec(nfe=20)
    assert toy_recipe("network.width=7", "network.name=resnet").network == ResnetSpec(width=7)
    section = ["sampling.order=3", "sampling={method: gddim}"]
    assert toy_recipe(*section).sampling == GddimSpec(order=3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("order=2", ["'sampling.order' is not a key of sampling.method=ode. Set sampling.method="]),
        ("nfe=20", ["Set sampling.method=em, sscs, exponential, gddim", "rtol, atol"]),
        ("nfee=20", ["'sampling.nfee' (with sampling.method=ode)", "Did you mean 'sampling.nfe'"]),
    ],
)
def test_a_key_of_another_method_is_refused(override, words):
    message = refused(TOY, [f"sampling.{override}"])
    assert message.startswith("command line: ")
    assert [word for word in words if word not in message] == []


def test_a_method_ignores_the_axes_of_a_sweep_that_it_lacks():
    recipe = toy_recipe()
    axes = ("sampling.nfe", "sampling.order")

    def cell(*overrides):
        return with_overrides(recipe, overrides, optional=axes).sampling

    assert cell("sampling.method=ode", "sampling.nfe=20") == OdeSpec()
    assert cell("sampling.order=2", "sampling.nfe=20", "sampling.method=em") == EmSpec(nfe=20)
    with pytest.raises(RecipeError, match="eta' is not a key"):
        cell("sampling.eta=1", "sampling.method=em")


def test_a_section_is_loaded_without_the_others():
    """`cldctl status` needs `cluster` alone."""
    code = "import sys, cld_core.config.cluster; print('cld_core.config.schema' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_auto_stands_for_one_of_the_grids():
    specs = (EmSpec(), ExponentialSpec(), EmSpec(grid="quadratic"))
    assert [spec.spacing for spec in specs] == ["linear", "power", "quadratic"]
    assert EmSpec().canonical() == EmSpec(grid="linear")
    assert OdeSpec().canonical() == OdeSpec()


def test_another_network_or_diffusion_starts_at_its_defaults(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "network: {name: mlp, width: 7, layers: 3}\nsde: {beta0: 9, m_inv: 2}"
    )
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: base.yaml\nnetwork: {name: resnet}\nsde: {name: vpsde}\nobjective: {name: dsm}\n"
    )
    recipe = load(file)
    assert (recipe.network, recipe.sde) == (ResnetSpec(), VpsdeSpec())
    file.write_text("extends: base.yaml\nnetwork: {name: mlp}")
    assert load(file).network == MlpSpec(width=7, layers=3)


@dataclass(frozen=True, kw_only=True)
class FlowSpec(FixedStepSpec):
    method: Literal["flow"] = key("flow", "Euler steps of the probability flow")


def sample_flow(score, sde, spec, u, draws):
    """docs/howto/plug-ins.md has one that draws samples."""


def test_a_name_cannot_be_registered_twice():
    for _ in range(2):
        register("sampling", "flow", sample_flow, FlowSpec)
    with pytest.raises(RecipeError, match=r"sampling 'em' is already registered.*another name"):
        register("sampling", "em", sample_flow, FlowSpec)
    with pytest.raises(RecipeError, match="without its spec"):
        register("sampling", "flow", sample_flow)
    with pytest.raises(RecipeError, match="Choose one of data, sde"):
        register("samplers", "flow", sample_flow, FlowSpec)


METHODS = "ode, em, sscs, exponential, gddim, conjugate, splitting, tuned"
RECIPE = toy_recipe("sde.name=vpsde", "objective.name=dsm")


@pytest.mark.parametrize("seven", [7, 7.0, np.int64(7), torch.tensor(7)])
def test_numbers_of_other_libraries_are_numbers(seven):
    nfe = sampling_spec(RECIPE, {"method": "em", "nfe": seven}, "f").nfe
    assert (nfe, type(nfe)) == (7, int)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "odee"}, ["'method' cannot be 'odee'", METHODS, "Did you mean 'ode'?"]),
        ({"nfe": 20}, ["'nfe' is not a key of method=ode. Set method=em, sscs", "eps, denoise"]),
        ({"method": "em", "nfe": 0}, ["'nfe' cannot be 0", ">= 2 and <= 1e+06"]),
        ({"denoise": 1}, ["'denoise' cannot be 1; expected true or false"]),
        (
            {"method": "em", "grid_power": 3},
            ["'grid_power' has no effect with grid=linear. Set grid=power or leave"],
        ),
        ({"method": "sscs"}, ["'method' cannot be sscs with sde.name=vpsde", "method=exponential"]),
    ],
    ids=str,
)
def test_messages_name_the_argument_and_the_fix(arguments, words):
    with pytest.raises(RecipeError) as caught:
        sampling_spec(RECIPE, arguments, "Model.sample")
    assert str(caught.value).startswith("Model.sample: ")
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_bound_starts_where_the_network_was_trained():
    recipe = toy_recipe("objective.loss_eps=1e-3")
    spec = elbo_spec(recipe, {"velocities": 4, "eps": 1e-6}, "f")
    assert (spec.velocities, spec.probes, spec.eps) == (4, 1, 1e-3)
    with pytest.raises(RecipeError, match=r"^f: unknown key 'velocites'"):
        elbo_spec(recipe, {"velocites": 4}, "f")
