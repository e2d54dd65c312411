"""Evaluations: independent of how they are cut, resumable, and merged only when whole."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluation import merge, shard, shard_files, work
from cld_core.evaluation.request import EvalRequest, parse_metrics
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.paths import RECIPES

TOY = RECIPES / "toy_diamond.yaml"
SMALL = ["network.width=16", "network.layers=3", "train.steps=20", "train.batch_size=16", "eval.samples=70"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "mine", load(TOY, SMALL), {"created": 1.0})
    session.run(folder, Ranks(), StopFlag(), job_id="test")
    return folder.path


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    """A copy that a test may spoil."""
    import shutil

    shutil.copytree(trained, tmp_path / "mine")
    return RunFolder(tmp_path / "mine")


def request(run: RunFolder, *overrides: str, shards: int = 1) -> EvalRequest:
    recipe = load(run.recipe_file, overrides)
    return EvalRequest.of(recipe, ("elbo",), 20, shards)


def report(run: RunFolder, name: str) -> dict:
    return read_json(run.evals / name / "report.json")


def test_shards_and_batches_do_not_change_the_numbers(run):
    found = []
    for shards, batch in ((1, 2048), (3, 2048), (8, 7)):
        name = request(run, f"eval.batch_size={batch}", shards=shards).save(run)
        assert shard.compute(run, name, Ranks())
        arrays, _ = merge.gather(run.evals / name, EvalRequest.load(run.evals / name))
        found.append((arrays["elbo"], report(run, name)["elbo"]))
        for file in sorted((run.evals / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (run.evals / name).rmdir()
    for arrays, elbo in found[1:]:
        np.testing.assert_allclose(arrays["elbo"], found[0][0]["elbo"], rtol=1e-5, atol=1e-5)
        assert elbo["nll"] == pytest.approx(found[0][1]["nll"], rel=1e-6)
        assert elbo["n"] == 70


def test_rows_of_another_evaluation_are_not_computed_again(run, monkeypatch, capsys):
    """More metrics, more data, another number of shards: what is computed is only what nobody has."""
    shard.compute(run, first := request(run, shards=2).save(run), Ranks())
    before = report(run, first)["elbo"]
    computed, kind = [], work.WORK["elbo"]

    def counted(model, request, first, last):
        computed.append((first, last))
        return kind.compute(model, request, first, last)

    monkeypatch.setitem(work.WORK, "elbo", dataclasses.replace(kind, compute=counted))
    both = EvalRequest.of(load(run.recipe_file), ("elbo", "loss"), 20, 3).save(run)
    shard.compute(run, both, Ranks())
    assert computed == []
    assert report(run, both)["elbo"] == before
    assert report(run, both)["loss"]["n"] == 70
    assert f"shard 0 of 3: elbo 23/23, taken from {first}" in capsys.readouterr().out

    more = request(run, "eval.samples=90", shards=1).save(run)
    shard.compute(run, more, Ranks())
    assert computed == [(70, 90)]
    assert report(run, more)["elbo"]["n"] == 90
    np.testing.assert_array_equal(_bounds(run, more)[:70], _bounds(run, first))

    shard.compute(run, request(run, "eval.elbo.velocities=2").save(run), Ranks())
    assert computed[1:] == [(0, 70)], "with other settings nothing is the same"


def _bounds(run, name):
    return merge.gather(run.evals / name, EvalRequest.load(run.evals / name))[0]["elbo"]["elbo"]


def test_rows_of_another_checkpoint_or_a_damaged_shard_are_not_taken(run, capsys):
    shard.compute(run, first := request(run, shards=2).save(run), Ranks())
    state = run.evals / first / "shards" / "00000.json"
    state.write_text(json.dumps({**read_json(state), "checkpoint": "another"}))
    (run.evals / first / "shards" / "00001-elbo.npz").write_bytes(b"damaged")
    shard.compute(run, EvalRequest.of(load(run.recipe_file), ("elbo", "loss"), 20, 2).save(run), Ranks())
    assert "taken from" not in capsys.readouterr().out


def test_of_a_single_datum_there_is_no_standard_error(run):
    name = EvalRequest.of(load(run.recipe_file, ["eval.points=1"]), ("elbo", "loss"), 20, 1).save(run)
    shard.compute(run, name, Ranks())
    found = json.loads((run.evals / name / "report.json").read_text(), parse_constant=pytest.fail)
    assert (found["elbo"]["n"], found["elbo"]["stderr"], found["elbo"]["gap_stderr"]) == (1, None, None)
    assert found["loss"]["stderr"] is None


def test_the_report_says_what_it_promises(run):
    name = request(run, "eval.elbo.velocities=3").save(run)
    shard.compute(run, name, Ranks())
    found = report(run, name)
    elbo = found["elbo"]
    assert found["checkpoint_step"] == 20
    assert elbo["stderr"] > 0
    assert elbo["nfe_mean"] > 10
    assert elbo["true_entropy"] == pytest.approx(-1.40265, abs=1e-4)
    assert elbo["gap"] > 0
    source = Model.from_run(run.path).source
    truth = source.density.log_density(source.test_data(0, 0, elbo["n"])).mean()
    assert elbo["gap"] == pytest.approx(elbo["nll"] + float(truth), abs=1e-9), "the same data on both sides"
    assert elbo["nll_importance"] <= elbo["nll"]
    assert (run.evals / name / "samples.png").stat().st_size > 1000


def test_two_ranks_share_the_work_and_one_merges(run):
    name = request(run, shards=4).save(run)
    assert shard.compute(run, name, Ranks(0, 2))
    assert report(run, name) is None
    assert [shard.is_complete(run.evals / name, EvalRequest.load(run.evals / name), k) for k in range(4)] == [
        True,
        False,
        True,
        False,
    ]
    assert shard.compute(run, name, Ranks(1, 2))
    assert report(run, name)["elbo"]["n"] == 70


def test_an_interrupted_shard_goes_on_at_its_next_batch(run, monkeypatch):
    name = request(run, "eval.batch_size=16").save(run)
    asked: list[tuple[int, int]] = []
    elbo = work.WORK["elbo"]

    def counted(model, what, first, last):
        asked.append((first, last))
        return elbo.compute(model, what, first, last)

    monkeypatch.setitem(work.WORK, "elbo", dataclasses.replace(elbo, compute=counted))
    assert not shard.compute(run, name, Ranks(), should_stop=lambda: len(asked) >= 2)
    assert request(run, "eval.batch_size=24").save(run) == name, "fewer or more at once is the same evaluation"
    assert shard.compute(run, name, Ranks())
    assert asked == [(0, 16), (16, 32), (32, 56), (56, 70)]
    before = report(run, name)
    assert shard.compute(run, name, Ranks())
    assert report(run, name) == before, "nothing is left to do"


def test_gaps_overlaps_and_strangers_are_refused_in_words(run):
    name = request(run, shards=3).save(run)
    path = run.evals / name
    shard.compute(run, name, Ranks())
    state = shard_files.state_file(path / "shards", 1)
    content = json.loads(state.read_text())
    elbo = content["work"]["elbo"]
    for change, words in (
        ({"work": {"elbo": {**elbo, "first": 24}}}, "a gap between 23 and 24"),
        ({"work": {"elbo": {**elbo, "first": 22}}}, "an overlap between 22 and 23"),
        ({"work": {"elbo": {**elbo, "done": 3}}}, "26 to 46 of the elbo are missing"),
        ({"checkpoint": "other"}, "different checkpoints"),
        ({"request": "elbo-00000020-12345678"}, "another request, elbo-00000020-12345678"),
    ):
        state.write_text(json.dumps({**content, **change}))
        with pytest.raises(merge.MergeError, match=words):
            merge.gather(path, EvalRequest.load(path))
    state.unlink()
    with pytest.raises(merge.MergeError, match="a gap between 23 and 46"):
        merge.gather(path, EvalRequest.load(path))


def test_the_name_is_made_of_what_the_numbers_depend_on(run):
    name = request(run).id
    assert name.startswith("elbo-00000020-")
    assert request(run, shards=5).id == request(run, "eval.batch_size=3").id == name
    assert len({name, request(run, "eval.seed=1").id, request(run, "eval.elbo.probes=2").id}) == 3


def test_what_is_not_there(run):
    with pytest.raises(NotFoundError, match="no evaluation here"):
        EvalRequest.load(run.evals / "none")
    with pytest.raises(UsageError, match=r"'elb' is no metric.*'elbo'"):
        parse_metrics("elb")
