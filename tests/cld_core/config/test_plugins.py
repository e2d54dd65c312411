"""Plug-ins: imported before a recipe is checked, and not by commands that only read."""

import json
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

import cld_core
from cld_core import metrics, plugins
from cld_core import model as model_module
from cld_core.checkpoint import FORMAT
from cld_core.config import dump, from_dict, load, load_frozen, registry, with_overrides
from cld_core.errors import CheckpointError, DataError, RecipeError
from cld_core.model import Model
from tests.support.paths import RECIPES
from tests.support.plugin import toy_plugin
from tests.support.recipes import toy_recipe
from tests.support.tools import trained

FRICTION = """
from dataclasses import dataclass
from typing import Literal

from cld_core import register
from cld_core.config.keys import key
from cld_core.config.sde import CldSpec
from cld_core.sde import CLD


@dataclass(frozen=True, kw_only=True)
class HeavySpec(CldSpec):
    name: Literal["heavy"] = key("heavy", "CLD with a factor")
    factor: float = key({factor}, "of nothing", gt=0)


class Heavy(CLD):
    def __init__(self, factor, **keywords):
        super().__init__(**keywords)
        self.factor = factor


register("sde", "heavy", Heavy, HeavySpec)
"""
EVERYTHING = """
from cld_core import register
from cld_core.metrics import metric
import dataclasses

print("imported")
register("metrics", "mine", dataclasses.replace(metric("loss"), name="mine"))
register("loggers", "mine", "somewhere:Logger")
register("extractors", "mine", "somewhere:Extractor")
"""


@pytest.fixture
def heavy(tmp_path):
    (tmp_path / "heavy.py").write_text(FRICTION.format(factor=2.0))
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"extends: {RECIPES}/toy.yaml\nplugins: [heavy.py]\nsde: {{name: heavy, factor: 3}}\n"
    )
    return file


def test_a_plugin_beside_the_recipe_registers_a_diffusion(heavy, tmp_path):
    recipe = load(heavy)
    assert recipe.plugins == (str(tmp_path / "heavy.py"),)
    assert (recipe.sde.name, recipe.sde.factor) == ("heavy", 3.0)
    assert cld_core.sde.build(recipe.sde).factor == 3.0
    assert toy_recipe(f"plugins={tmp_path}/heavy.py", "sde.name=heavy").sde.factor == 2.0
    heavy.write_text(heavy.read_text().replace("factor: 3", "factor: 0"))
    with pytest.raises(RecipeError, match=r"mine.yaml, line 3: 'sde.factor' cannot be 0"):
        load(heavy)


def test_a_name_of_cldctl_is_taken_although_a_plugin_was_imported_first(monkeypatch):
    monkeypatch.setitem(plugins._TABLES, "metrics", {"fid": "mine"})
    with pytest.raises(RecipeError, match="metrics 'fid' is already registered, by cldctl"):
        plugins.table("metrics", {"fid": "shipped"})


@pytest.mark.parametrize("section", ["metrics", "rows"])
def test_what_a_section_cannot_use_is_refused(section):
    with pytest.raises(RecipeError, match=rf"{section} 'x' is not a cld_core\.metrics\."):
        cld_core.register(section, "x", print)
    assert "x" not in plugins._TABLES[section]


def test_an_error_names_the_line_of_the_plugin_in_its_traceback(tmp_path):
    file = tmp_path / "failing.py"
    file.write_text("import json\n\ndef read(text):\n    return json.loads(text)\n")
    plugins.import_plugins([str(file)], "here")
    (name,) = (name for name in sys.modules if name.startswith("cld_plugin_failing_"))
    for fail, place in ((sys.modules[name].read, f"{file}:4"), (json.loads, None)):
        with pytest.raises(ValueError, match="Expecting value") as error:
            fail("")
        assert plugins.plugin_line_of(error.value) == place


def test_reading_without_plugins_imports_none(heavy, tmp_path):
    (tmp_path / "frozen.yaml").write_text(dump(load(heavy)))
    whole = load_frozen(tmp_path / "frozen.yaml", with_plugins=True)
    del registry.SECTIONS["sde"].variants["heavy"]
    (tmp_path / "heavy.py").write_text("raise SystemExit('imported')")
    seen = load_frozen(tmp_path / "frozen.yaml", ["train.steps=7"])
    assert (seen.sde.name, seen.sde.factor, seen.train.steps) == ("heavy", 3.0, 7)
    assert seen.model_digest() == whole.model_digest()
    assert asdict(seen.sde) == asdict(whole.sde)
    assert with_overrides(seen, ["train.steps=8"]).sde.factor == 3.0
    assert from_dict(seen.to_dict(), "x.safetensors").sde.factor == 3.0
    assert load(heavy, with_plugins=False).sde.factor == 3
    with pytest.raises(
        RecipeError, match=r"plug-in .*heavy.py' cannot be imported: SystemExit: imported"
    ):
        load(heavy)


def test_entries_are_those_of_the_plugins_of_the_last_recipe(heavy, tmp_path):
    default = ["sde={name: heavy}"]
    other = tmp_path / "copies" / "heavy.py"
    other.parent.mkdir()
    other.write_text(FRICTION.format(factor=9.0))
    for file, factor in ((tmp_path / "heavy.py", 2.0), (other, 9.0), (tmp_path / "heavy.py", 2.0)):
        assert toy_recipe(f"plugins={file}", *default).sde.factor == factor
    with pytest.raises(RecipeError, match=r"both register the sde 'heavy'"):
        toy_recipe(f"plugins=[{tmp_path}/heavy.py, {other}]", *default)


def test_a_plugin_registers_metrics_loggers_and_extractors(tmp_path, capsys):
    (tmp_path / "everything.py").write_text(EVERYTHING)
    toy_recipe(f"plugins={tmp_path}/everything.py")
    from cld_core.evaluate import features
    from cld_core.train.loggers import LOGGERS

    assert metrics.parse_metrics(("mine,loss",)) == ("loss", "mine")
    assert metrics.metric("mine").rows == "loss"
    assert LOGGERS["mine"] == "somewhere:Logger"
    assert features._REGISTERED["mine"] == "somewhere:Extractor"
    assert not capsys.readouterr().out, "stdout is for the data of a command"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x =\n", r"SyntaxError.*Correct /.*/mine\.py:1\."),
        (b"\nimport nowhere_at_all", r"ModuleNotFoundError.*Correct /.*/mine\.py:2\."),
        (
            b"from cld_core.config.keys import key\nkey(1, 'x', minimum=4)",
            "TypeError: .* gt, ge, lt, le, not by minimum",
        ),
        (b"raise SystemExit(3)", "SystemExit"),
        (b"from cld_core import register\nregister('sde', 'cld', None, int)", "without its spec"),
    ],
)
def test_a_plugin_that_fails_is_named_and_leaves_no_module(tmp_path, content, words):
    (tmp_path / "mine.py").write_bytes(content)
    before = set(sys.modules)
    with pytest.raises(RecipeError, match=words) as caught:
        toy_recipe(f"plugins=[{tmp_path}/mine.py]")
    assert str(caught.value).startswith("command line: ")
    assert not any(name.startswith("cld_plugin_mine_") for name in set(sys.modules) - before)


@pytest.mark.parametrize(
    "plugin",
    ["nowhere.py", "no.such.module", ".x", "", "a b", "x" * 3000, "${name}.py", "a.py,b.py"],
)
def test_a_plugin_that_cannot_be_found_is_refused(plugin):
    with pytest.raises(RecipeError, match=r"^command line: .*plug-?in"):
        toy_recipe(f"plugins=['{plugin}']")


def test_fingerprints(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    first = plugins.fingerprint([str(file)])
    assert plugins.fingerprint([]) is None
    assert plugins.fingerprint(["json"]) == "json"
    both = plugins.fingerprint([str(file), "json"])
    file.write_text("x = 2")
    assert first not in (None, plugins.fingerprint([str(file)]))
    assert plugins.fingerprint([str(file), "json"]) != both
    with pytest.raises(RecipeError, match="cannot be read"):
        plugins.fingerprint([str(tmp_path / "gone.py")])


SMALL = [
    "network.width=16",
    "network.layers=3",
    "train.steps=2",
    "train.checkpoint_every=2",
    "train.batch_size=16",
]


def saved(path, tree, tensors=None, **about):
    metadata = {"format": FORMAT, "step": "3", "recipe": json.dumps(tree), **about}
    save_file({"a": torch.zeros(1)} if tensors is None else tensors, path, metadata)
    return path


def test_an_exported_model_is_sampled_without_its_plugin(tmp_path, monkeypatch):
    marker = tmp_path / "it ran"
    code = toy_plugin(
        tmp_path / "own_ring.py", "own_ring", first=f"open({str(marker)!r}, 'w').close()"
    )
    run = trained(tmp_path / "mine", "toy", *SMALL, "data.name=own_ring", f"plugins={code}")
    model = cld_core.load(run.path)
    assert marker.exists(), "the plug-in of one's own run runs"
    model.export(tmp_path / "w.safetensors")
    monkeypatch.setattr(model_module, "source", lambda *_: pytest.fail("the data were made"))
    again = cld_core.load(tmp_path / "w.safetensors")
    assert (again.recipe, again.data_shape, again.is_image) == (run.recipe(), (2,), False)
    settings = {"method": "em", "nfe": 3}
    assert torch.equal(again.sample(4, **settings), model.sample(4, **settings))
    with pytest.raises(DataError, match=r"own_ring\.py.*allow_plugin=True"):
        again.source.test_data(0, 0, 4)


def changed(section, **keys):
    tree = toy_recipe(*SMALL).to_dict()
    tree[section] |= keys
    return tree


@pytest.mark.parametrize(
    "recipe",
    [
        {**changed("data"), "network": {"name": "ncsnpp", "channels": 2**20}},
        {**changed("data"), "network": {"name": "resnet", "width": 10**9, "layers": 10**8}},
        {**changed("data"), "sde": {"beta0": 1e308, "beta1": 1e308}},
    ],
    ids=range(3),
)
def test_a_network_takes_no_memory_before_the_tensors_of_the_file_fit(
    tmp_path, recipe, monkeypatch
):
    monkeypatch.setattr(Model, "__init__", lambda *_, **__: pytest.fail("the network was made"))
    file = saved(tmp_path / "w.safetensors", recipe)
    with pytest.raises(CheckpointError) as caught:
        cld_core.load(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_an_impossible_shape_of_data_is_refused(tmp_path):
    recipe = {**changed("data", name="some"), "plugins": ["some.py"]}
    with pytest.raises(CheckpointError, match="shape"):
        cld_core.load(saved(tmp_path / "w.safetensors", recipe, data='{"shape": [0]}'))
