"""Runs of other users: they are looked at and copied, and nothing is written into them."""

import json
import shutil

import pytest

from tests.support.made_up import run_with
from tests.support.other_users import as_user, give, needs_root, open_folder
from tests.support.scripted import stopped
from tests.support.tools import invoke

__all__ = ["open_folder"]
pytestmark = needs_root


def said(line, runs, **user):
    """Exit code, stdout and stderr of a command of another user."""

    def command():
        done = invoke(line, runs=runs, code=None)
        return done.returncode, done.stdout, done.stderr

    return tuple(as_user(command, **user))


def contents(folder):
    return {path: path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_folders_that_nobody_else_may_enter_spoil_no_command(open_folder, scripted):
    give(stopped(open_folder / "mine").path)
    run_with(open_folder / "alices", 10).path.chmod(0o700)
    (give(run_with(open_folder / "hidden", 10).path) / "run.json").chmod(0)
    code, out, _ = said("status --json --all", open_folder)
    assert code == 0
    assert {row["name"]: row["state"] for row in json.loads(out)} == {
        "mine": "STOPPED",
        "hidden": "LOST",
    }
    assert "alices: Permission denied" in said("status", open_folder)[2]
    assert said("resume --yes", open_folder)[:2] == (0, "mine\n")


@pytest.mark.parametrize("root_acts", [False, True], ids=["another user", "root"])
@pytest.mark.parametrize(
    "line",
    [
        "resume ours",
        "eval ours --elbo",
        "bench samplers ours --nfe 5",
        "tune ours --nfe 5",
        "cancel ours",
        "note ours text",
        "rm ours --yes",
        "prune ours --yes",
        "report ours",
        "sample ours",
    ],
)
def test_what_would_write_into_the_run_of_another_user_is_refused_in_one_line(
    open_folder, scripted, line, root_acts
):
    run = stopped(open_folder / "ours")
    for path in (open_folder, *run.path.rglob("*"), run.path):
        path.chmod(0o777 if path.is_dir() else 0o666)
    owner, user = "root", {}
    if root_acts:
        give(run.path)
        owner, user = "nobody", {"uid": 0, "gid": 0}
    before = contents(run.path)
    code, out, err = said(line, open_folder, **user)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert f"ours: it belongs to {owner}, and only its owner may change it" in err
    assert "Copy the folder, or start a run from its weights (submit --from)." in err
    assert contents(run.path) == before


def test_others_look_at_a_run_and_continue_a_copy(open_folder, scripted):
    run = stopped(open_folder / "ours")
    before = contents(run.path)
    for line in ("status ours", "why ours", f"report ours -o {open_folder}/x.html"):
        code, _, err = said(line, open_folder)
        assert code == 0, err
    assert contents(run.path) == before
    give(shutil.copytree(run.path, open_folder / "copy"))
    assert said("resume copy", open_folder)[:2] == (0, "copy\n")
