"""torch.compile: the same numbers, few sizes to compile, gradients as often as needed; training on
several ranks."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.nets.execution import SIZES, Compiled
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support import tracing
from tests.support.images import TINY, make_images
from tests.support.numeric import noise_of
from tests.support.recipes import shipped_recipe, toy_recipe
from tests.support.spawned import spawned
from tests.support.tools import same

SMALL = ("network.width=8", "network.layers=2")
RECIPE = toy_recipe(*SMALL)
with_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs"
)


@pytest.fixture
def traced(monkeypatch):
    """Compiled as elsewhere, but without generating code, which takes seconds for each size."""
    torch.compiler.reset()
    monkeypatch.setattr(execution, "BACKEND", "aot_eager")
    yield
    torch.compiler.reset()


@pytest.mark.slow
@with_compiler
def test_compiled_samples_and_bounds_are_those_of_the_plain_network():
    torch.manual_seed(0)
    model = Model(RECIPE)
    model.net.requires_grad_(False)
    wanted = model.sample(24, method="exponential", nfe=6)
    found = model.sample(24, method="exponential", nfe=6, compile=True)
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # Of one compiled size; others are traced below.
    x, spec = 0.5 * torch.randn(6, 2), replace(RECIPE.eval.elbo, rtol=1e-3, atol=1e-3)
    bounds = [
        likelihood(model.score_of(compiled=compiled), model.sde, spec, noise_of(6), x).elbo
        for compiled in (False, True)
    ]
    assert_close(bounds[1], bounds[0], rtol=1e-3, atol=1e-3)
    assert isinstance(model.score_of(compiled=True).net, Compiled)


@pytest.mark.slow
@with_compiler
def test_a_compiled_network_is_differentiated_as_often_as_probes_and_coordinates_ask_for():
    """Compiled for one backward pass, a network of this width reuses what further ones would
    read."""
    torch.manual_seed(0)
    model = Model(toy_recipe("network.width=32", "network.layers=5"))
    model.net.requires_grad_(False)
    x = 0.5 * torch.randn(1, 2)

    def bound(compiled, probes):
        spec = replace(RECIPE.eval.elbo, rtol=1e-2, atol=1e-2, probes=probes or 1)
        noise, score = noise_of(1), model.score_of(compiled=compiled)
        return likelihood(score, model.sde, spec, noise, x, exact_trace=probes is None).elbo

    for probes in (1, 2, 3, None):
        assert_close(bound(True, probes), bound(False, probes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("largest", [1, 3, 24, 2048])
def test_a_shrinking_batch_is_computed_in_few_sizes(largest):
    net = Compiled(torch.nn.Linear(1, 1))
    sizes = {rows: net.padded(rows) for rows in range(largest, 0, -1)}
    assert len(set(sizes.values())) <= SIZES
    assert all(
        rows <= size <= min(largest, rows + -(-largest // SIZES)) for rows, size in sizes.items()
    )


@pytest.mark.usefixtures("traced")
def test_training_samples_and_bounds_are_each_compiled_once():
    """One size in training, four without and four with gradients: more than torch's own limit of 8.

    The settings of float32 and of cuDNN change back and forth, and compiled code depends on some of
    them.
    """
    trainer = Trainer(toy_recipe(*SMALL, "train.batch_size=12", "train.compile=true"), Ranks())
    spec = replace(trainer.recipe.eval.elbo, rtol=1e-2, atol=1e-2, compile=True)

    def period():
        before = counters["stats"]["unique_graphs"]
        for step in (0, 1):
            with execution.using(tf32=True, fixed_shapes=True):
                trainer.step(step)
        trainer.net.eval()
        # As periodic work does, with a model of its own each time.
        model = Model(trainer.recipe, net=trainer.net, data=trainer.source)
        score = model.score_of(compiled=True)
        for rows in (8, 7, 6, 5, 4, 3, 2, 1):
            u, t = torch.randn(rows, 4), torch.full((rows,), 0.5, dtype=torch.float64)
            with torch.no_grad(), execution.using(tf32=True):
                score(u, t)
            with execution.using(tf32=False):
                likelihood(score, model.sde, spec, noise_of(rows), u[:, :2])
        trainer.net.train()
        return counters["stats"]["unique_graphs"] - before

    first = period()
    assert 1 + SIZES < first <= 1 + 2 * SIZES
    assert period() == 0


TOY = toy_recipe("network.width=16", "network.layers=2")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(TOY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    data = make_images(tmp_path_factory.mktemp("precision") / "set")
    recipe = shipped_recipe("cifar10_smoke", *TINY, f"data.path={data}", "sampling.nfe=3")

    def made():
        torch.manual_seed(0)
        net = Model(recipe)
        with torch.no_grad():
            for weight in net.net.parameters():  # the last layer starts at 0
                weight.copy_(0.1 * torch.randn(weight.shape))
        return net

    return made


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ],
)
@pytest.mark.parametrize("method", ["ode", "exponential"])
def test_the_network_alone_computes_in_it(model, name, dtype, method):
    # Nearer to the data, an untrained network leads beyond the largest number of fp16.
    settings = {
        "method": method,
        "eps": 0.5,
        **({"rtol": 0.1, "atol": 0.1} if method == "ode" else {"nfe": 6}),
    }
    outputs = []
    for layer in model.net.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    exact = model.sample(20, **settings)
    outputs.clear()
    found = model.sample(20, precision=name, **settings)
    assert {output.dtype for output in outputs} == {dtype}
    assert found.dtype == torch.float32
    if dtype == torch.float32:
        assert torch.equal(found, exact)
    elif method == "exponential":  # the steps of the other depend on rounding
        assert 0 < float((found - exact).norm() / exact.norm()) < 0.05


def test_the_score_has_the_precision_of_its_input(model):
    score = model.score_of(compiled=False, precision="bf16")
    model.net.requires_grad_(False)
    u = torch.randn(5, 4)
    exact = model.score(u, 0.5)
    assert_close(score(u, 0.5), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    assert score(u.double(), 0.5).dtype == torch.float64


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_images_are_computed_with_channels_last_where_that_is_preferred(images, name, monkeypatch):
    exact = images().sample(3, precision=name)
    monkeypatch.setattr(execution, "prefers_channels_last", lambda device: True)
    made, seen = images(), []
    made.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = made.sample(3, precision=name)
    assert {u.is_contiguous(memory_format=torch.channels_last) for u in seen} == {True}
    assert any(weight.ndim == 4 and not weight.is_contiguous() for weight in made.net.parameters())
    tolerance = 1e-4 if name == "fp32" else 0.1
    assert_close(found, exact, rtol=tolerance, atol=tolerance)


# Two matrices of 1 MiB, so that their gradients do not fit into one bucket.
WIDE = ("network.width=512", "network.layers=4", "train.batch_size=9", "train.bucket_mb=1")


def trained(recipe, ranks, *, stop_at=None):
    """A trainer after them; with ``stop_at``, the state of that step went into another trainer, as
    on resuming."""
    made = Trainer(recipe, ranks)
    made.warm_up()
    for step in range(3):
        if step == stop_at:
            state = made.state_dict()
            made = Trainer(recipe, ranks)
            made.load_state_dict(state)
            made.warm_up()
        made.step(step)
    return made


def _compared(ranks):
    execution.BACKEND, found = tracing.differentiate, {}
    for name, more in {"whole": (), "cut": ("train.micro_batch=2",)}.items():
        plain, compiling = (toy_recipe(*WIDE, *more, f"train.compile={it}") for it in (False, True))
        eager = trained(plain, ranks)
        before = len(tracing.graphs)
        fast = trained(compiling, ranks)
        found[name] = {
            "graphs": len(tracing.graphs) - before,
            "eager": eager.net.state_dict(),
            "compiled": fast.net.state_dict(),
            "resumed": trained(compiling, ranks, stop_at=2).net.state_dict(),
        }
    return found


@pytest.mark.slow
def test_compiled_ranks_train_as_others_and_resume_to_the_last_bit(tmp_path):
    """Their graph is cut where DDP's buckets end; with three, the rounding of a sum depends on the
    bucket it is in."""
    results = spawned(_compared, tmp_path, 3)
    for name, found in results[0].items():
        # Of one size of batch, or two if the last micro-batch is smaller, and more than one piece
        # of each.
        assert found["graphs"] >= 2, name
        assert_close(found["compiled"], found["eager"], rtol=1e-3, atol=1e-5)
        assert same(found["resumed"], found["compiled"])
        assert all(same(result[name]["compiled"], found["compiled"]) for result in results)
