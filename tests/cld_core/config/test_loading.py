"""Recipes: what is read, what is refused, and the messages."""

import re
from pathlib import Path

import pytest

from cld_core.config import load, with_overrides
from cld_core.config.cluster import ClusterSpec
from cld_core.config.loader import anchored_overrides, dump, load_frozen
from cld_core.config.network import MlpSpec
from cld_core.config.sampling import OdeSpec
from cld_core.config.sde import CldSpec
from cld_core.config.train import MlflowSpec, ObjectiveSpec, OptimSpec, TrainSpec
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES, TOY


def write(folder, text, name="mine.yaml"):
    file = folder / name
    file.write_text(text)
    return file


def refused(*arguments, **keywords):
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **keywords)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"), [("toy", "multimodal_swissroll"), ("toy_diamond", "diamond")]
)
def test_the_toy_recipes_have_the_published_settings(name, data):
    recipe = load(RECIPES / f"{name}.yaml")
    assert recipe.data.name == data
    assert recipe.sde == CldSpec(beta0=4.0, beta1=0.0, m_inv=4.0, gamma=0.04, numerical_eps=1e-6)
    assert recipe.network == MlpSpec(width=128, layers=5, time_input="raw")
    assert recipe.objective == ObjectiveSpec(
        name="hsm", weighting="reweightedv2", mixed_score=False, loss_eps=1e-5
    )
    assert recipe.optim == OptimSpec(name="adam", lr=1e-3, warmup_steps=0)
    assert recipe.train == TrainSpec(
        steps=800_000,
        batch_size=512,
        ema=0.999,
        checkpoint_every=10_000,
        milestone_every=50_000,
        milestone_from=300_000,
    )
    assert recipe.sampling == OdeSpec(eps=1e-3, denoise=True)


def test_a_recipe_overrides_its_parent_and_the_command_line_both(tmp_path):
    write(tmp_path, "train: {steps: 10, batch_size: 8}\noptim: {lr: 0.5}\n", "base.yaml")
    file = write(tmp_path, "extends: base.yaml\ntrain: {steps: 20}\n")
    recipe = load(file, ["optim.lr=1e-4", "data.name=diamond"])
    assert (recipe.train.steps, recipe.train.batch_size, recipe.optim.lr) == (20, 8, 1e-4)
    assert recipe.data.name == "diamond"
    assert recipe.name == "mine"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=3", ["'train.stepz'", "'train.steps'", "whole number >= 1"]),
        ("eval.elbo.velocity=3", ["'eval.elbo.velocities'"]),
        ("train=3", ["'train' is a section", "batch_size"]),
        ("xyzzy.q=1", ["'xyzzy.q'", "Keys of a recipe", "sampling"]),
        ("train.steps=abc", ["'abc'", "whole number"]),
        ("optim.lr=-1", ["-1", "> 0"]),
        ("network.name=resnt", ["'resnet'"]),
        ("network.hidden=3", ["with network.name=mlp"]),
        ("data.name=diamnd", ["'diamond'", "plugins"]),
        ("data.plugin=ring.py", ["'data.plugin' has become 'plugins'", "plugins=FILE.py"]),
        ("plugins=nowhere.py", ["nowhere.py' cannot be imported", "Python file"]),
        ("cluster.partition='low x #'", ["'cluster.partition' cannot be 'low x #': "]),
        ("monitor.wandb.project='a:b'", ["'monitor.wandb.project' cannot be 'a:b'"]),
        ("monitor.wandb.project=' '", ["'monitor.wandb.project' cannot be ''"]),
        ("nonsense", ["KEY=VALUE"]),
        ("data.name={", ["not valid YAML", "Quote it: 'data.name="]),
    ],
)
def test_a_message_about_a_wrong_override_names_the_right_one(override, words):
    message = refused(TOY, [override])
    assert message.startswith("command line")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train:\n  steps: 3\n  batchsize: 4\n",
            ["line 3", "'train.batchsize'", "'train.batch_size'"],
        ),
        ("train:\n  steps: [3\n", ["not valid YAML", "line"]),
        ("", ["the recipe is empty"]),
        ("extends: nowhere.yaml\n", ["nowhere.yaml", "Correct the name", "cifar10, "]),
        ("extends: mine.yaml\n", ["circle"]),
        (
            "train:\n  steps: 1\n  steps: 2\n",
            ["line 3", "'train.steps' is given twice, first on line 2"],
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path, text, words):
    message = refused(write(tmp_path, text))
    assert "mine.yaml" in message
    assert [word for word in words if word not in message] == []


def test_an_error_in_the_parent_names_the_parent(tmp_path):
    write(tmp_path, "train:\n  stebs: 3\n", "base.yaml")
    message = refused(write(tmp_path, "extends: base.yaml\n"))
    assert "base.yaml, line 2" in message


VPSDE = ["sde.name=vpsde", "objective.name=dsm"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([*VPSDE, "sampling.method=sscs"], "sampling.method"),
        (["sampling={method: exponential, grid: linear, grid_power: 3}"], "sampling.grid_power"),
        (["sampling.order=4", "sampling.method=exponential"], "sampling.order"),
        (["train.batch_size=3", "cluster.tasks_per_node=4"], "train.batch_size"),
        (["train.micro_batch=600"], "train.micro_batch"),
        (["train.ema_every=100"], "train.ema_every"),
        (["train.ema_lengths=[0.05,0.05]"], "train.ema_lengths"),
        (["objective.label_dropout=0.2"], "objective.label_dropout"),
        (["objective.times=importance"], "objective.times"),
        (["data.name=gaussian", "data.labels=true"], "data.labels"),
        (["sde.beta0=0"], "sde.beta0"),
        (["sde.name=psld", "sde.friction=4", "sde.nu=4"], "sde.friction"),
        (["sampling={method: splitting, scheme: oba, conjugate: true}"], "sampling.conjugate"),
        (["sampling={method: splitting, noise_scale: 0.5}"], "sampling.noise_scale"),
        (["sampling={method: splitting, conjugate_lambda: 0.5}"], "sampling.conjugate_lambda"),
        ([*VPSDE, "sampling.method=splitting"], "sampling.method"),
        (["sampling.method=gddim", "sampling.eta=1"], "sampling.order"),
        (
            ["sampling={method: gddim, eta: 1, order: 0, root: cholesky}"],
            "sampling.root",
        ),
        (["objective.precondition=data", "objective.mixed_score=true"], "objective.precondition"),
        (["objective.data_std=0.3"], "objective.data_std"),
        (["objective.weighting=edm"], "objective.weighting"),
        (["objective.noise_mean=0"], "objective.noise_mean"),
        (["objective.log_share=0.1", "objective.times=log"], "objective.log_share"),
        (["objective.precondition=flow"], "objective.precondition"),
    ],
)
def test_pairs_that_do_not_go_together_are_refused(overrides, key):
    message = refused(TOY, overrides)
    assert f"'{key}'" in message
    assert message.startswith("command line"), "the command line comes before the file"


def test_a_pair_names_the_place_of_either(tmp_path):
    message = refused(TOY, ["sde.name=vpsde"])
    assert re.match(r"command line, and .*toy\.yaml, line \d+: 'objective\.name'", message)
    message = refused(write(tmp_path, "sde: {name: vpsde}\nobjective:\n  name: hsm\n"))
    assert re.match(r".*mine\.yaml, line 3: 'objective\.name'", message)


@pytest.mark.parametrize("value", ["1:00:00", "12:00", "0123", "1:30.5"])
def test_numbers_that_yaml_misreads_are_refused(tmp_path, value):
    words = f"'cluster.account' cannot be {re.escape(value)}, which YAML reads as another number"
    assert re.match(f"command line: {words}", refused(TOY, [f"cluster.account={value}"]))
    file = write(tmp_path, f"extends: {RECIPES}/toy.yaml\ncluster:\n  account: {value}\n")
    assert re.search(f"mine.yaml, line 3: {words}", refused(file))
    assert load(TOY, [f"cluster.account='{value}'"]).cluster.account == value


def test_numbers_may_have_an_exponent_and_names_like_numbers_or_dates_need_no_quotes():
    for text in ("1e-4", "1.5e3", ".5", "2", "1E-4"):
        assert load(TOY, [f"optim.lr={text}"]).optim.lr == float(text)
    for text in ("12345", "2026-01-31"):
        assert load(TOY, [f"cluster.account={text}"]).cluster.account == text


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
    assert steps == {"beside": 22, "recipes": 11, "shipped": load(TOY).train.steps}[place]


def test_a_recipe_may_extend_another_one_of_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    mine = write(tmp_path / "recipes", "extends: toy\ntrain: {steps: 7}\n", "toy.yaml")
    recipe = load(mine)
    assert (recipe.train.steps, recipe.network) == (7, load(TOY).network)
    assert "circle" in refused(write(tmp_path, "extends: alone\n", "alone.yaml"))


@pytest.mark.parametrize("name", ["tooy", "toy.yaml", "recipes/toy.yaml"])
def test_a_parent_that_is_not_there_is_answered_with_the_nearest_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = refused(write(tmp_path, f"# Mine.\nextends: {name}\n"))
    where = tmp_path / name
    if name == "tooy":
        where = f"{name}.yaml in {tmp_path}, recipes or {RECIPES}"
    assert message.endswith(
        f"line 2: extends '{name}', but there is no {where}. Did you mean 'toy'?"
    )


def test_anchoring_changes_relative_paths_only(tmp_path):
    recipe = load(TOY, ["plugins=json.tool", "eval.fid.stats=/x/s.npz"])
    assert recipe.plugins == ("json.tool",)
    assert recipe.anchored(tmp_path) == recipe
    home = load(RECIPES / "cifar10.yaml", ["data.path=~/images"]).anchored(tmp_path)
    assert home.data.path == str(Path.home() / "images")
    with pytest.raises(RecipeError, match="'path' cannot be '~no-such-user/x'"):
        load(RECIPES / "cifar10.yaml", ["data.path=~no-such-user/x"]).anchored(tmp_path)


def test_every_path_is_anchored_also_in_overrides(tmp_path):
    relative = [
        "data.path=images",
        "train.steps=5",
        "eval.fid.weights=null",
        "eval.fid.stats=s.npz",
    ]
    recipe = with_overrides(load(RECIPES / "cifar10.yaml"), relative)
    anchored = recipe.anchored(tmp_path)
    assert anchored.data.path == f"{tmp_path}/images"
    assert anchored.eval.fid.stats == f"{tmp_path}/s.npz"
    assert anchored.anchored(tmp_path / "elsewhere") == anchored
    assert anchored_overrides(relative, recipe, tmp_path) == [
        f"data.path={tmp_path}/images",
        "train.steps=5",
        "eval.fid.weights=null",
        f"eval.fid.stats={tmp_path}/s.npz",
    ]


ON = ["monitor.wandb.project=p", "monitor.mlflow.tracking_uri=https://host/m"]


def test_trackers_are_off_by_default_and_never_shared():
    assert "monitor" not in load(TOY, ON).to_share()
    assert load(TOY).monitor.chosen() == ()
    assert load(TOY, ON).monitor.chosen() == ("wandb", "mlflow")
    assert load(TOY, [*ON, "monitor.wandb.mode=disabled"]).monitor.chosen() == ("mlflow",)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:secret@host", "holds a password.*MLFLOW_TRACKING_PASSWORD"),
        ("sqlite:///m.db", r"relative path.*sqlite:////ABSOLUTE/PATH"),
        ("mlruns", "cannot be 'mlruns'; expected http://HOST:PORT"),
        ("http://[", "is not an address"),
    ],
)
def test_a_wrong_address_of_mlflow_is_refused_and_its_password_is_not_shown(uri, words):
    message = refused(TOY, [f"monitor.mlflow.tracking_uri='{uri}'"])
    assert re.search(f"'monitor.mlflow.tracking_uri' .*{words}", message)
    assert "secret" not in message


@pytest.mark.parametrize(
    "uri",
    [
        "https://user@host/path",
        "databricks",
        "sqlite:////home/me/m.db",
        "postgresql+psycopg2://host/db",
    ],
)
def test_addresses_of_mlflow(uri):
    assert MlflowSpec(tracking_uri=uri).problem() is None


WORDS = ("partition", "account", "qos", "gres", "constraint", "exclude")
LISTS = ("setup", "sbatch_args", "srun_args")
# A line break of each kind, a null, an escape sequence, and texts that are shown in another order.
CONTROLS = (
    "\n",
    "\r",
    "\x00",
    "\x0b",
    "\x1b[2J",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\x7f",
    "\udcff",
)
ODD = ("low --wrap=x", "low#", "low\tx", "a'b", 'a"b', "a\\", "", " ", "low\u00a0x")
ODD_OPTIONS = ("--comment=it's", '--comment="x"', "--comment=\\", "")
DIRECTIVES = ("#SBATCH --wrap=x", "  #PBS -q x", "#BSUB -x")


@pytest.mark.parametrize("name", [*WORDS, *LISTS, "container"])
def test_texts_that_a_batch_script_would_misread_are_refused(name):
    odd = {"sbatch_args": ODD_OPTIONS, "setup": DIRECTIVES}
    controls = CONTROLS[1:] if name == "setup" else CONTROLS
    texts = [f"--low{control}touch x #" for control in controls]
    for text in (*texts, *(ODD if name in WORDS else odd.get(name, ()))):
        ((key, _, found),) = ClusterSpec(**{name: (text,) if name in LISTS else text}).problems()
        assert key == name
        assert re.match(r"cannot be .*: (it|sbatch) .*\.", found)
        assert found.isprintable()


def test_usual_texts_of_a_batch_script_are_accepted():
    spec = ClusterSpec(
        partition="gpu,gpu-long",
        account="a.b@c_d",
        qos="normal",
        gres="gpu:a100:8,shard:2",
        constraint="[rack1*2&rack2*4]|(intel&!old)",
        exclude="n[1-3,7],m04",
        container="apptainer exec --nv --env 'A=b c' \"$HOME/image.sif\"",
        setup=(
            "module load cuda/12",
            "\texport A='x y' # why",
            "if true; then ulimit -n 4096; fi",
            "# a comment",
            "",
        ),
        sbatch_args=("--mail-user=a@b.c", "--exclusive", "--comment=two words #1"),
        srun_args=("--cpu-bind=cores", "-c", "4", '--export=ALL,A="b"'),
    )
    assert not list(spec.problems())


def test_overrides_of_a_ledger_apply_in_their_order(tmp_path):
    file = write(tmp_path, dump(load(TOY)))
    twice_resumed = ["sampling.method=em", "sampling.nfe=5", "sampling.method=ode"]
    assert load_frozen(file, twice_resumed).sampling == OdeSpec()
