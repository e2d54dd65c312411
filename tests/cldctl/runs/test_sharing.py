"""Runs of other users: those that nobody shares are left alone, those that a group shares can be
worked on."""

import json
import os
import stat

from cld_core.run.code import folder_of as code_of
from cld_core.run.events import JobRef, Requested, Submitted
from tests.support.made_up import run_with
from tests.support.other_users import NOBODY, SHARED_GROUP, as_user, give, needs_root, open_folder
from tests.support.scripted import stopped
from tests.support.tools import invoke

__all__ = ["open_folder"]
pytestmark = needs_root


def shared(root, name="ours", job_id="1"):
    """A run of root in a folder as docs/slurm.md says that groups should set theirs up."""
    folder = root / "group"
    folder.mkdir(exist_ok=True)
    os.chown(folder, 0, SHARED_GROUP)
    folder.chmod(0o2775)
    before = os.umask(0o002)
    try:
        return stopped(folder / name, job_id)
    finally:
        os.umask(before)


def said(*arguments, runs, **user):
    """Exit code, stdout and stderr of a command of another user."""

    def command():
        done = invoke(*arguments, runs=runs, code=None)
        return done.returncode, done.stdout, done.stderr

    return tuple(as_user(command, **user))


def colleague(*arguments, runs):
    return said(*arguments, runs=runs, groups=(SHARED_GROUP,), umask=0o002)


def test_folders_that_nobody_else_may_enter_spoil_no_command(open_folder, scripted):
    give(stopped(open_folder / "mine").path)
    run_with(open_folder / "alices", 10).path.chmod(0o700)
    (give(run_with(open_folder / "hidden", 10).path) / "run.json").chmod(0)
    code, out, _ = said("status", "--json", "--all", runs=open_folder)
    assert code == 0
    assert {row["name"]: row["state"] for row in json.loads(out)} == {
        "mine": "STOPPED",
        "hidden": "LOST",
    }
    assert "alices: Permission denied" in said("status", runs=open_folder)[2]
    assert said("resume", "--yes", runs=open_folder)[:2] == (0, "mine\n")


def test_a_group_shares_runs(open_folder, scripted):
    run = shared(open_folder)
    assert run.path.stat().st_gid == SHARED_GROUP
    modes = {(path.is_dir(), stat.S_IMODE(path.lstat().st_mode)) for path in run.path.rglob("*")}
    assert modes == {(False, 0o664), (True, 0o2775)}
    runs = run.path.parent
    code, out, err = colleague("resume", "ours", runs=runs)
    assert (code, out) == (0, "ours\n"), err
    assert (run.path / ".submit.lock").stat().st_uid == NOBODY
    theirs = code_of(run.path)
    assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o022) == (NOBODY, 0)
    scripted.phases["100"] = "running"
    code, _, err = colleague("cancel", "ours", runs=runs)
    assert (code, "ours: cancelled" in err) == (0, True), err
    scripted.phases["100"] = "gone"
    assert invoke("resume", "ours", runs=runs).stdout == "ours\n", (
        "the owner goes on where the colleague stopped"
    )
    assert code_of(run.path) == theirs.with_name(f"{theirs.name}-root")
    code, _, err = colleague(
        "eval", "ours", "--elbo", "sampling.method=em", "sampling.nfe=2", runs=runs
    )
    assert code == 0, err
    code, _, err = said("resume", "ours", runs=runs)
    assert (code, "a group that you are not in" in err) == (1, True)


def test_a_plugin_that_a_member_of_the_group_may_have_named(open_folder, scripted):
    """Sampling, evaluating and resuming ask the owner and the others alike."""
    run = shared(open_folder)
    code, marker = open_folder / "x.py", open_folder / "ran"
    code.write_text(f"open({str(marker)!r}, 'w').close()\n")

    def name_it():
        run.ledger.append(Requested(steps=10, overrides=(f"plugins={code}",)))
        run.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="9")))

    as_user(name_it, groups=(SHARED_GROUP,))
    scripted.phases["9"] = "gone"
    runs = run.path.parent
    for command in (
        ("sample", "-o", "x.png"),
        ("eval", "--elbo"),
        ("resume",),
        ("export", "-o", "x.safetensors"),
    ):
        words = command[0], "ours", *command[1:]
        for status, _, err in (said(*words, runs=runs, uid=0, gid=0), colleague(*words, runs=runs)):
            assert status == 1, err
            assert f"plugins={code}" in err
            assert "add --allow-plugin" in err
    assert not marker.exists()
    for words in (("resume", "ours"), ("eval", "ours", "--elbo")):
        status, _, err = colleague(*words, "--allow-plugin", runs=runs)
        assert status == 0, err
