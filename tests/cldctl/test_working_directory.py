"""What lies in the folder where a command is typed is not imported: by no job, no check, and not by the command."""

import os
import subprocess
import sys

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters.base import Task
from cldctl.clusters.local import LocalCluster
from cldctl.clusters.records import JobSpec
from cldctl.clusters.this_machine import safe_path
from tests.cldctl.clusters.works import Report
from tests.support.hostile import hostile, imported
from tests.support.paths import ROOT
from tests.support.tools import wait_for


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = hostile(tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.mark.parametrize("path", [str(ROOT), f":{ROOT}", f"{ROOT}::"])
def test_local_jobs(here, tmp_path, monkeypatch, path):
    monkeypatch.setenv("PYTHONPATH", path)
    jobs = []
    spec = JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec())
    LocalCluster().submit(spec, [Task(work=Report(str(tmp_path), "a"))], jobs.extend)
    wait_for(lambda: LocalCluster().survey(jobs).of(jobs[0]).is_gone, 120)
    assert imported(here) == []
    assert (tmp_path / "a.json").exists()


def test_the_command_itself(here):
    done = subprocess.run([sys.executable, "-m", "cldctl", "recipes"], capture_output=True, text=True)
    assert (done.returncode, imported(here)) == (0, []), done.stderr
    assert "cifar10" in done.stdout


def test_a_relative_element_of_the_path_is_of_this_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".:src:/a")
    assert safe_path()["PYTHONPATH"] == f"{tmp_path}:{tmp_path}/src:/a"


def test_an_empty_element_of_the_path_means_this_folder(monkeypatch):
    for before, after in ((":/a", "/a"), ("/a::/b:", "/a:/b"), (":", "")):
        monkeypatch.setenv("PYTHONPATH", before)
        assert safe_path() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": after}
    for before in ("/a", "/a:/b", ""):
        monkeypatch.setenv("PYTHONPATH", before)
        assert safe_path() == {"PYTHONSAFEPATH": "1"}
    monkeypatch.delenv("PYTHONPATH")
    assert safe_path() == {"PYTHONSAFEPATH": "1"}


def test_the_modules_are_hostile(here):
    """Otherwise the tests above would say nothing."""
    for name in ("torch", "submitit"):
        subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, env={**os.environ})
    assert imported(here) == ["submitit", "torch"]
