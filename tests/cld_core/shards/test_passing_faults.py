"""One error of the file system does not mean that work was never asked for."""

import errno
import os

import pytest

from cld_core import files
from cld_core.errors import NotFoundError
from cld_core.evaluate.evaluation import Evaluation, evaluations_of
from cld_core.evaluate.request import EvalRequest
from cld_core.shards import open_work
from cld_core.shards import request as requests
from tests.support.made_up import run_with


@pytest.fixture
def work(tmp_path):
    run = run_with(tmp_path / "mine", 20)
    return Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 20).save(run))


@pytest.fixture
def failing(monkeypatch):
    """Let the next ``count`` openings of a request fail."""

    def fail(count: float, number: int = errno.EIO) -> None:
        left = [count]
        original = os.open

        def opening(path, *arguments, **more):
            if str(path).endswith("request.json") and left[0] > 0:
                left[0] -= 1
                raise OSError(number, os.strerror(number), str(path))
            return original(path, *arguments, **more)

        monkeypatch.setattr(files.os, "open", opening)

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_passes_is_tried_again(work, failing, number):
    failing(1, number)
    assert open_work(work.folder).name == work.name
    failing(1, number)
    assert Evaluation(work.folder).request == work.request
    failing(1, number)
    assert [one.name for one in evaluations_of(work.run)] == [work.name]
    failing(1, number)
    asked = EvalRequest.of(work.run.recipe(), ("elbo",), 20, shards=4)
    assert EvalRequest.load(asked.save(work.run)).shards == 1, "work that was begun keeps its shards"


def test_what_does_not_pass_is_said(work, failing, monkeypatch):
    monkeypatch.setattr(requests, "READ_WITHIN_S", 0.0)
    failing(float("inf"))
    for read in (open_work, Evaluation):
        with pytest.raises(OSError, match="Input/output error"):
            read(work.folder)


def test_what_is_not_there_is_not_there(tmp_path):
    for read in (open_work, Evaluation):
        with pytest.raises(NotFoundError, match="there is no"):
            read(tmp_path)
