"""Evaluations of a run on 8x8 images, and the rows of any, for the tests of several files."""

import shutil
from pathlib import Path

import torch

from cld_core.computation import joined
from cld_core.config import load, with_overrides
from cld_core.evaluate.request import request_of
from cld_core.evaluate.rows import EvaluationComputation, SampleRows
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.ranks import Ranks
from cld_core.run.evaluations import Evaluation
from cld_core.samplers import Samples
from cld_core.stop import StopFlag

STEP = 2
SETTINGS = (
    # A network of few tensors: reading its checkpoint is most of what a small evaluation takes.
    "network.multipliers=[1]",
    "network.attention=[]",
    f"train.steps={STEP}",
    "sampling.nfe=3",
    "eval.samples=40",
    "eval.points=10",
    "eval.kid.subsets=5",
    "eval.kid.subset_size=8",
    "eval.isc.splits=2",
)


def stats_of(run, *overrides, shards=3):
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    work = Statistics(StatsRequest.of(recipe, None, features=True, shards=shards).save())
    assert work.compute(Ranks()).is_done
    shutil.rmtree(work.folder)
    return Path(work.request.output)


def request(run, *overrides, metrics=("fid", "kid"), shards=1):
    return request_of(with_overrides(run.recipe(), list(overrides), "test"), metrics, STEP, shards)


def evaluated(run, *overrides, metrics=("fid", "kid"), shards=1):
    work = Evaluation(request(run, *overrides, metrics=metrics, shards=shards).save(run))
    assert work.compute(Ranks()).is_done
    return work.report


def computed(run, metrics, *overrides, step=20, shards=1):
    """An evaluation that is computed here, by the recipe in the folder of the run."""
    work = Evaluation(request_of(load(run.recipe_file, overrides), metrics, step, shards).save(run))
    assert work.compute(Ranks()).is_done
    return work


def let_samples_be(monkeypatch, x_of):
    """Let evaluations take ``x_of(first, last)`` for samples of the model, of 5 NFE each."""

    def draw(self, first, last):
        return Samples(x_of(first, last), None, torch.full((last - first,), 5))

    monkeypatch.setattr(SampleRows, "draw", draw)


def gather(work):
    """By kind, the rows of all chunks, in the order of samples or test points."""
    task = EvaluationComputation(work, torch.device("cpu"), StopFlag())
    return {kind: joined(task.parts(kind)) for kind in work.request.sizes}
