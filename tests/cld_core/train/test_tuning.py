"""Which form a network trains in: the CPU in the place of a GPU, with a clock that is told what to say."""

import random
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cld_core.nets import compiled
from cld_core.ranks import Ranks
from cld_core.recipe import load
from cld_core.run import events
from cld_core.run.ledger import Ledger
from cld_core.stop import StopCode, StopFlag
from cld_core.train import forms, session, tuning
from cld_core.train.forms import Choice
from cld_core.train.step import Trainer
from cld_core.train.tuning import Card
from tests.support import tracing
from tests.support.images import make_images, run_folder, tiny_recipe
from tests.support.paths import RECIPES
from tests.support.tools import same

LAST = Choice(channels_last=True)
QUICK = Choice("eager", True, "zeros")
COMPILED = ("compiled", "compiled with CUDA graphs")
# Milliseconds by form.
SPEEDS = {LAST: 52.0, QUICK: 50.0, Choice("compiled", True, "zeros"): 33.0, Choice("graphs", True, "zeros"): 34.0}


class FakeCard:
    """A card of which every pass takes the time that is given for its form; a text is raised.

    Attributes:
        compiles: whether forms are compiled, which takes seconds; otherwise they only count as compiled.
    """

    def __init__(self, monkeypatch, speeds, otherwise=61.0):
        self.speeds, self.otherwise, self.now, self.tick = speeds, otherwise, 0.0, 0.0
        self.order, self.released, self.on_take, self.compiles = [], 0, lambda: None, False
        self._prepare = tuning.prepare
        monkeypatch.setattr(tuning, "prepare", self.prepare)
        monkeypatch.setattr(compiled, "BACKEND", tracing.trace)
        monkeypatch.setattr(forms, "WORTH_COMPILING_S", 0.0)
        monkeypatch.setattr(tuning, "WARM_UP", 1)
        monkeypatch.setattr(tuning, "PASSES", 2)
        self.card = Card("a fake card", self.clock, self.release)

    def clock(self):
        self.now += self.tick
        return self.now

    def release(self):
        self.released += 1

    def prepare(self, net, spec, ranks, choice, **settings):
        self.order.append(choice)
        self.on_take()
        speed = self.speeds.get(choice, self.otherwise)
        if isinstance(speed, str):
            raise torch.OutOfMemoryError(speed)
        self.tick = speed / 1e3
        if not self.compiles:
            choice = replace(choice, compile="eager")
        return self._prepare(net, spec, ranks, choice, **settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def card(monkeypatch):
    yield FakeCard(monkeypatch, SPEEDS)
    torch.compiler.reset()


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "attempts.jsonl")


def test_on_a_cpu_nothing_is_measured(data, ledger, capsys):
    assert tuning.decide(tiny_recipe(data), Ranks(), ledger=ledger) == Choice()
    fixed = tiny_recipe(data, "train.compile=true", "train.channels_last=true")
    assert tuning.decide(fixed, Ranks(), ledger=ledger) == Choice("compiled", True)
    assert Card.of(torch.device("cpu")) is None
    assert not ledger.events()
    assert capsys.readouterr().out == ""


def test_the_fastest_form_is_chosen_printed_and_written_down(data, ledger, card, capsys):
    recipe = tiny_recipe(data)
    assert tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card) == Choice("compiled", True, "zeros")
    assert len(card.order) == card.released == 8
    *begun, event = ledger.events()
    assert [it.form for it in begun] == [f"{how} + channels_last + zeros upsampling" for how in COMPILED]
    assert isinstance(event, events.Measured)
    assert event.where == f"a fake card, torch {torch.__version__}, 1 x 6 rows, fp32, tf32"
    assert (event.compile, event.channels_last, event.upsampling) == ("compiled", True, "zeros")
    assert event.milliseconds["eager"] == 61.0
    assert event.milliseconds["compiled + channels_last + zeros upsampling"] == 33.0
    out = capsys.readouterr().out
    assert out.startswith("measured on a fake card: eager 61 ms, zeros upsampling 61 ms, polyphase upsampling 61 ms, ")
    assert "-> compiled + channels_last + zeros upsampling (measuring took " in out
    assert out.count("\n") == 1


def test_the_same_kind_of_place_is_not_measured_again(data, ledger, card, capsys):
    layouts = ("network.fir=false", "train.compile=false")

    def decided(*overrides):
        return tuning.decide(tiny_recipe(data, *layouts, *overrides), Ranks(), ledger=ledger, card=card.card)

    assert decided() == LAST
    assert len(card.order) == 2
    assert decided() == LAST
    assert len(card.order) == 2
    assert "channels_last, as measured before on a fake card" in capsys.readouterr().out
    assert len(ledger.events()) == 1
    # Another batch, and a key that is now fixed otherwise.
    assert decided("train.batch_size=5") == LAST
    assert len(card.order) == 4
    assert decided("train.compile=true") == Choice("compiled", True)
    assert len(card.order) == 4


def failing(*arguments):
    raise RuntimeError("CUDA error: an illegal memory access")


def test_if_nothing_can_be_built_training_begins_plainly_and_the_next_start_tries_again(
    data, ledger, card, monkeypatch
):
    recipe = tiny_recipe(data, "train.compile=false")
    with monkeypatch.context() as broken:
        broken.setattr(tuning, "_set_up", failing)
        assert tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card) == Choice()
    assert len(ledger.events()[-1].failed) == 6
    assert tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card) == QUICK


class Killed(BaseException):
    """The process ends."""


def test_a_form_that_twice_ended_the_process_is_not_tried_again(data, ledger, card):
    deadly = Choice("compiled", True, "zeros")

    def kill():
        if card.order[-1] == deadly:
            raise Killed

    card.on_take = kill
    recipe = tiny_recipe(data)
    for _ in range(2):
        with pytest.raises(Killed):
            tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card)
    card.order.clear()
    assert tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card) == Choice("graphs", True, "zeros")
    assert deadly not in card.order
    assert ledger.events()[-1].failed == {str(deadly): "ended the process"}
    tuning.decide(recipe, Ranks(), ledger=ledger, card=card.card)
    assert len(card.order) == 7


def test_measuring_leaves_random_numbers_and_training_as_they_are(data, card):
    card.compiles = True
    torch.manual_seed(5)
    random.seed(5)
    recipe = tiny_recipe(data, "network.dropout=0.5", "network.fir=false", "train.channels_last=true")
    before, own = torch.get_rng_state(), random.getstate()
    trainer = Trainer(recipe, Ranks())
    weights = {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}
    choice = tuning.decide(recipe, Ranks(), card=card.card)
    assert len(card.order) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == own
    assert same(trainer.net.state_dict(), weights)
    assert all(parameter.grad is None for parameter in trainer.net.parameters())
    chosen = Trainer(recipe, Ranks(), choice=choice)
    assert same(chosen.net.state_dict(), weights)
    for made in (trainer, chosen):
        made.step(0)
    # Dropout masks of compiled code are others.
    assert chosen.take_loss() != 0.0


def test_every_form_trains_alike(data, card):
    """Except for rounding; CUDA graphs are not recorded on CPUs."""
    losses = {}
    for choice in (Choice(), LAST, Choice(upsampling="polyphase"), *SPEEDS):
        trainer = Trainer(tiny_recipe(data), Ranks(), choice=choice)
        for step in range(3):
            trainer.step(step)
        losses[choice] = trainer.take_loss()
        assert trainer.net.all_modules[0].W.is_contiguous()
    assert all(loss == pytest.approx(losses[Choice()], rel=1e-5) for loss in losses.values()), losses


def test_micro_batches_are_not_recorded_as_graphs(data, card):
    tuning.decide(tiny_recipe(data, "train.micro_batch=4"), Ranks(), card=card.card)
    assert "compiled" in [choice.compile for choice in card.order]
    assert "graphs" not in [choice.compile for choice in card.order]


def test_vectors_have_one_memory_format(card):
    recipe = load(RECIPES / "toy.yaml", ["network.width=8", "network.layers=2", "train.batch_size=4"])
    tuning.decide(recipe, Ranks(), card=card.card)
    assert card.order == [Choice(), Choice("compiled"), Choice("graphs")]


def test_a_run_that_is_stopped_while_it_compares_trains_nothing_and_goes_on_later(data, tmp_path, card, monkeypatch):
    monkeypatch.setattr(Card, "of", lambda device: card.card)
    trained = []
    step = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, number, **rest: (trained.append(number), step(self, number, **rest))
    )
    run, stop = run_folder(tmp_path, data, "train.compile=false", "train.steps=2"), StopFlag()
    card.on_take = lambda: stop.request(StopCode.USR2)
    ended = session.run(run, Ranks(), stop, job_id="test")
    assert (ended.cause, ended.step, ended.code) == ("preempted", 0, StopCode.USR2)
    assert not trained
    last = run.ledger.history().last
    assert (last.cause, last.first_step, last.last_step) == ("preempted", 0, 0)
    card.on_take = lambda: None
    assert session.run(run, Ranks(), StopFlag(), job_id="test").cause == "finished"
    assert trained == [0, 1]


def test_a_run_measures_once_and_says_how_long_its_first_step_took(data, tmp_path, card, monkeypatch, capsys):
    monkeypatch.setattr(Card, "of", lambda device: card.card)
    run = run_folder(tmp_path, data, "train.compile=false", "train.steps=4")
    session.run(run, Ranks(), StopFlag(), job_id="test")
    count = len(card.order)
    assert count == 6
    run.ledger.append(events.Requested(steps=8, overrides=("train.steps=8",)))
    session.run(run, Ranks(), StopFlag(), job_id="test")
    assert len(card.order) == count
    assert [type(event).__name__ for event in run.ledger.events()].count("Measured") == 1
    out = capsys.readouterr().out
    assert out.count("measured on a fake card") == out.count("as measured before on a fake card") == 1
    assert out.count("first step done after") == 2
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert [point.step for point in board.Scalars("train/first_step_s")] == [1, 5]
