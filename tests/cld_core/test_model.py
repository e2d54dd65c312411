"""Models in Python, without a cluster: with and without classes; and the types of the library."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cld_core
from benchmarks.diamond import sliced_w2
from cld_core.analytic import diamond
from cld_core.checkpoint import load as load_checkpoint
from cld_core.checkpoint import write
from cld_core.config import with_overrides
from cld_core.errors import (
    CheckpointError,
    DataError,
    NotFoundError,
    RecipeError,
    SaveError,
    UsageError,
)
from cld_core.evaluate.likelihood import ElboRows
from cld_core.evaluate.request import request_of
from cld_core.likelihood import Likelihood
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.samplers import Samples
from cld_core.seeds import generator
from cld_core.train.step import Trainer
from tests.support.chunks import cut
from tests.support.made_up import run_with
from tests.support.numeric import float64, seeded, standard_normal
from tests.support.paths import ROOT
from tests.support.recipes import shipped_recipe, toy_recipe
from tests.support.tools import stepped, trained

SMALL = [
    "network.width=16",
    "network.layers=3",
    "train.steps=20",
    "train.checkpoint_every=10",
    "train.batch_size=16",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "mine", "toy", *SMALL)


@pytest.mark.parametrize(("method", "nfe"), [("ode", None), ("em", 20), ("sscs", 20)])
def test_a_sample_is_a_function_of_its_number(run, method, nfe):
    model = cld_core.load(run.path)
    settings = {"method": method, "nfe": nfe}
    whole = model.draw(50, seed=3, batch_size=20, **settings)
    assert whole.x.shape == (50, 2)
    part = model.sample(10, seed=3, first=35, **settings)
    assert_close(part, whole.x[35:45], rtol=1e-4, atol=1e-4)
    assert whole.nfe == nfe or nfe is None
    assert not torch.allclose(model.sample(10, seed=4, **settings), whole.x[:10])


@pytest.mark.parametrize(("method", "nfe"), [("exponential", 20), ("ode", None)])
def test_progress_is_reported_and_the_samples_are_the_same(run, method, nfe):
    model = cld_core.load(run.path)
    calls = []
    settings = {"batch_size": 16, "method": method, "nfe": nfe}
    watched = model.draw(40, progress=lambda *counts: calls.append(counts), **settings)
    assert torch.equal(watched.x, model.sample(40, **settings))
    assert calls == sorted(calls)
    assert {done for done, _ in calls} == {0, 16, 32}
    assert calls[-1] == (32, watched.nfe_each[-8:].max())


def test_the_weights_are_the_averaged_ones_and_nothing_else_is_read(run, monkeypatch):
    state = load_checkpoint(run, 20)
    monkeypatch.setattr(torch, "load", lambda *_, **more: pytest.fail("the state was read"))
    net = cld_core.load(run.path).net.state_dict()
    for name, average in state["ema"]["average"].items():
        assert torch.equal(net[name], average)
        assert not torch.equal(net[name], state["model"][name])


def test_averages_of_another_network_are_refused(run, tmp_path):
    folder = RunFolder.create(tmp_path / "spoilt", run.recipe(), {"created": 1.0})
    state = load_checkpoint(run, 20)
    averages = state["ema"]["average"]
    name, tensor = next(iter(averages.items()))
    averages[name] = tensor[:1].clone()
    write(folder, 20, state)
    with pytest.raises(CheckpointError, match=r"does not fit the recipe: .*size mismatch"):
        cld_core.load(folder.path)


def test_a_chosen_checkpoint(run):
    assert cld_core.load(run.path, 10).step == 10
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 15.*10, 20"):
        cld_core.load(run.path, 15)


def test_an_end_before_the_times_of_training_causes_a_warning(run, caplog):
    model = cld_core.load(run.path)
    few = {"method": "em", "nfe": 2}
    model.sample(4, **few, eps=1e-5)
    model.sample(4, **few)
    assert caplog.messages == []
    model.sample(4, **few, eps=1e-6)
    assert caplog.messages == [
        "Model.sample: eps=1e-06: the network has seen no t below 1e-05. Use that or more."
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("n", 0), ("n", 2.5), ("seed", -1), ("first", -1), ("batch_size", 0)]
)
def test_numbers_out_of_bounds_are_refused(toy, name, value):
    with pytest.raises(UsageError, match=rf"^Model\.sample: {name}=.*: expected a whole number"):
        toy.sample(**{"n": 4, name: value})


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    """The published code warns, and goes on with random weights."""
    folder = run_with(tmp_path / "empty", overrides=SMALL)
    with pytest.raises(NotFoundError, match="no usable checkpoint yet"):
        cld_core.load(folder.path)


def test_exported_weights_come_back(run, tmp_path):
    model = cld_core.load(run.path)
    file = tmp_path / "w.safetensors"
    model.export(file)
    again = cld_core.load(file, 20)
    assert (again.step, again.recipe) == (20, model.recipe)
    assert repr(again).startswith("Model toy of w.safetensors, step 20\n")
    with pytest.raises(
        NotFoundError, match=r"no checkpoint 5: a file has one, here that of step 20"
    ):
        cld_core.load(file, 5)
    assert_close(again.net.state_dict(), model.net.state_dict(), rtol=0, atol=0)


SHALLOW = ["network.width=16", "network.layers=3"]


@pytest.fixture(scope="module")
def toy():
    return Model(toy_recipe(*SHALLOW), step=1200)


@pytest.fixture(scope="module")
def images():
    return Model(shipped_recipe("cifar10_smoke", "data.path=nowhere", "data.size=32"))


@pytest.mark.parametrize(
    "method",
    [{"method": "ode"}, *({"method": name, "nfe": 12} for name in ("em", "sscs", "exponential"))],
    ids=str,
)
def test_a_trajectory_ends_at_the_samples(toy, method):
    numbers = {"n": 5, "seed": 3, "first": 2, **method}
    t, x, v = toy.trajectory(points=9, **numbers)
    assert t.shape == (9,)
    assert x.shape == v.shape == (9, 5, 2)
    assert t[[0, -2, -1]].tolist() == [1.0, 1e-3, 0.0]
    drawn = toy.draw(**numbers)
    assert torch.equal(x[-1], drawn.x)
    assert torch.equal(v[-1], drawn.v)
    noisy = toy.trajectory(points=9, denoise=False, **numbers)
    assert torch.equal(noisy.x[-1], toy.sample(denoise=False, **numbers))
    assert noisy.t[-1] == 1e-3


def test_a_diffusion_of_x_alone_has_no_velocities():
    recipe = toy_recipe(*SHALLOW, "sde.name=vpsde", "objective.name=dsm")
    path = Model(recipe).trajectory(4, method="em", nfe=6)
    assert path.v is None
    assert path.x.shape == (7, 4, 2)


def test_standard_errors_are_those_of_the_mean_over_draws():
    joint = 3.0 * standard_normal(4000, 9)
    made = Likelihood(joint, torch.zeros_like(joint), 0.0, torch.ones(4000, 9))
    assert made.elbo_error.shape == (4000,)
    assert float(made.elbo_error.square().mean().sqrt()) == pytest.approx(1.0, rel=0.05)
    assert float(made.elbo.std()) == pytest.approx(1.0, rel=0.05)
    one = Likelihood(joint[:, :1], torch.zeros(4000, 1), 0.0, torch.ones(4000, 1))
    assert one.elbo_error.isnan().all()


def test_the_bound_is_that_of_an_evaluation(toy):
    request = request_of(toy.recipe, ["elbo"], 0)
    x = toy.source.dequantised_test_data(request.seed, 0, 5)
    theirs = ElboRows(toy, request).compute(0, 5)["elbo"]
    assert_close(
        toy.log_likelihood(x, seed=request.seed), torch.from_numpy(theirs), rtol=0, atol=1e-6
    )


def test_an_example_does_not_depend_on_its_batch(toy):
    x = toy.source.dequantised_test_data(0, 0, 7)
    whole = toy.likelihood(x, velocities=2, seed=1)
    parts = toy.likelihood(x, velocities=2, seed=1, batch_size=3)
    alone = toy.log_likelihood(x[4:5], velocities=2, seed=1, first=4)
    assert parts.log_joint.shape == (7, 2)
    assert_close(parts.elbo, whole.elbo, rtol=1e-4, atol=1e-4)
    assert_close(alone, whole.elbo[4:5], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(whole.elbo_error).all()


SHAPE = r"x is .*\. Pass \(B, 2\)"


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.zeros(4), UsageError, SHAPE),
        ([[0.0] * 3], UsageError, SHAPE),
        (np.zeros((0, 2)), UsageError, SHAPE),
        (None, DataError, "NoneType"),
        ("text", DataError, "real numbers"),
        ([[0.0, math.nan]], DataError, "finite"),
        ([[1], []], DataError, "not an array"),
    ],
    ids=str,
)
def test_examples_that_are_not_like_the_data_are_refused(toy, x, kind, words):
    with pytest.raises(kind, match=rf"^Model\.likelihood: .*{words}"):
        toy.likelihood(x)


def test_arrays_and_lists_give_the_same_as_tensors(toy):
    x = toy.source.test_data(0, 0, 3).numpy()
    keys = {"velocities": 1, "rtol": 0.1, "atol": 0.1}
    single = toy.log_likelihood(torch.tensor(x), **keys)
    double = toy.log_likelihood(torch.tensor(x).double(), **keys)
    assert torch.equal(toy.log_likelihood(x, **keys), single)
    assert torch.equal(toy.log_likelihood(x.astype(">f8"), **keys), double)
    assert torch.equal(toy.log_likelihood(x.tolist(), **keys), double)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda toy: toy.save("none/x.safetensors"), SaveError, r"^none/x\.safetensors: cannot be"),
        (lambda toy: toy.sample(2, observation=3), UsageError, "Pass an Observation"),
        (lambda toy: toy.sample(2, by="gradient"), UsageError, "GradientGuidance or a Replacement"),
        (lambda toy: toy.sample(3, label=1), UsageError, "label: toy was trained without labels"),
        (
            lambda toy: toy.sample(3, guidance=2.0),
            RecipeError,
            "'guidance' is 2, but the model has",
        ),
        (lambda toy: cld_core.load("p5.png"), NotFoundError, r"p5\.png is a file, not the"),
        (lambda toy: cld_core.load("runs/none", network=toy.net), UsageError, "Leave out network"),
        (lambda toy: cld_core.load("a\0.safetensors"), RecipeError, "is not a path"),
        (lambda toy: cld_core.load("x.safetensors", device="gpu"), RecipeError, "device='gpu'"),
        (lambda toy: cld_core.runs()[-1], NotFoundError, "no run -1 in"),
    ],
)
def test_wrong_arguments_are_errors_of_the_package(toy, tmp_path, monkeypatch, call, kind, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p5.png").touch()
    with pytest.raises(kind, match=words):
        call(toy)
    assert not list(tmp_path.glob(".*")), "nothing is left half-written"


def test_bits_per_dim_are_those_of_images(toy, images):
    # A uniform density over [-1, 1]^D says nothing about 8-bit grey levels: 8 bits/dim.
    uniform = float64([-math.prod(images.data_shape) * math.log(2.0)])
    assert_close(images.bits_per_dim(uniform), float64([8.0]))
    with pytest.raises(UsageError, match="no grey levels"):
        toy.bits_per_dim(uniform)
    with pytest.raises(DataError, match="list has no arithmetic"):
        images.bits_per_dim([1.0])


def test_a_picture_of_points_is_beside_the_data(toy):
    from matplotlib import pyplot

    figure = toy.plot(50, method="em", nfe=5)
    data, samples = figure.axes
    assert data.get_title() == "data"
    assert samples.get_title().startswith("samples")
    assert figure.get_suptitle() == "toy, step 1,200: 50 samples, em, 5 NFE"
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}
    assert figure is pyplot.gcf()
    pyplot.close(figure)


def test_a_picture_of_images_is_a_grid(images, monkeypatch):
    from matplotlib import pyplot

    drawn = Samples(torch.zeros(9, *images.data_shape), None, torch.full((9,), 5))
    monkeypatch.setattr(images, "_draw", lambda *rest, **more: drawn)
    figure = images.plot(9)
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape == (104, 104, 3)
    pyplot.close(figure)


def test_names_of_the_package():
    assert all(getattr(cld_core, name) is not None for name in cld_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        cld_core.other  # noqa: B018


SCRIPT = """
import cld_core

model = cld_core.load("toy")
x = model.sample(4, method="em", nfe=20, seed=1, denoise=False)
reveal_type(x)
reveal_type(model.log_likelihood(x, velocities=2, rtol=1e-4))
reveal_type(model.trajectory(2, points=5).t)
reveal_type(model.plot())
reveal_type(cld_core.runs()["toy"].loss)
model.sample("4")
model.sample(4, nfe="20")
model.sample(4, seed=None)
"""


@pytest.mark.by_hand
def test_the_library_is_typed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # Its own settings and cache: those of this project are not those of a user.
    command = [
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path / 'cache'}",
        str(tmp_path / "script.py"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT
    )
    assert re.findall('Revealed type is "(.*)"', done.stdout) == [
        "torch._tensor.Tensor",
        "torch._tensor.Tensor",
        "torch._tensor.Tensor",
        "matplotlib.figure.Figure",
        "float | None",
    ], done.stdout
    errors = re.findall(r"(\S+):(\d+): error: (.*?) +\[", done.stdout)
    assert [(file, int(line)) for file, line, _ in errors if file.endswith("script.py")] == [
        (str(tmp_path / "script.py"), line) for line in (11, 12, 13)
    ], done.stdout


FAST = {"method": "exponential", "nfe": 5}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return trained(
        tmp_path_factory.mktemp("runs") / "labelled", "toy_labels", *SMALL, "eval.points=40"
    )


@pytest.fixture
def model(labelled):
    return cld_core.load(labelled.path)


def test_samples_have_a_label_each_by_number_name_or_share(model):
    assert len(model.classes) == 9
    each = [3, 1, 4, 1, 5]
    one = model.sample(5, label=each, **FAST)
    assert torch.equal(model.sample(5, label=torch.tensor(each), **FAST), one)
    assert torch.equal(model.sample(5, label=[str(label) for label in each], **FAST), one)
    assert_close(model.sample(2, first=1, label=1, **FAST)[0], one[1])
    drawn = model.sample(40, **FAST)
    assert torch.equal(model.sample(40, label=model.classes.drawn(0, 40), **FAST), drawn)
    assert_close(model.sample(10, first=25, **FAST), drawn[25:35])
    assert_close(model.sample(40, batch_size=7, **FAST), drawn)


def test_guidance_changes_samples_and_is_counted(model):
    plain = model.draw(20, label=2, **FAST)
    guided = model.draw(20, label=2, guidance=2.0, **FAST)
    assert not torch.allclose(plain.x, guided.x)
    assert (plain.nfe, guided.nfe) == (5.0, 10.0)
    path = model.trajectory(20, label=2, guidance=2.0, **FAST)
    assert torch.equal(path.x[-1], guided.x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.sample(3, label=9), r"Model\.sample: label 9 is out of range: the"),
        (lambda model: model.draw(3, label="cat"), r"Model\.draw: there is no class 'cat': the"),
        (
            lambda model: model.log_likelihood(torch.zeros(2, 2), label=[1]),
            r"Model\.log_likelihood: 1 labels for 2 examples",
        ),
        (
            lambda model: model.sample(3, guidance_from=0.5, guidance_to=0.4),
            "'guidance_from' is 0.5, above guidance_to=0.4",
        ),
    ],
)
def test_wrong_labels_are_named(model, call, message):
    with pytest.raises(UsageError, match=message):
        call(model)


def test_without_label_dropout_there_is_no_unconditional_network():
    keys = [*SHALLOW, "objective.label_dropout=0"]
    with pytest.raises(RecipeError, match="is 0, so nothing was trained without labels"):
        shipped_recipe("toy_labels", *keys, "sampling.guidance=2")
    model = cld_core.Model(shipped_recipe("toy_labels", *keys))
    with pytest.raises(UsageError, match="Pass label, one for each example"):
        model.log_likelihood(torch.zeros(2, 2))


def test_likelihood_given_labels_is_that_of_each_example(model):
    x = torch.randn(4, 2, generator=seeded())
    keys = {"velocities": 1, "probes": 1, "rtol": 1e-2, "atol": 1e-2}
    whole = model.log_likelihood(x, label=[0, 1, 2, 3], **keys)
    part = model.log_likelihood(x[1:3], first=1, label=[1, 2], **keys)
    assert_close(part, whole[1:3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.log_likelihood(x, **keys), whole)


def test_an_exported_model_keeps_its_classes(model, tmp_path):
    model.export(tmp_path / "model.safetensors")
    exported = cld_core.load(tmp_path / "model.safetensors")
    assert exported.classes == model.classes
    guided = {"label": 4, "guidance": 1.5, **FAST}
    assert torch.equal(exported.sample(9, **guided), model.sample(9, **guided))


def test_the_bound_of_a_report_is_conditional(labelled, monkeypatch):
    cut(monkeypatch, 16)
    keys = "eval.elbo={rtol: 1e-2, atol: 1e-2, velocities: 1, probes: 1}"
    recipe = with_overrides(labelled.recipe(), [keys])
    work = Evaluation(request_of(recipe, ("elbo", "loss"), 20, shards=3).save(labelled))
    assert work.compute(Ranks()).is_done
    bound = work.report["elbo"]
    assert bound["conditional"]
    # H of one mode: log 9 less than that of the diamond.
    of_mode = math.log(2 * math.pi * math.e * 0.04**2)
    assert bound["true_entropy"] == pytest.approx(of_mode, abs=1e-6)
    assert bound["nll"] - bound["gap"] == pytest.approx(bound["true_entropy"], abs=0.6)


@pytest.mark.slow
def test_a_trained_network_has_the_conditional_laws():
    keys = ["train.steps=1500", "train.batch_size=256", "network.width=96"]
    trainer = stepped(Trainer(shipped_recipe("toy_labels", *keys), Ranks()), 1500)
    model = cld_core.Model(trainer.recipe, net=trainer.net.eval(), data=trainer.source, step=1500)
    law, label = diamond(), torch.arange(9).repeat_interleave(200)
    with trainer.ema.in_place():
        x = model.sample(len(label), label=label, method="exponential", nfe=20)
        free = model.sample(len(label), label=label, method="exponential", nfe=20, guidance=0.0)
    for number in range(9):
        noise = torch.randn(200, 2, generator=generator(number), dtype=torch.float64)
        # Modes are 0.5 apart and 0.04 wide; sets of so many true points are 0.007 apart.
        assert sliced_w2(x[label == number], law.means[number] + law.std * noise) < 0.02
    modes = torch.cdist(free.double(), law.means).argmin(1)
    assert torch.bincount(modes, minlength=9).min() > 100, (
        "without labels, samples are of all classes"
    )
