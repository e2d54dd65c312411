"""What lies in the folder where a command is typed is not imported: by no job, no check, and not by the command."""

import os
import subprocess
import sys

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters.base import JobSpec
from cldctl.clusters.local import LocalCluster
from tests.cldctl.clusters.works import Report
from tests.support.paths import ROOT
from tests.support.tools import wait_for


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Somebody has left modules here that nothing may import; who imports one makes the file imported-NAME."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("submitit", "torch", "random", "json", "typer", "pickle", "socket"):
        code = f"open({str(folder / f'imported-{name}')!r}, 'w').close()\nraise SystemExit('hostile {name}')\n"
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def imported(folder):
    return sorted(path.name.removeprefix("imported-") for path in folder.glob("imported-*"))


def test_local_jobs(here, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":{ROOT}:")
    jobs = []
    spec = JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec())
    LocalCluster().submit(spec, [Report(str(tmp_path), "a")], jobs.extend)
    wait_for(lambda: LocalCluster().survey(jobs).of(jobs[0]).is_gone, 120)
    assert imported(here) == []
    assert (tmp_path / "a.json").exists()


def test_the_command_itself(here):
    done = subprocess.run([sys.executable, "-m", "cldctl", "recipes"], capture_output=True, text=True)
    assert (done.returncode, imported(here)) == (0, []), done.stderr
    assert "cifar10" in done.stdout


def test_the_modules_are_hostile(here):
    """Otherwise the tests above would say nothing."""
    for name in ("torch", "submitit"):
        subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, env={**os.environ})
    assert imported(here) == ["submitit", "torch"]
