"""Requests, reports, sweeps and states of shards that are damaged, or were made by somebody else."""

import json
import math

import pytest

from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.evaluation.report_numbers import numbers, remarks
from cld_core.evaluation.reports import current_report
from cld_core.evaluation.request import EvalRequest
from cld_core.evaluation.sweeps import Axis, Cell, Sweep, sweeps_of
from cld_core.shards.request import MAX_ROWS, MAX_SHARDS
from tests.support.made_up import report, run_with


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "run", 10)


@pytest.fixture
def work(run):
    return Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 10, shards=2).save(run))


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 1e9}, {"shards": MAX_SHARDS + 1}, {"shards": 0}, {"shards": True}, {"shards": "2"}, {"shards": None},
        {"batch_size": 0}, {"batch_size": -1}, {"points": MAX_ROWS + 1}, {"points": 10**400}, {"retries": -1},
        {"metrics": "elbo"}, {"metrics": []}, {"metrics": [1]}, {"metrics": ["other"]}, {"seed": [1]},
        {"sampling": {}}, {"sampling": {"method": {}}}, {"sampling": 3}, {"objective": []}, {"elbo": {"eps": "small"}},
        {"max_nonfinite": math.nan}, {"checkpoint_step": "10"}, {"checkpoint_step": -1e300}, {"files": {"a": 1}},
    ],
)  # fmt: skip
def test_a_damaged_request_is_skipped(run, work, change):
    content = json.loads((work.folder / "request.json").read_text())
    (work.folder / "request.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(NotFoundError, match=r"made by another version of cldctl .*\. Start the work again\.") as error:
        Evaluation(work.folder)
    assert len(str(error.value).splitlines()) == 1
    assert evaluations_of(run) == []


def test_too_many_shards_are_refused_before_anything_is_written(tmp_path):
    run = run_with(tmp_path / "run", 10, overrides=("eval.samples=200000",))
    with pytest.raises(UsageError, match=r"--shards 150000: work is divided into at most 10,000"):
        EvalRequest.of(run.recipe(), ("elbo",), 10, shards=150_000)


@pytest.mark.parametrize(
    "work_of", ["x", [], {"elbo": 3}, {"elbo": {"first": "0"}}, {"elbo": {"first": 5, "last": 1, "done": 0}}]
)
def test_a_damaged_shard_is_missing(work, work_of):
    state = {**work.made_of(), "work": work_of}
    (work.shards / "00000.json").write_text(json.dumps(state))
    (work.shards / "00002.bak.json").write_text("{")
    assert work.missing() == [0, 1]
    assert work.rows_done()[0] == 0


def test_a_damaged_report_keeps_what_can_be_read(run, work):
    bad = {"nll": [1], "stderr": 0.1, "n": 3, "nfe_mean": "many"}
    report(run, work.request, elbo=bad, loss={"value": 10**400}, fid="none")
    read = current_report(work.folder)
    assert read is not None
    assert "fid" not in read
    assert read["elbo"] == {"stderr": 0.1, "n": 3}
    assert (numbers(read), remarks(read)) == ({}, [])
    report(run, work.request, elbo={"nll": math.inf, "stderr": None})
    assert numbers(current_report(work.folder))["nll"].value == math.inf, "a result, too"


@pytest.mark.parametrize(
    "content",
    [
        [], {"axes": 3, "cells": []}, {"axes": [], "cells": []}, {"axes": [{"key": "a", "values": []}], "cells": []},
        {"axes": [{"key": "a", "values": ["1"]}], "cells": [{"values": {}, "evaluation": "x"}]},
        {"axes": [{"key": "a", "values": ["1"]}], "cells": [{"values": {"a": "1"}, "evaluation": "../../x"}]},
        {"axes": [{"key": ["a"], "values": ["1"]}], "cells": []},
    ],
)  # fmt: skip
def test_a_damaged_sweep_is_none(run, content):
    folder = Sweep((Axis("a", ("1",)),), (Cell({"a": "1"}, "x"),)).save(run)
    assert len(sweeps_of(run)) == 1
    (folder / "sweep.json").write_text(json.dumps(content))
    assert sweeps_of(run) == []
