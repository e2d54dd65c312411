"""Recipes: what is read, what is refused, and with which message."""

import re
from pathlib import Path

import pytest

from cld_core.config import dump, load
from cld_core.config.network import MlpSpec
from cld_core.config.sde import CldSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def refused(*arguments, **keywords) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **keywords)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_survives_a_round_trip(file, tmp_path):
    recipe = load(file)
    assert recipe.name == file.stem
    assert load(write(tmp_path, dump(recipe))) == recipe


def test_the_toy_recipes_carry_the_published_settings():
    for name, data in (("toy", "multimodal_swissroll"), ("toy_diamond", "diamond")):
        recipe = load(RECIPES / f"{name}.yaml")
        assert recipe.data.name == data
        assert recipe.sde == CldSpec(beta0=4.0, beta1=0.0, m_inv=4.0, gamma=0.04, numerical_eps=1e-6)
        assert recipe.network == MlpSpec(width=128, layers=5, time_input="raw")
        assert recipe.objective == ObjectiveSpec(name="hsm", weighting="reweightedv2", mixed_score=False, loss_eps=1e-5)
        assert (recipe.optim.name, recipe.optim.lr, recipe.optim.warmup_steps) == ("adam", 1e-3, 0)
        assert (recipe.train.steps, recipe.train.batch_size, recipe.train.ema) == (800_000, 512, 0.999)
        assert (recipe.train.checkpoint_every, recipe.train.milestone_every) == (10_000, 50_000)
        assert recipe.train.milestone_from == 300_000
        assert (recipe.sampling.method, recipe.sampling.eps, recipe.sampling.denoise) == ("ode", 1e-3, True)


def test_extends_overrides_and_defaults(tmp_path):
    write(tmp_path, "train: {steps: 10, batch_size: 8}\noptim: {lr: 0.5}\n", "base.yaml")
    recipe = load(write(tmp_path, "extends: base.yaml\ntrain: {steps: 20}\n"), ["optim.lr=1e-4", "data.name=diamond"])
    assert (recipe.train.steps, recipe.train.batch_size, recipe.optim.lr) == (20, 8, 1e-4)
    assert recipe.data.name == "diamond"
    assert recipe.name == "mine"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=3", ["'train.stepz'", "'train.steps'", "whole number >= 1"]),
        ("steps=3", ["'steps'", "'train.steps'"]),
        ("eval.elbo.velocity=3", ["'eval.elbo.velocities'"]),
        ("sampling.methd=em", ["'sampling.method'", "ode, em, sscs, exponential, gddim"]),
        ("train=3", ["'train' is a section", "batch_size"]),
        ("train.steps.x=3", ["'train.steps.x'", "'train.steps'"]),
        ("xyzzy.q=1", ["'xyzzy.q'", "Keys of a recipe", "sampling"]),
        ("train.steps=abc", ["'abc'", "whole number"]),
        ("train.steps='3'", ["'3'", "whole number"]),
        ("train.tf32=1", ["true or false"]),
        ("optim.lr=-1", ["-1", "> 0"]),
        ("optim.lr=", ["be null", "a number"]),
        ("train.ema=1", ["< 1"]),
        ("network.name=resnt", ["'resnet'"]),
        ("network.hidden=3", ["with network.name=mlp"]),
        ("data.name=diamnd", ["'diamond'", "plugins"]),
        ("name.steps=3", ["name"]),
        ("data.plugin=ring.py", ["'data.plugin' has become 'plugins'", "plugins=FILE.py"]),
        ("eval.fid.plugin=x.py", ["'eval.fid.plugin' has become 'plugins'"]),
        ("plugins=3", ["'plugins' cannot be 3", "a list, each a text"]),
        ("plugins=nowhere.py", ["nowhere.py' cannot be imported", "Python file"]),
        ("nonsense", ["KEY=VALUE"]),
        ("data.name={", ["not valid YAML", "Quote it: 'data.name="]),
    ],
)
def test_a_wrong_override_is_answered_with_the_right_one(override, words):
    message = refused(RECIPES / "toy.yaml", [override])
    assert message.startswith("command line")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  steps: 3\n  batchsize: 4\n", ["line 3", "'train.batchsize'", "'train.batch_size'"]),
        ("train:\n  steps: [3\n", ["not valid YAML", "line"]),
        ("- 1\n- 2\n", ["mapping of sections"]),
        ("", ["the recipe is empty"]),
        ("extends: nowhere.yaml\n", ["nowhere.yaml", "Correct the name", "cifar10, "]),
        ("extends: mine.yaml\n", ["circle"]),
        ("train:\n  steps: 1\n  steps: 2\n", ["not valid YAML", "duplicate"]),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path, text, words):
    message = refused(write(tmp_path, text))
    assert "mine.yaml" in message
    for word in words:
        assert word in message


def test_an_error_in_the_parent_names_the_parent(tmp_path):
    write(tmp_path, "train:\n  stebs: 3\n", "base.yaml")
    message = refused(write(tmp_path, "extends: base.yaml\n"))
    assert "base.yaml, line 2" in message


VPSDE = ["sde.name=vpsde", "objective.name=dsm"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([*VPSDE, "sampling.method=sscs"], "sampling.method"),
        (["sampling.grid_power=3", "sampling.method=em"], "sampling.grid_power"),
        (["sampling.grid_power=3", "sampling.method=exponential", "sampling.grid=linear"], "sampling.grid_power"),
        (["sampling.order=4", "sampling.method=exponential"], "sampling.order"),
        (["train.batch_size=3", "cluster.tasks_per_node=4"], "train.batch_size"),
        (["train.micro_batch=600"], "train.micro_batch"),
        (["train.ema_every=100"], "train.ema_every"),
        (["train.ema_lengths=[0.05,0.05]"], "train.ema_lengths"),
        (["objective.label_dropout=0.2"], "objective.label_dropout"),
        (["objective.times=importance"], "objective.times"),
        (["data.name=gaussian", "data.labels=true"], "data.labels"),
        (["hooks.on_change=3"], "hooks.on_change"),
        (["sde.beta0=0"], "sde.beta0"),
        ([*VPSDE, "sde.beta0=0", "sde.beta1=0"], "sde.beta0"),
    ],
)
def test_pairs_that_do_not_go_together(overrides, key):
    message = refused(RECIPES / "toy.yaml", overrides)
    assert f"'{key}'" in message
    assert message.startswith("command line"), "the command line comes before the file"


def test_a_pair_names_the_place_of_either(tmp_path):
    message = refused(RECIPES / "toy.yaml", ["sde.name=vpsde"])
    assert re.match(r"command line, and .*toy\.yaml, line \d+: 'objective\.name'", message)
    message = refused(write(tmp_path, "sde: {name: vpsde}\nobjective:\n  name: hsm\n"))
    assert re.match(r".*mine\.yaml, line 3: 'objective\.name'", message)


@pytest.mark.parametrize("value", ["1:00:00", "12:00", "0123", "1:30.5"])
def test_numbers_that_yaml_misreads_are_refused(tmp_path, value):
    words = f"'cluster.account' cannot be {re.escape(value)}, which YAML reads as another number"
    assert re.match(f"command line: {words}", refused(RECIPES / "toy.yaml", [f"cluster.account={value}"]))
    file = write(tmp_path, f"extends: {RECIPES}/toy.yaml\ncluster:\n  account: {value}\n")
    assert re.search(f"mine.yaml, line 3: {words}", refused(file))
    assert load(RECIPES / "toy.yaml", [f"cluster.account='{value}'"]).cluster.account == value


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1.5e3", 1500.0), (".5", 0.5), ("2", 2.0), ("1E-4", 1e-4)]
)
def test_numbers_may_have_an_exponent(text, value):
    assert load(RECIPES / "toy.yaml", [f"optim.lr={text}"]).optim.lr == value


@pytest.mark.parametrize("text", ["12345", "2026-01-31"])
def test_a_name_like_a_number_or_a_date_needs_no_quotes(text):
    assert load(RECIPES / "toy.yaml", [f"cluster.account={text}"]).cluster.account == text


@pytest.mark.parametrize("place", ["beside", "recipes", "shipped"])
def test_extends_takes_names(tmp_path, monkeypatch, place):
    """As `cldctl submit` does; what lies beside the recipe comes first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "mine").mkdir()
    if place != "shipped":
        (tmp_path / "recipes/toy.yaml").write_text("train:\n  steps: 11\n")
    if place == "beside":
        (tmp_path / "mine/toy.yaml").write_text("train:\n  steps: 22\n")
    (tmp_path / "mine/new.yaml").write_text("extends: toy\n")
    steps = load(tmp_path / "mine/new.yaml").train.steps
    assert steps == {"beside": 22, "recipes": 11, "shipped": load(RECIPES / "toy.yaml").train.steps}[place]


def test_a_recipe_may_extend_another_one_of_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    mine = write(tmp_path / "recipes", "extends: toy\ntrain: {steps: 7}\n", "toy.yaml")
    recipe = load(mine)
    assert (recipe.train.steps, recipe.network) == (7, load(RECIPES / "toy.yaml").network)
    assert "circle" in refused(write(tmp_path, "extends: alone\n", "alone.yaml"))


@pytest.mark.parametrize("name", ["tooy", "toy.yaml", "recipes/toy.yaml"])
def test_a_parent_that_is_not_there_is_answered_with_the_nearest_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = refused(write(tmp_path, f"# Mine.\nextends: {name}\n"))
    where = f"{name}.yaml in {tmp_path}, recipes or {RECIPES}" if name == "tooy" else tmp_path / name
    assert f"mine.yaml, line 2: extends '{name}', but there is no {where}. Did you mean 'toy'?" in message
