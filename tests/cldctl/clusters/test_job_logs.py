"""Where jobs have their pickles, which nobody else can exchange, and what happens where somebody has."""

import os
import pickle
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cld_core.errors import CldError, UsageError
from cld_core.recipe.cluster import ClusterSpec
from cldctl.clusters import entry, job_logs
from cldctl.clusters.base import Task
from cldctl.clusters.local import LocalCluster
from cldctl.clusters.records import JobSpec, SchedulerRefused
from tests.support.crafted import Crafted
from tests.support.other_users import NOBODY, as_user, give_away, needs_root

from .works import Fail


def test_the_first_user_has_logs_and_others_have_a_folder_beside_it(tmp_path):
    name = pwd.getpwuid(os.geteuid()).pw_name
    logs = tmp_path / "logs"
    assert job_logs.folder_for(logs) == logs
    logs.mkdir(mode=0o775)
    assert job_logs.folder_for(logs) == logs
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "evals").symlink_to("elsewhere")
    assert job_logs.folder_for(tmp_path / "evals") == tmp_path / f"evals-{name}"
    job_logs.check(tmp_path / f"evals-{name}")


@needs_root
def test_a_folder_of_somebody_else_is_never_used(tmp_path, monkeypatch):
    logs = tmp_path / "logs"
    logs.mkdir()
    give_away(logs)
    own = job_logs.folder_for(logs)
    assert own == tmp_path / f"logs-{pwd.getpwuid(os.geteuid()).pw_name}"
    # Somebody who expects that.
    own.mkdir()
    give_away(own)
    monkeypatch.setattr(LocalCluster, "check", lambda self, spec, tasks: None)
    for folder in (logs, own):
        with pytest.raises(CldError, match=f"it belongs to user {NOBODY}, and a job would run what is in it"):
            job_logs.check(folder)
        with pytest.raises(CldError, match=f"it belongs to user {NOBODY}"):
            job_logs.prepare(folder)
        with pytest.raises(SchedulerRefused, match=f"{folder}: it belongs to"):
            LocalCluster().submit(JobSpec(name="a", logs=folder, size=ClusterSpec()), [Task(work=Fail())], print)
        assert not list(folder.iterdir())


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_pickles_are_this_user_s_alone_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        job_logs.prepare(tmp_path / "logs")
        file = job_logs.store(tmp_path / "logs", Fail(), 5)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert entry.content_of(file) == file.read_bytes()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A setgid folder of a group that nobody is in; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, -1, NOBODY)
        Path(name).chmod(0o2775)
        yield Path(name)


@needs_root
def test_two_members_of_a_group_share_a_run(shared):
    """Each has pickles of their own, and may read the other's logs."""
    run = shared
    job_logs.prepare(run / "logs")
    ours = job_logs.store(run / "logs", Fail(), 5)
    (run / "logs" / "31_0_log.out").write_text("hello")

    def colleague() -> None:
        os.umask(0o002)
        logs = job_logs.folder_for(run / "logs")
        assert logs == run / "logs-nobody", logs
        job_logs.check(logs)
        job_logs.prepare(logs)
        entry.content_of(job_logs.store(logs, Fail(), 5))
        assert (run / "logs" / "31_0_log.out").read_text() == "hello"
        for write in (ours.read_bytes, (run / "logs" / "x").touch):
            with pytest.raises(PermissionError):
                write()
        with pytest.raises(UsageError, match="Permission denied"):
            entry.content_of(ours)

    as_user(colleague)
    theirs = run / "logs-nobody"
    assert (stat.S_IMODE(theirs.stat().st_mode), theirs.stat().st_gid) == (0o2755, NOBODY)
    assert job_logs.folder_for(run / "logs") == run / "logs"


def pickled(folder: Path, marker: Path) -> Path:
    file = folder / "7_submitted.pkl"
    file.write_bytes(pickle.dumps(Crafted(marker)))
    file.chmod(0o600)
    return file


def begin(folder: Path, monkeypatch) -> int:
    """A job begins in ``folder``: what its process would do; returns its exit code."""
    from submitit.core import utils

    monkeypatch.setattr(utils.DelayedSubmission, "load", utils.DelayedSubmission.load)
    for name, value in (("EXECUTOR", "local"), ("LOCAL_JOB_ID", "7"), ("LOCAL_GLOBALID", "0")):
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    return entry.main([str(folder)])


def test_a_job_begins_with_what_its_user_has_submitted(tmp_path, monkeypatch):
    """The pickle of this test is submitit's only to the point where it has run."""
    pickled(tmp_path, tmp_path / "marker")
    with pytest.raises(AttributeError):
        begin(tmp_path, monkeypatch)
    assert (tmp_path / "marker").exists()


def given_away(file: Path) -> None:
    give_away(file)


def writable_by_others(file: Path) -> None:
    file.chmod(0o662)


@pytest.mark.parametrize("swap", [pytest.param(given_away, marks=needs_root), writable_by_others])
def test_a_job_does_not_run_what_somebody_else_may_have_written(tmp_path, monkeypatch, capsys, swap):
    swap(pickled(tmp_path, tmp_path / "marker"))
    assert begin(tmp_path, monkeypatch) == UsageError.exit_code
    assert not (tmp_path / "marker").exists()
    assert not list(tmp_path.glob("*result*")), "nothing is written into a folder of others"
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "7_submitted.pkl" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["a\nb", "run%j", "%t", "50%A", "a\x1b[2J"])
def test_paths_that_would_not_be_read_as_they_are(tmp_path, name):
    spec = JobSpec(name="a", logs=tmp_path / name / "logs", size=ClusterSpec())
    with pytest.raises(UsageError, match="the path of a job's logs cannot have") as refusal:
        LocalCluster().check(spec)
    assert str(refusal.value).isprintable()
    LocalCluster().check(JobSpec(name="a", logs=tmp_path / "100%" / "logs", size=ClusterSpec()))
