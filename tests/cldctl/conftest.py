"""Fixtures of the command-line tests."""

import os
import shutil
from pathlib import Path
from unittest import mock

import psutil
import pytest

from tests.support.made_up import run_with
from tests.support.tools import ONE, invoke


@pytest.fixture(autouse=True)
def environment_of_commands(request, tmp_path):
    """The runs of a test are the fixture `runs`, if it has one, or else in its own folder."""
    has_runs = "runs" in request.fixturenames
    runs = request.getfixturevalue("runs") if has_runs else tmp_path
    with mock.patch.dict(os.environ, {"CLDCTL_RUNS": str(runs)}):
        yield


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 10, 20)


@pytest.fixture
def fresh_runs(tmp_path):
    """A folder for runs of one test; whatever still runs in it afterwards is killed."""
    yield tmp_path
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ()):
            process.kill()


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    done = invoke("submit toy_diamond --name done --eval elbo --cluster debug", *ONE, runs=runs)
    assert done.stdout.splitlines()[0] == "done"
    assert "NLL bound" in done.stdout
    return runs


@pytest.fixture(scope="module")
def runs(_finished, tmp_path_factory):
    """A finished run `done` with an evaluation, shared by the tests of a file that only look."""
    return Path(shutil.copytree(_finished, tmp_path_factory.mktemp("copied") / "runs"))
