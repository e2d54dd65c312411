"""The fixture `slurm`: a real cluster for each worker, reset after each test, with cldctl."""

import os
from pathlib import Path

import pytest

from .cluster import INSTALL, SlurmCluster, why_unusable
from .lab import Lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Mark every test of this folder, so that `-m "not slurm"` leaves them out; they begin, since
    they take longest."""
    items.sort(key=lambda item: not item.path.is_relative_to(HERE))
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session", autouse=True)
def usable_machine():
    """Skip this folder if no Slurm can be started, or fail if CLDCTL_REQUIRE_SLURM=1 is set."""
    reason = why_unusable()
    if reason and os.environ.get("CLDCTL_REQUIRE_SLURM") == "1":
        pytest.fail(f"CLDCTL_REQUIRE_SLURM=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(f"Slurm tests skipped: {INSTALL} (as root; {reason.split(':')[0]})")


@pytest.fixture(scope="session")
def slurm_cluster(usable_machine):
    """The cluster as the last test left it; use `slurm` instead."""
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster):
    """The cluster with default settings, all nodes idle and no job; reset after the test."""
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.fixture
def lab(slurm, tmp_path):
    """cldctl on the cluster, with the test's own folder of runs."""
    return Lab(slurm, tmp_path / "runs")


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Where a test tells the data set `misbehaving` of each rank what to do."""
    folder = tmp_path / "orders"
    folder.mkdir()
    monkeypatch.setenv("CLDCTL_TEST_ORDERS", str(folder))
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Add the end of the controller's log to each failed test: the cluster is removed later."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("slurm")
    if report.failed and isinstance(cluster, SlurmCluster):
        report.sections.append(("slurmctld", cluster.processes.log_tail("slurmctld", 60)))
    return report
