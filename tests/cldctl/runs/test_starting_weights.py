"""`submit --from`: what a run starts from, what is refused before anything is written, and what is
said of it."""

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import cld_core
from cld_core.checkpoint import averaged_weights, load, write_weights
from cld_core.errors import CheckpointError, UsageError
from cld_core.importing import StartingWeights
from cld_core.ranks import Ranks
from cld_core.run import events
from cld_core.train import session
from cld_core.train.step import GradientFilter, Trainer
from cldctl.runs.options import SubmitOptions
from cldctl.runs.plan import check
from cldctl.runs.why import why
from tests.support.made_up import run_with
from tests.support.plugin import toy_plugin
from tests.support.scripted import alone, submitted
from tests.support.tools import ONE, invoke, same, status, train, trained

pytestmark = pytest.mark.usefixtures("small")
LABELLED = ("data.labels=true",)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run whose weights and averages differ, with checkpoints of steps 10 and 20, and an exported
    file."""
    run = trained(tmp_path_factory.mktemp("sources") / "source", "toy", *ONE)
    cld_core.load(run.path, 10).export(run.path.parent / "weights.safetensors")
    return run


def wanted(root, weights, *overrides, name="mine", **more):
    return SubmitOptions(
        recipe="toy", root=root, name=name, given=(*ONE, *overrides), weights=str(weights), **more
    )


def made(root, weights, *overrides, **more):
    """A new run that starts from weights, and has not trained."""
    options = wanted(root, weights, *overrides, **more)
    check(options, alone())
    return submitted(options, alone()).works[0].run


def refused(root, weights, *words, code=2):
    """What a submission says that writes nothing."""
    done = invoke(f"submit toy --name no --from {weights}", *ONE, *words, runs=root, code=code)
    assert not (root / "no").exists()
    return done.stderr


def sampled(run, step):
    return cld_core.load(run.path, step).sample(40, method="em", nfe=8)


@pytest.mark.parametrize("weights", ["source@10", "weights.safetensors"])
def test_with_no_step_trained_it_samples_the_same_and_with_one_it_does_not(
    tmp_path, source, weights
):
    weights = source.path.parent / weights
    run = made(tmp_path, weights, "train.steps=1", "train.checkpoint_every=1", "train.seed=5")
    expected = sampled(source, 10)
    assert torch.equal(sampled(run, 0), expected)
    train(run)
    assert torch.equal(sampled(run, 0), expected), "it is kept"
    one = averaged_weights(run, 1).tensors
    assert not any(
        torch.equal(one[name], tensor) for name, tensor in averaged_weights(run, 0).tensors.items()
    )
    assert not torch.equal(sampled(run, 1), expected)


def test_weights_and_averages_start_from_the_averages_and_everything_else_is_new(tmp_path, source):
    run = made(tmp_path, source.path, "train.ema_lengths=[0.1]")
    state, averages = load(run, 0), averaged_weights(source, 20).tensors
    assert not same(dict(load(source, 20)["model"]), averages), "or the test would say nothing"
    assert same(dict(state["model"]), averages)
    assert same(dict(state["ema"]), {"updates": 0, "average": averages})
    assert state["optimiser"]["state"] == {}
    assert "power" not in state
    trainer = Trainer(run.recipe(), Ranks())
    trainer.load_state_dict(state)
    assert (trainer.power.began, trainer.power.updates) == (0, 0)


def test_what_does_not_fit_starts_as_the_seed_makes_it_and_that_is_said(tmp_path, source):
    shutil.copytree(source.path, tmp_path / "source")
    run = made(tmp_path, "source", *LABELLED, "train.seed=3", partial=True)
    words = "started from source at step 20, 2 tensors afresh"
    event = next(event for event in run.ledger.events() if isinstance(event, events.Imported))
    assert (event.step, event.source_step, event.words) == (0, 20, words)
    assert event.fresh == ("main.0.weight", "label_embedding.weight")
    assert run.identity()["started_from"] == {"path": str(tmp_path / "source"), "step": 20}
    assert status("mine")["started_from"] == why(run).row.started_from == words
    for command in (("status", "mine"), ("why", "mine")):
        assert words in invoke(*command).stdout
    invoke("report", "mine")
    page = (run.path / "report.html").read_text()
    assert words in page
    assert "newest checkpoint" in page, "though its step is 0"
    trainer, theirs = Trainer(run.recipe(), Ranks()), averaged_weights(source, 20).tensors
    for name, tensor in load(run, 0)["model"].items():
        assert torch.equal(
            tensor, (trainer.net.state_dict() if name in event.fresh else theirs)[name]
        )


def test_a_network_that_does_not_fit_is_refused_by_name_and_shape(tmp_path, source):
    text = refused(tmp_path, source.path, *LABELLED)
    shapes = "main.0.weight (16, 5), here (16, 21); label_embedding.weight none, here (6, 16)"
    assert f"{shapes}. Add --partial" in text
    many = refused(tmp_path, source.path, "network.width=32", "network.layers=9")
    assert "main.4.bias (2,), here (32,) and 12 more. Use weights of the same" in many
    whole = {name: tensor.long() for name, tensor in averaged_weights(source, 20).tensors.items()}
    with pytest.raises(UsageError, match="of whole numbers, here"):
        StartingWeights(path=source.path, step=20, tensors=whole).require_fit(
            source.recipe(), partial=False
        )
    resnet = "network={name: resnet, width: 16, layers: 3}"
    assert "no tensor of source at step 20 fits" in refused(
        tmp_path, source.path, resnet, "--partial"
    )


def test_what_is_not_there_is_refused(tmp_path, source):
    assert "no checkpoint of step 11. Existing ones: 10, 20" in refused(
        tmp_path, f"{source.path}@11", code=3
    )
    assert "does not name the step" in refused(
        tmp_path, forged(tmp_path, source, step="-1"), code=1
    )
    invoke("submit", "toy", "--partial", "--name", "no", code=2)


def forged(folder, source, **about):
    """A file of the source's weights that says other things of itself."""
    with (folder / "forged.safetensors").open("wb") as file:
        said = {"format": "cldctl-weights/1", "step": "10", **about}
        write_weights(file, averaged_weights(source, 10).tensors, said)
    return folder / "forged.safetensors"


def test_the_recipe_in_a_file_is_not_needed_and_its_code_does_not_run(tmp_path, source):
    plugin = toy_plugin(
        tmp_path / "ring.py", "ring", first=f"import os\nos.mkdir({str(tmp_path / 'ran')!r})"
    )
    recipe = json.dumps({"data": {"name": "ring"}, "plugins": [str(plugin)]})
    made(tmp_path, forged(tmp_path, source, recipe=recipe))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sweep", [(), ("train.seed=1",)], ids=["one", "sweep"])
def test_what_a_run_needs_is_looked_at_once(tmp_path, source, monkeypatch, sweep):
    seen = []
    monkeypatch.setattr("cldctl.runs.plan.require_inputs", lambda *it: seen.append(it))
    made(tmp_path, source.path, sweep=sweep)
    assert len(seen) == 1


def test_a_preview_says_it_and_writes_nothing(tmp_path, source):
    said = refused(tmp_path, source.path, *LABELLED, "--partial", "--dry-run", code=0)
    assert "starts from source at step 20, except for what does not fit: main.0" in said


def test_each_run_of_a_sweep_starts_from_the_weights(tmp_path, source):
    sweep = ("data.name=diamond,gaussian",)
    options = wanted(tmp_path, source.path, sweep=sweep)
    said = []
    check(options, alone(most=4), said.append)
    assert said == ["starts from source at step 20"]
    runs = [planned.run for planned in submitted(options, alone(most=4)).works]
    averages = averaged_weights(source, 20).tensors
    assert [same(dict(load(run, 0)["model"]), averages) for run in runs] == [True, True]
    with pytest.raises(UsageError, match=r"started from .*source at step 20\. Use another --name"):
        check(replace(options, weights=None), alone(most=4))
    with pytest.raises(
        UsageError, match=r"--sweep, at data.labels=true: source at step 20 does not fit"
    ):
        check(
            wanted(tmp_path, source.path, name="other", sweep=("data.labels=false,true",)),
            alone(most=4),
        )


def test_a_rollback_before_the_first_checkpoint_goes_back_to_the_weights(
    tmp_path, source, monkeypatch
):
    run = made(tmp_path, source.path, "train.steps=2", "train.checkpoint_every=2")
    check, norms = GradientFilter.check, itertools.chain([1.0, math.inf], itertools.repeat(1.0))
    monkeypatch.setattr(GradientFilter, "check", lambda self, norm: check(self, norm * next(norms)))
    train(run)
    assert run.ledger.history().rolled_back_to == (0,)


@pytest.mark.parametrize("origin", ["started_from", "imported"])
def test_a_run_that_has_lost_its_first_checkpoint_does_not_begin_with_new_weights(tmp_path, origin):
    run = run_with(tmp_path / "mine")
    about = json.loads(run.identity_file.read_text())
    run.identity_file.write_text(
        json.dumps({**about, origin: {"path": "a"} if origin == "started_from" else "a"})
    )
    with pytest.raises(CheckpointError, match="made with is missing"):
        session.choose(run, run.recipe())


def test_the_scaling_is_that_of_the_new_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("f4")
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", 7 * x + 100)
    source = trained(tmp_path / "source", "toy", arrays(tmp_path / "a.npy"), *ONE)
    run = made(tmp_path, "source", arrays(tmp_path / "b.npy"))
    expected = 7 * sampled(source, 20) + 100
    torch.testing.assert_close(sampled(run, 0), expected, rtol=1e-4, atol=1e-3)


def arrays(path):
    return f"data={{name: arrays, path: {path}}}"
