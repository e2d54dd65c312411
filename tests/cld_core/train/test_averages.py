"""Power-function averages in trainings: what is stored, what a continuation does, and averages of other lengths."""

from collections.abc import Mapping

import pytest
import torch
import torch.multiprocessing as multiprocessing

import cld_core
from cld_core.averages.power import PowerAverages
from cld_core.checkpoint.files import StoredAverages, sidecar_of, usable
from cld_core.checkpoint.load import load as load_checkpoint
from cld_core.checkpoint.load import read_tensors
from cld_core.config import load
from cld_core.errors import NonFiniteError
from cld_core.ranks import Ranks, join
from cld_core.rendezvous import Place
from cld_core.run import RunFolder, events
from cld_core.stop import StopCode, StopFlag
from cld_core.train import session
from cld_core.train.step import Trainer
from tests.support.paths import RECIPES
from tests.support.tools import same, wait_for

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=16", "train.log_every=5", "train.steps=40")
KEPT = ("train.checkpoint_every=10", "train.ema_every=4", "train.ema_lengths=[0.05,0.1]")


@pytest.fixture
def make(tmp_path):
    def make(name: str = "mine", *overrides: str) -> RunFolder:
        recipe = load(RECIPES / "toy.yaml", [*SMALL, *KEPT, *overrides])
        return RunFolder.create(tmp_path / name, recipe, {"created": 1.0})

    return make


def attempt(run: RunFolder, stop: StopFlag | None = None) -> session.SessionResult:
    return session.run(run, Ranks(), stop or StopFlag(), job_id="test")


def interrupted(run: RunFolder, step: int, act) -> None:
    """An attempt that meets ``act`` while it computes a step."""
    original = Trainer.step

    def stepping(self, number, **more):
        if number == step:
            act()
        original(self, number, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stepping)
        attempt(run)


def stored(run: RunFolder) -> dict[int, object]:
    return {step: read_tensors(run.snapshot_file(step))["power"] for step in run.snapshot_steps()}


def test_snapshots_are_the_averages_of_their_steps_and_outlive_checkpoints(make):
    run = make("mine", "train.keep=1")
    attempt(run)
    assert run.snapshot_steps() == list(range(4, 41, 4))
    assert run.checkpoint_steps() == [40]
    assert same(stored(run)[40], load_checkpoint(run, 40)["power"])
    assert sidecar_of(run, 40).averages == StoredAverages((0.05, 0.1), 0, 40)
    assert [one.step for one in usable(run, 40)] == [*range(4, 40, 4), 40]


def test_a_stopped_and_resumed_run_in_exact_mode_has_the_same_averages_to_the_last_bit(make):
    whole, parts = make("whole", "train.on_resume=exact"), make("parts", "train.on_resume=exact")
    attempt(whole)
    for step in (2, 17, 29):
        flag = StopFlag()
        with pytest.MonkeyPatch.context() as patch:
            original = Trainer.step

            def stepping(self, number, *, at=step, flag=flag, original=original, **more):
                if number == at:
                    flag.request(StopCode.USR2)
                original(self, number, **more)

            patch.setattr(Trainer, "step", stepping)
            assert attempt(parts, flag).cause == "preempted"
    assert attempt(parts).cause == "finished"
    assert same(load_checkpoint(whole, 40), load_checkpoint(parts, 40))
    assert same(stored(whole), stored(parts))


def test_lengths_that_are_added_or_changed_begin_where_the_run_continues(make, capsys):
    run = make("mine", "train.ema_lengths=[]", "train.ema_every=null", "train.steps=20")
    attempt(run)
    run.ledger.append(
        events.Requested(steps=40, overrides=("train.steps=40", "train.ema_lengths=[0.1]", "train.ema_every=4"))
    )
    attempt(run)
    assert "the power-function averages begin at step 20" in capsys.readouterr().out
    assert sidecar_of(run, 40).averages == StoredAverages((0.1,), 20, 20)
    assert [one.step for one in usable(run, 40)] == [24, 28, 32, 36, 40]
    run.ledger.append(events.Requested(steps=50, overrides=("train.steps=50", "train.ema_lengths=[0.1,0.2]")))
    attempt(run)
    assert sidecar_of(run, 50).averages == StoredAverages((0.1, 0.2), 40, 10)
    assert [one.step for one in usable(run, 50)] == [44, 48, 50]


def test_what_a_crash_or_a_request_gives_up_is_set_aside(make):
    run = make()

    def crash():
        raise MemoryError("no more")

    with pytest.raises(MemoryError):
        interrupted(run, 19, crash)
    wait_for(lambda: run.snapshot_steps() == [4, 8, 12, 16])
    assert run.checkpoint_steps() == [10]
    with pytest.raises(MemoryError):
        interrupted(run, 11, crash)
    assert run.snapshot_steps() == [4, 8]
    assert sorted(path.name for path in (run.averages / "set_aside").glob("*.pt")) == [
        "step_00000012.pt",
        "step_00000016.pt",
    ]
    attempt(run)
    run.ledger.append(events.Requested(steps=40, from_step=20))
    with pytest.raises(MemoryError):
        interrupted(run, 20, crash)
    assert run.snapshot_steps() == [4, 8, 12, 16, 20]


def test_a_rollback_sets_aside_what_it_gives_up(make, monkeypatch):
    run, original, seen = make("mine", "train.max_rollbacks=1", "train.log_every=1"), Trainer._backward, []

    def poisoned(self, step):
        loss = original(self, step)
        if step == 18:
            next(self.net.parameters()).grad.fill_(torch.nan)
        if step == 10:
            seen.append(run.snapshot_steps())
        return loss

    monkeypatch.setattr(Trainer, "_backward", poisoned)
    with pytest.raises(NonFiniteError, match="1 rollbacks to step 10"):
        attempt(run)
    assert seen[1] == [4, 8], "what was stored at 12 and 16 belongs to another trajectory"
    assert (run.averages / "set_aside" / "step_00000012.pt").exists()


def _two_ranks(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False, timeout_s=300)
    recipe = load(RECIPES / "toy.yaml", [*SMALL, *KEPT])
    made = Trainer(recipe, ranks)
    made.warm_up()
    for step in range(6):
        if step == 3:
            state, made = made.state_dict(), Trainer(recipe, ranks)
            made.load_state_dict(state)
            made.warm_up()
        made.deferred = step > 3
        made.step(step)
    torch.save(made.power.state_dict(), f"{out}.{rank}")
    ranks.leave()


@pytest.mark.slow
def test_ranks_have_the_same_averages_which_are_those_of_one(tmp_path):
    multiprocessing.spawn(_two_ranks, args=(str(tmp_path / "meeting"), str(tmp_path / "out")), nprocs=2)
    first, second = (torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(2))
    assert same(first, second)
    alone = Trainer(load(RECIPES / "toy.yaml", [*SMALL, *KEPT]), Ranks())
    for step in range(6):
        alone.step(step)
    assert first["updates"] == alone.power.updates == 6
    for key, average in alone.power.state_dict()["averages"].items():
        for name, tensor in average.items():
            torch.testing.assert_close(first["averages"][key][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[RunFolder, PowerAverages]:
    """A trained toy, and averages of other lengths that were really run beside it."""
    others: list[PowerAverages] = []
    settings = ("network.width=32", "network.layers=3", "train.batch_size=64", "train.steps=400", "optim.lr=3e-3")
    kept = ("train.ema_lengths=[0.05,0.1]", "train.ema_every=16", "train.checkpoint_every=400")
    recipe = load(RECIPES / "toy_diamond.yaml", [*settings, *kept])
    run = RunFolder.create(tmp_path_factory.mktemp("real") / "mine", recipe, {"created": 1.0})
    original = Trainer.step

    def stepping(self, step, **more):
        original(self, step, **more)
        if not others:
            others.append(PowerAverages(self.net, (0.03, 0.07, 0.15, 0.2)))
        others[0].update()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stepping)
        attempt(run)
    return run, others[0]


def test_averages_of_a_trained_toy_are_those_that_were_run(real):
    """Weights and likelihoods: docs/howto/ema.md shows the numbers of a longer training."""
    run, others = real
    usual = cld_core.load(run.path)
    assert usual.ema_length is None
    x, bounds = usual.source.dequantised_test_data(0, 0, 128), {}
    for number, length in enumerate(others.lengths):
        made, ran = cld_core.load(run.path, ema_length=length), cld_core.load(run.path)
        truth = dict(zip(others.names, others.averages[number], strict=True))
        ran.net.load_state_dict(truth, strict=False)
        error = _distance(dict(made.net.named_parameters()), truth)
        assert error < (2e-3 if length < 0.2 else 4e-3)
        assert error < made.ema_error < 0.03
        likelihoods = [one.log_likelihood(x, exact_trace=True, rtol=1e-4, atol=1e-4).mean() for one in (made, ran)]
        bounds[length] = float(likelihoods[1])
        assert abs(float(likelihoods[0] - likelihoods[1])) < 5e-3
    assert max(bounds.values()) - min(bounds.values()) > 0.05, "the averages differ by far more than that"


def _distance(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The relative distance of weights."""
    away = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return float((away / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5)
