"""Samples that are not finite: counted however they are divided, and refused if they are too many."""

import math

import pytest
import torch

from cld_core.errors import UnusableSamplesError
from cld_core.evaluate.rows import not_finite, remark_on, require_few_lost
from cld_core.ranks import Ranks
from cld_core.run.evaluations import Evaluation, remarks
from tests.support.spoiled import spoil

from .on_images import request

BAD = (0, 17, 39)
SOME = "eval.max_nonfinite=0.1"


pytestmark = pytest.mark.usefixtures("no_pictures")


def work_of(run, *overrides, metrics=("fid",), shards=1):
    whole = "eval.batch_size=64"
    return Evaluation(request(run, whole, *overrides, metrics=metrics, shards=shards).save(run))


def test_a_sample_is_not_finite_if_any_of_its_numbers_is_not():
    x = torch.zeros(4, 3, 2, 2)
    x[1, 2, 0, 1], x[2, 0, 0, 0], x[3, 1, 1, 1] = math.nan, math.inf, -math.inf
    assert not_finite(x).tolist() == [False, True, True, True]
    assert not_finite(x[:, :, 0, 0]).tolist() == [False, False, True, False]
    assert remark_on(x) == "3 of 4 samples are not finite"
    assert remark_on(x[:2]) == "1 of 2 samples is not finite"
    assert remark_on(x[:1]) is None


@pytest.mark.parametrize(
    ("count", "samples", "allowed", "passes"),
    [(0, 40, 0.0, True), (1, 40, 0.0, False), (29, 100, 0.29, True), (30, 100, 0.29, False), (40, 40, 1.0, True)],
)
def test_the_limit_is_a_fraction_of_all_samples(count, samples, allowed, passes):
    if passes:
        require_few_lost(count, samples, samples=samples, allowed=allowed)
        return
    with pytest.raises(UnusableSamplesError):
        require_few_lost(count, samples, samples=samples, allowed=allowed)


def test_shards_and_batches_do_not_change_the_count(run, monkeypatch, ranges, capsys, chunks):
    chunks(8)
    spoil(monkeypatch, BAD, -math.inf)
    metrics = ("fid", "kid", "isc", "prc")
    for shards, batch in ((1, 64), (3, 7)):
        work = work_of(run, SOME, f"eval.batch_size={batch}", metrics=metrics, shards=shards)
        assert work.compute(Ranks())
        assert [work.report[metric]["nonfinite"] for metric in metrics] == [3] * len(metrics)
        assert [work.report[metric]["samples"] for metric in metrics] == [40] * len(metrics)
        assert remarks(work.report) == ["3 of 40 samples are not finite"]
        assert capsys.readouterr().out.count("3 of 40 samples are not finite") == 1
        run.evals.rename(run.path / f"{shards}")
        run.evals.mkdir()


def test_too_many_end_the_work_at_once_and_nothing_is_lost(run, monkeypatch, ranges):
    spoil(monkeypatch, BAD)
    work = work_of(run, "eval.batch_size=16")
    words = r"1 of 16 samples is not finite, a fraction of 0\.025 of the 40 .* allows 0\.001\. Likely causes"
    with pytest.raises(UnusableSamplesError, match=words) as refusal:
        work.compute(Ranks())
    assert (ranges, refusal.value.exit_code, len(str(refusal.value).splitlines())) == ([(0, 16)], 1, 1)
    with pytest.raises(UnusableSamplesError, match="1 of 16 samples"):
        work.compute(Ranks())
    assert (ranges, work.report) == ([(0, 16)], None)
    # The same evaluation, which continues where it was ended.
    more = work_of(run, "eval.max_nonfinite=0.05", "eval.batch_size=23")
    assert more.folder == work.folder
    with pytest.raises(UnusableSamplesError, match=r"3 of 40 samples are not finite, a fraction of 0\.075, but"):
        more.compute(Ranks())
    assert (ranges[1:], more.report) == ([(16, 39), (39, 40)], None)
    enough = work_of(run, SOME)
    assert (enough.folder, enough.compute(Ranks())) == (work.folder, True)
    assert (enough.report["fid"]["nonfinite"], len(ranges)) == (3, 3)


def test_processes_that_each_see_few_are_refused_when_merged(run, monkeypatch, ranges, chunks):
    chunks(10)
    spoil(monkeypatch, BAD)
    work = work_of(run, "eval.max_nonfinite=0.05", shards=4)
    for shard in range(3):
        assert work.compute(Ranks(rank=shard, world_size=4))
    with pytest.raises(UnusableSamplesError, match="3 of 40 samples are not finite"):
        work.compute(Ranks(rank=3, world_size=4))
    assert (work.missing(), work.to_start(), work.report, len(ranges)) == ([], [0], None, 4)
    assert work_of(run, SOME).compute(Ranks(), only=[0])
    assert (work.report["fid"]["nonfinite"], len(ranges)) == (3, 4)
