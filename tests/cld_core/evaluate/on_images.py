"""Evaluations of a run on 8x8 images, and the rows of any, for the tests of several files."""

import shutil
from pathlib import Path

import torch

from cld_core.config import with_overrides
from cld_core.evaluate.request import request_of
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.evaluate.task import EvaluationTask
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest, Evaluation
from cld_core.run.shards import Arrays
from cld_core.tasks import joined

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


def stats_of(run: RunFolder, *overrides: str, shards: int = 3) -> Path:
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    work = Statistics(StatsRequest.of(recipe, None, features=True, shards=shards).save())
    assert work.compute(Ranks())
    shutil.rmtree(work.folder)
    return Path(work.request.output)


def request(run: RunFolder, *overrides: str, metrics=("fid", "kid"), shards: int = 1) -> EvalRequest:
    return request_of(with_overrides(run.recipe(), list(overrides), "test"), metrics, STEP, shards)


def evaluated(run: RunFolder, *overrides: str, metrics=("fid", "kid"), shards: int = 1) -> dict:
    work = Evaluation(request(run, *overrides, metrics=metrics, shards=shards).save(run))
    assert work.compute(Ranks())
    return work.report


def gather(work: Evaluation) -> dict[str, Arrays]:
    """By kind, the rows of all chunks, in the order of samples or test points."""
    task = EvaluationTask(work, torch.device("cpu"), lambda: False)
    return {kind: joined(task.parts(kind)) for kind in work.request.sizes}
