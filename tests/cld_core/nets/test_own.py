"""A network of one's own: tried before it trains, named in exported weights, and loaded if that is
allowed."""

import dataclasses
import math
import shutil

import pytest
import torch

import cld_core
from cld_core import loss, nets, plugins
from cld_core.errors import CheckpointError, RecipeError
from cld_core.model import Model
from cld_core.sde import CLD
from tests.docs.blocks import blocks
from tests.support.affine import flow_covariance, output_covariance
from tests.support.recipes import toy_recipe

SHAPED = "return self.last(h).unflatten(1, self.shape)"
MEANS = (
    ("        self.last", "        self.norm = nn.BatchNorm1d(width)\n        self.last"),
    ("self.last(h)", "self.last(self.norm(h))"),
)
LABELS = (
    ("    width:", "    takes_labels: typing.ClassVar = True\n    width:"),
    ("import math", "import math, typing"),
    ("halves_out):", "halves_out, classes=0):"),
    (
        "        self.shape",
        "        self.label = nn.Embedding(classes + 1, width)\n        self.shape",
    ),
    ("forward(self, u, t)", "forward(self, u, t, label)"),
    ("        for", "        h = h + self.label(label)\n        for"),
)


def written(tmp_path, page, *changes):
    """The file that a how-to page has, with changes of its text."""
    text = next(
        it.text
        for it in blocks()
        if it.page == f"docs/howto/{page}.md" and "\nregister(" in it.text
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "mine.py").write_text(text)
    return tmp_path / "mine.py"


def own(tmp_path, *changes, overrides=("network.width=8",)):
    """A recipe with the network of the how-to."""
    return toy_recipe(
        f"plugins={written(tmp_path, 'own-network', *changes)}", "network.name=gated", *overrides
    )


@pytest.mark.parametrize("shape", [(2,), (3, 8), (2, 4, 6)])
def test_a_network_for_examples_of_any_shape(tmp_path, shape):
    recipe, before = own(tmp_path), torch.get_rng_state()
    nets.require_usable(recipe, shape)
    assert torch.equal(torch.get_rng_state(), before), (
        "what is drawn for the trial changes nothing else"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            SHAPED,
            "return h",
            (
                r"u of shape \(2, 4\) it returns float32 of shape \(2, 8\), not floats of shape "
                r"\(2, "
                r"2\)"
            ),
        ),
        (SHAPED, "return (h,)", r"it returns \(float32 of shape \(2, 8\)\), not"),
        (SHAPED, f"{SHAPED}.long()", "it returns int64 of shape"),
        (SHAPED, f"{SHAPED} / 0", "numbers that are not finite"),
        ("halves_in * numbers + 1", "3", r"RuntimeError: .*\(2x5 and 3x8\)"),
        ("u.flatten(1)", "u.flatten(1).double()", "must have the same dtype"),
        ("forward(self, u, t)", "forward(self, u)", r"TypeError: .*forward\(\) takes 2 positional"),
        (
            SHAPED,
            "return h.nothing",
            r"AttributeError: .* 'nothing' \(/.*/mine\.py:32\)\. Correct it",
        ),
        (
            "    def forward",
            "    parameters = lambda self: iter(())\n\n    def forward",
            "it has no weights",
        ),
    ],
)
def test_a_wrong_one_is_refused_with_what_it_gives_and_should(tmp_path, old, new, words):
    recipe = own(tmp_path, (old, new))
    with pytest.raises(RecipeError, match=words) as error:
        nets.require_usable(recipe, (2,))
    assert str(error.value).startswith(
        f"'network.name': gated of {tmp_path}/mine.py cannot be used: "
    )
    assert str(error.value).endswith(
        "Correct it: docs/howto/own-network.md describes what is needed."
    )


def test_labels_are_tried_too(tmp_path):
    labels = ("data.labels=true", "network.width=8")
    nets.require_usable(own(tmp_path, *LABELS, overrides=labels), (2,))
    with pytest.raises(
        RecipeError, match=r"'data\.labels' cannot be true with network\.name=gated"
    ):
        own(tmp_path, overrides=labels)


WEIGHTED = "weight * found.weighted"
POWERED = ("own-objective", "objective.name=powered", WEIGHTED)
DAMPED = ("own-diffusion", "sde.name=damped")


@pytest.mark.parametrize(
    ("page", "key", "old", "new", "words"),
    [
        (*POWERED, WEIGHTED, None),
        (*POWERED, f"({WEIGHTED}).mean()", "the weighted losses of 2 examp"),
        (*POWERED, "found.other", "AttributeError: 'Losses' object has no"),
        (*DAMPED, "return 1.0, 1", "return 2.0, 1", "prior_std is not that of the station"),
        (*DAMPED, "(0.0, self.m_inv),", "(0.0,),", r"cannot be used: A is of shape \(2,\)"),
        (
            *DAMPED,
            "(math.sqrt(self.gamma / self.m_inv),)",
            "()",
            r"initial_std is of shape \(0,\), not \(1,\) \(n is 2,",
        ),
    ],
)
def test_an_objective_and_a_diffusion_are_tried_too(tmp_path, page, key, old, new, words):
    recipe = toy_recipe(f"plugins={written(tmp_path, page, (old, new))}", key)
    if words is None:
        loss.require_usable(recipe, (1, 4, 4))
        return
    name, value = key.split("=")
    with pytest.raises(RecipeError, match=rf"^'{name}': {value} of .*{words}"):
        loss.require_usable(recipe, (2,))


def euler(tmp_path, *changes, **keys):
    """The spec of the sampler of the how-to, with whole Euler steps alone."""
    recipe = toy_recipe(
        f"plugins={written(tmp_path, 'plug-ins', *changes)}", "sampling.method=euler"
    )
    return dataclasses.replace(recipe.sampling, denoise=False, **keys)


def test_the_sampler_of_the_how_to_comes_near_the_flow_with_exact_scores(tmp_path):
    spec, exact = euler(tmp_path), flow_covariance(CLD())
    found = [output_covariance(CLD(), dataclasses.replace(spec, nfe=nfe)) for nfe in (500, 1000)]
    coarse, fine = (float((each - exact).abs().max()) for each in found)
    assert fine < 0.03
    assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("u", r"float64 of shape \(2, 2\)"),
        ("u, None", r"\(float64 of shape \(2, 2\), NoneType\)"),
        ("u[:, :1], spec.nfe", r"\(float64 of shape \(2, 1\), int\)"),
    ],
)
def test_a_sampler_that_returns_something_else(tmp_path, result, words):
    spec = euler(
        tmp_path, ("return ended(score, sde, spec, u, len(times) - 1)", f"return {result}"), nfe=2
    )
    wanted = r"\(u of shape \(2, 2\), evaluations of score\)\. Correct it: docs/howto/plug-ins"
    with pytest.raises(
        RecipeError,
        match=rf"^'sampling.method': euler of .*mine\.py .* returns {words}, not {wanted}",
    ):
        output_covariance(CLD(), spec)


def forget():
    """What plug-ins have registered, as in another process."""
    for section, name in (("network", "gated"), ("sde", "damped"), ("objective", "powered")):
        plugins._TABLES[section].pop(name, None)


PARTS = [
    ("own-network", "network.name=gated"),
    ("own-objective", "objective.name=powered"),
    ("own-diffusion", "sde.name=damped"),
]


@pytest.mark.parametrize(("page", "key"), PARTS)
def test_exported_weights_name_the_plugin_and_load_if_it_may_run(tmp_path, page, key):
    plugin, file = written(tmp_path, page), tmp_path / "x.safetensors"
    model = Model(toy_recipe(f"plugins={plugin}", key))
    model.export(file)
    forget()
    with pytest.raises(CheckpointError) as error:
        cld_core.load(file)
    assert str(error.value).startswith(f"{file}: {key} is of the plug-in {plugin}, which is code")
    assert str(error.value).endswith(
        f'If you trust it: cld_core.load("{file}", allow_plugin=True).'
    )
    again = cld_core.load(file, allow_plugin=True)
    assert torch.equal(again.sample(3, method="em", nfe=3), model.sample(3, method="em", nfe=3))


def test_a_network_that_computes_while_it_is_made_and_keeps_running_means(tmp_path):
    changes = (
        ("super().__init__()", "super().__init__()\n        torch.linspace(0, 1, 2)[0].item()"),
        *MEANS,
    )
    recipe = own(tmp_path, *changes)
    Model(recipe).export(tmp_path / "it.safetensors")
    cld_core.load(tmp_path / "it.safetensors", allow_plugin=True)
    examples = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    keys = {"plugins": list(recipe.plugins), "train__batch_size": 8}
    model = cld_core.fit(examples, 3, network={"name": "gated", "width": 8}, **keys)
    assert int(model.net.norm.num_batches_tracked) == 3


def test_a_plugin_is_looked_for_beside_the_weights(tmp_path):
    plugin, file = tmp_path / "mine.py", tmp_path / "shared" / "mine.safetensors"
    file.parent.mkdir()
    Model(own(tmp_path)).export(file)
    beside = shutil.move(plugin, file.parent / "mine.py")
    assert cld_core.load(file, allow_plugin=True).recipe.plugins == (str(beside),)
    beside.write_text("import nothing_like_that")
    with pytest.raises(CheckpointError, match=r"mine\.py' cannot be imported: ModuleNotFoundError"):
        cld_core.load(file, allow_plugin=True)
    beside.unlink()
    with pytest.raises(CheckpointError) as error:
        cld_core.load(file, allow_plugin=True)
    said = (
        f"{file}: its plug-in is neither {plugin}, where it was, nor {beside}. Put the file there."
    )
    assert str(error.value) == said
