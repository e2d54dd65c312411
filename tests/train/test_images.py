"""Training on images: ranks, micro-batches, resumed epochs, precision; and what a bad gradient does."""

import math
import os

import pytest
import torch
import torch.multiprocessing as multiprocessing

from cld_core import checkpoint, seeds
from cld_core.data import order
from cld_core.errors import NonFiniteError, RecipeError
from cld_core.evaluation import elbo
from cld_core.evaluation.request import EvalRequest
from cld_core.model import Model
from cld_core.recipe import load
from cld_core.run import RunFolder, attempts_of
from cld_core.train import optim, session
from cld_core.train.distributed import Ranks, join
from cld_core.train.ema import Ema
from cld_core.train.guard import Guard
from cld_core.train.step import Trainer
from cld_core.train.stop import StopCode, StopFlag
from tests.images import RECIPES, make_images, tiny_recipe
from tests.tools import same

STEPS = 20


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")


def trained(recipe, ranks=None) -> Trainer:
    made = Trainer(recipe, ranks or Ranks())
    made.warm_up()
    for step in range(STEPS):
        made.step(step)
    return made


def _rank(rank: int, world_size: int, meeting: str, recipe, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    ranks = join(init_method=f"file://{meeting}")
    made = trained(recipe, ranks)
    if ranks.is_first:
        torch.save({"net": made.net.state_dict(), "loss": made.take_loss()}, out)
    else:
        made.take_loss()
    ranks.leave()


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_two_ranks_and_micro_batches_train_as_one(data, tmp_path, micro_batch):
    """cifar10_smoke at 8x8: after 20 steps the weights agree but for rounding, which Adam's first steps magnify."""
    alone = trained(tiny_recipe(data))
    recipe = tiny_recipe(data) if micro_batch is None else tiny_recipe(data, f"train.micro_batch={micro_batch}")
    arguments = (2, str(tmp_path / "meeting"), recipe, str(tmp_path / "out"))
    multiprocessing.spawn(_rank, args=arguments, nprocs=2)
    found = torch.load(tmp_path / "out", weights_only=True)
    assert found["loss"] == pytest.approx(alone.take_loss(), rel=1e-4)
    for name, tensor in alone.net.state_dict().items():
        torch.testing.assert_close(found["net"][name], tensor, rtol=1e-3, atol=1e-4)


def test_micro_batches_change_the_rounding_only(data):
    whole, cut = trained(tiny_recipe(data)), trained(tiny_recipe(data, "train.micro_batch=4"))
    assert whole.take_loss() == pytest.approx(cut.take_loss(), rel=1e-4)
    for name, tensor in whole.net.state_dict().items():
        torch.testing.assert_close(cut.net.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.precision=bf16",),
        ("train.precision=fp16",),
        ("train.channels_last=true",),
        ("optim.name=adamw", "optim.weight_decay=0.01"),
        ("data.cache=disk",),
        ("network.dropout=0.2",),
        ("optim.impl=plain",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_option_trains_and_repeats_itself(data, overrides):
    recipe = tiny_recipe(data, *overrides)
    first, second = trained(recipe), trained(recipe)
    assert same(first.state_dict(), second.state_dict())
    scalars = first.take_scalars()
    assert math.isfinite(scalars["loss"])
    assert scalars["memory_gib"] > 0
    assert scalars["data_wait_s"] >= 0
    for made in (first, second):
        made.close()


def test_the_images_of_a_resumed_epoch_are_each_seen_once(data, monkeypatch):
    """Stopped in the middle of epochs, with fresh noise each time: 20 images, batches of 6."""
    recipe = tiny_recipe(data, "data.flip=false")
    n = Trainer(recipe, Ranks()).source.train.n
    seen: list[int] = []
    original = type(Trainer(recipe, Ranks()).source.train).batch

    def spying(self, indices, flips=None):
        seen.extend(indices.tolist())
        return original(self, indices, flips)

    monkeypatch.setattr("cld_core.data.images.MemoryImages.batch", spying)
    for restart, steps in enumerate((range(3), range(3, 4), range(4, 10))):
        made = Trainer(recipe, Ranks(), restart=restart)
        for step in steps:
            made.step(step)
    assert seen == [index for step in range(10) for index in order.indices(step, 6, n, 0).tolist()]
    for epoch in range(3):
        assert sorted(seen[n * epoch : n * (epoch + 1)]) == list(range(n))


def poisoned(monkeypatch, when):
    """Let the data of the steps for which ``when(key, step)`` holds be infinite; returns the steps that were tried."""
    original, tried = Trainer._backward, []

    def backward(self, step):
        tried.append((self._key[1], step))
        batch = self.source.batch
        if when(self._key[1], step):
            self.source.batch = lambda *arguments: batch(*arguments) * math.inf
        try:
            original(self, step)
        finally:
            self.source.batch = batch

    monkeypatch.setattr(Trainer, "_backward", backward)
    return tried


def run_folder(tmp_path, data, *overrides) -> RunFolder:
    small = ("train.steps=12", "train.checkpoint_every=4", "train.log_every=3", "periodic.samples_every=null")
    return RunFolder.create(tmp_path / "run", tiny_recipe(data, *small, *overrides), {"created": 1.0})


def test_a_bad_gradient_goes_back_to_the_last_good_checkpoint_with_fresh_noise(data, tmp_path, monkeypatch):
    tried = poisoned(monkeypatch, lambda restart, step: restart == 0 and step == 6)
    run = run_folder(tmp_path, data)
    assert session.run(run, Ranks(), StopFlag(), job_id="test") == session.Ended("finished", 12)
    assert [step for _, step in tried] == [*range(7), *range(4, 12)]
    assert {restart for restart, _ in tried[7:]} == {1_000_000}
    events = [event for event in run.ledger.events() if event["event"] == "rolled_back"]
    assert [(event["attempt"], event["to_step"]) for event in events] == [(0, 4)]
    assert "step 6: not finite or exploding: the gradient's norm is nan" in events[0]["reason"]
    assert [entry.cause for entry in attempts_of(run.ledger.events())] == ["finished"]
    for step in (8, 12):
        state = checkpoint.load(run, step)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_going_back_is_bounded_and_a_new_attempt_does_not_count_anew(data, tmp_path, monkeypatch):
    tried = poisoned(monkeypatch, lambda _, step: step == 6)
    run = run_folder(tmp_path, data, "train.max_rollbacks=2")
    for attempt in range(2):
        with pytest.raises(NonFiniteError, match=r"Going back to step 4 2 times.*resume --from"):
            session.run(run, Ranks(), StopFlag(), job_id="test")
        assert sum(event["event"] == "rolled_back" for event in run.ledger.events()) == 2
        assert [entry.cause for entry in attempts_of(run.ledger.events())] == ["nonfinite"] * (attempt + 1)
    assert [step for _, step in tried] == [*range(7), 4, 5, 6, 4, 5, 6, 4, 5, 6]
    assert len({restart for restart, _ in tried}) == 4
    assert run.checkpoint_steps() == [4]


def test_progress_earns_new_credit(data, tmp_path, monkeypatch):
    """One bad step after each checkpoint, and only one rollback allowed from each."""
    poisoned(monkeypatch, lambda restart, step: (restart // 1_000_000, step) in ((0, 2), (1, 6), (2, 10)))
    run = run_folder(tmp_path, data, "train.max_rollbacks=1")
    assert session.run(run, Ranks(), StopFlag(), job_id="test").cause == "finished"
    events = [event for event in run.ledger.events() if event["event"] == "rolled_back"]
    assert [event["to_step"] for event in events] == [0, 4, 8]


def test_a_gradient_that_is_not_finite_changes_nothing(data, monkeypatch):
    poisoned(monkeypatch, lambda _, step: step == 2)
    made = Trainer(tiny_recipe(data), Ranks())
    for step in range(2):
        made.step(step)
    before = {"net": _clone(made.net.state_dict()), "moments": _clone(made.optimiser.state_dict()["state"])}
    before["ema"] = _clone(made.ema.state_dict())
    with pytest.raises(NonFiniteError, match=r"step 2.*nothing was changed"):
        made.step(2)
    after = {"net": made.net.state_dict(), "moments": made.optimiser.state_dict()["state"]}
    assert same(before, {**after, "ema": made.ema.state_dict()})


def _clone(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {name: _clone(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def test_the_fused_optimiser_skips_by_itself_and_the_step_need_not_look(data, monkeypatch):
    """As on a GPU: nothing is read back in the step, and `check` tells afterwards."""
    poisoned(monkeypatch, lambda _, step: step == 1)
    made = Trainer(tiny_recipe(data), Ranks())
    assert optim.skips_on_device(made.optimiser)
    checked = made.check
    monkeypatch.setattr(made, "check", lambda *_: None)
    weights = []
    for step in range(3):
        made.step(step)
        weights.append(_clone(made.net.state_dict()))
    assert same(weights[0], weights[1])
    assert not same(weights[1], weights[2])
    with pytest.raises(NonFiniteError):
        checked(2)


def test_an_overflow_under_the_scaler_is_skipped_and_no_harm(data, monkeypatch):
    poisoned(monkeypatch, lambda _, step: step == 5)
    made = Trainer(tiny_recipe(data, "train.precision=fp16"), Ranks())
    for step in range(5):
        made.step(step)
    made.take_scalars()
    scale, before = made.scaler.get_scale(), _clone(made.net.state_dict())
    made.step(5)
    assert same(before, made.net.state_dict())
    assert made.scaler.get_scale() == scale / 2
    assert made.take_scalars()["skipped_steps"] == 1
    with pytest.raises(NonFiniteError, match="the loss is inf"):
        made.check(1, math.inf)
    made.scaler.update(0.5)
    with pytest.raises(NonFiniteError, match="overflows at any scale"):
        made.check(1)


def test_the_guard_knows_an_explosion_from_its_running_mean():
    guard = Guard(10.0, torch.device("cpu"), scaled=False)
    for _ in range(100):
        assert not guard.check(torch.tensor(2.0))
    assert not guard.check(torch.tensor(19.0))
    assert guard.check(torch.tensor(30.0))
    assert guard.check(torch.tensor(math.nan))
    assert guard.check(torch.tensor(math.inf))
    assert guard.bad() == 3
    assert guard.take_skipped() == 3
    assert guard.bad() == guard.take_skipped() == 0
    again = Guard(10.0, torch.device("cpu"), scaled=False)
    assert not again.check(torch.tensor(30.0)), "nothing to compare with yet"
    again.load_state_dict(guard.state_dict())
    assert again.check(torch.tensor(30.0))
    assert not Guard(None, torch.device("cpu"), scaled=False).check(torch.tensor(1e30))


def test_the_average_is_swapped_in_and_out_without_a_trace():
    net = torch.nn.Linear(2, 2)
    ema = Ema(net, 0.9)
    torch.nn.init.ones_(net.weight)
    own, average = _clone(net.state_dict()), ema.average[0].clone()
    with ema.in_place():
        assert torch.equal(net.weight, average)
    assert same(own, net.state_dict())
    assert torch.equal(ema.average[0], average)


def test_periodic_work_leaves_pictures_and_numbers_and_training_unchanged(data, tmp_path, capsys):
    quick = ("sampling.nfe=3", "periodic.samples=5", "periodic.elbo_points=4", "periodic.batch_size=2")
    loose = ("eval.elbo.rtol=0.05", "eval.elbo.atol=0.05")
    due = ("periodic.samples_every=4", "periodic.elbo_every=4", "periodic.elbo_from=8")
    worked = run_folder(tmp_path, data, *quick, *loose, "train.on_resume=exact")
    (tmp_path / "plain").mkdir()
    plain = run_folder(tmp_path / "plain", data, "train.on_resume=exact")
    worked.recipe_file.write_text(worked.recipe_file.read_text())
    worked.ledger.append("requested", steps=12, overrides=list(due))
    for run in (worked, plain):
        session.run(run, Ranks(), StopFlag(), job_id="test")
    assert sorted(file.name for file in worked.samples.iterdir()) == [f"step_{step:08d}.png" for step in (4, 8, 12)]
    out = capsys.readouterr().out
    assert "step 8: likelihood bound of 4 test data: bpd" in out
    assert "step 4: likelihood bound" not in out
    assert same(checkpoint.load(worked, 12), checkpoint.load(plain, 12))


def test_a_failing_solver_does_not_end_the_training(data, tmp_path, capsys):
    run = run_folder(tmp_path, data, "periodic.elbo_points=100", "periodic.elbo_every=4", "train.steps=4")
    session.run(run, Ranks(), StopFlag(), job_id="test")
    assert "no likelihood bound this time" in capsys.readouterr().out
    assert run.checkpoint_steps() == [4]


def test_a_request_to_stop_ends_periodic_work_between_two_batches(data, tmp_path, monkeypatch):
    flag = StopFlag()
    run = run_folder(tmp_path, data, "sampling.nfe=3", "periodic.batch_size=1", "train.steps=8")
    run.ledger.append("requested", steps=8, overrides=["periodic.samples_every=4", "periodic.samples=50"])
    original, calls = Model.draw, []

    def drawing(self, n, **settings):
        calls.append(settings["first"])
        if len(calls) == 3:
            flag.request(StopCode.USR2)
        return original(self, n, **settings)

    monkeypatch.setattr(Model, "draw", drawing)
    assert session.run(run, Ranks(), flag, job_id="test").cause == "preempted"
    assert calls == [0, 1, 2, 3]
    assert not list(run.samples.iterdir())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.impl=apex"], "GPUs only"),
        (["optim.name=adamax", "optim.impl=apex"], "no adamax"),
        (["optim.name=adamax", "optim.impl=fused"], "no fused kernels"),
    ],
)
def test_kernels_that_are_not_there_are_refused(overrides, words):
    recipe = load(RECIPES / "toy.yaml", overrides)
    with pytest.raises(RecipeError, match=words):
        optim.build(recipe.optim, [torch.nn.Parameter(torch.zeros(1))])


def measured(made: Trainer) -> tuple[float, float]:
    """Loss of the averaged weights on test images, with the same times and noise each time, and their bits/dim."""
    model = Model(made.recipe, net=made.net.eval(), data=made.source)
    request = EvalRequest.of(made.recipe, ("elbo",), 0)
    x = made.source.test_points(0, 0, 40).repeat(20, 1, 1, 1)
    draws = made.loss.draw(seeds.generator(3), len(x), model.data_shape)
    with made.ema.in_place():
        with torch.no_grad():
            loss = float(made.loss.per_sample(model.score, x, draws).mean())
        bits = elbo.summary(model, request, elbo.compute(model, request, 0, 16))["bpd"]
    made.net.train()
    return loss, bits


def test_training_lowers_the_loss_and_the_bits(data):
    """The smoke recipe at 8x8; docs/reproducing.md has what it does at its full size."""
    loose = ("eval.elbo.rtol=0.01", "eval.elbo.atol=0.01", "train.batch_size=16", "train.ema=0.9")
    made = Trainer(tiny_recipe(data, *loose, "optim.lr=0.003", "optim.warmup_steps=0"), Ranks())
    before = measured(made)
    for step in range(160):
        made.step(step)
    after = measured(made)
    assert after[0] < 0.8 * before[0], (before, after)
    assert after[1] < before[1] - 0.3, (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "celebahq256_paper", "celebahq256"])
def test_one_step_of_the_full_recipe_on_the_cpu(name, tmp_path):
    """Batch 1, float32; prints loss, time and memory, which docs/reproducing.md records."""
    import time

    pixels = load(RECIPES / f"{name}.yaml").data.pixels
    data = make_images(tmp_path / "set", size=pixels, splits={"train": 2, "validation": 1})
    overrides = ["data.name=folder", f"data.path={data}", f"data.size={pixels}", "train.precision=fp32"]
    overrides += ["train.batch_size=1", "cluster.nodes=1", "cluster.gpus_per_node=0"]
    made = Trainer(load(RECIPES / f"{name}.yaml", overrides), Ranks())
    started = time.perf_counter()
    made.step(0)
    seconds, scalars = time.perf_counter() - started, made.take_scalars()
    print(f"\n{name}: loss {scalars['loss']:.1f}, {seconds:.1f} s, {scalars['memory_gib']:.2f} GiB")
    assert math.isfinite(scalars["loss"])
    assert math.isfinite(scalars["grad_norm"])
