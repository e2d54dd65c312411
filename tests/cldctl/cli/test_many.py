"""Commands for many runs: filters of `status`, notes and tags, `rm`, `prune`, sweeps."""

import json
import os
import sys
from unittest.mock import Mock

import pytest

from cld_core.run import Lease, RunFolder
from cld_core.run.events import Imported
from cld_core.run.groups import Group
from cldctl.runs import removal
from tests.support.made_up import (
    CONTENT,
    bound,
    damage,
    note,
    ordered,
    queued,
    run_with,
    seeds,
)
from tests.support.other_users import as_user, needs_root, open_folder
from tests.support.scripted import over
from tests.support.tools import ONE, invoke, json_of

__all__ = ["open_folder"]


@pytest.fixture
def root(tmp_path, scripted):
    return filled(tmp_path)


def filled(root):
    over(root / "toy-1", "1", 10, 20, 30, 40, created=1.0)
    over(root / "toy-2", "2", 10, cause="crashed")
    over(root / "toy-20", "3", 10, cause="preempted")
    return root


def listed(words=""):
    shown = invoke(f"status --json {words}").stdout
    return [row["name"] for row in json.loads(shown)]


def test_status_filters_and_sorts_and_notes_and_tags_are_taken_back(root):
    assert listed() == ["toy-2", "toy-20"], "the other one ended long ago"
    assert listed("--state finished,FAILED --sort name --reverse") == ["toy-2", "toy-1"]
    invoke("note toy-1 'the first' --tag good --tag v:1")
    assert listed("--tag good") == ["toy-1"]
    assert "matches these filters" in invoke("status --tag bad").stderr
    assert "the first" in invoke("status toy-1").stdout
    said = invoke("note toy-1 '' --untag good").stderr
    assert said == "toy-1: no note; tags: v:1\n"


def test_the_beginning_of_a_name_is_enough_if_it_is_of_one_run(root):
    (root / "toy-1").rename(root / "other-run")
    assert invoke("status oth").stderr == "run: other-run\n"
    assert "the beginning of 2 runs: toy-2, toy-20" in invoke("status toy", code=2).stderr
    assert listed("toy-2") == ["toy-2"], "it is whole"


def test_a_removed_run_is_gone_with_what_an_interrupted_removal_left(root, tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("kept")
    (RunFolder(root / "toy-1").samples / "link").symlink_to(tmp_path / "precious")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", Mock(side_effect=KeyboardInterrupt))
        invoke("rm toy-2 --yes", code=130)
    assert listed("--all") == ["toy-1", "toy-20"], "it disappears at once"
    assert [path.name for path in root.glob(".*.removed")]
    assert "removed toy-1" in invoke("rm toy-1 --yes").stderr
    assert not list(root.glob(".*.removed"))
    assert listed("--all") == ["toy-20"]
    assert (tmp_path / "precious").exists()


def test_rm_asks(root, monkeypatch):
    assert "not a terminal. Add --yes" in invoke("rm toy-1", code=2).stderr
    answers = [False, True]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: answers.pop(0))
    assert "nothing was removed" in invoke("rm toy-1 toy-1 toy-20").stderr
    assert len(listed("--all")) == 3
    invoke("rm toy-1 toy-20")
    assert listed("--all") == ["toy-2"]
    assert "not the whole name of toy-2" in invoke("rm toy --yes", code=2).stderr


def lives(root, scripted):
    note(RunFolder(root / "toy-1"), queued("9"))
    scripted.phases["9"] = "pending"


@pytest.mark.parametrize(
    ("why", "code", "message"),
    [
        ("job", 2, "cancel toy-1"),
        ("process", 2, "is alive and writes"),
        ("away", 4, "nobody answers"),
    ],
)
@pytest.mark.parametrize("command", ["rm", "prune"])
def test_what_is_alive_or_may_be_is_left_alone(
    request, root, scripted, why, code, message, command
):
    if why == "away":
        scripted.away.add("scripted")
    elif why == "process":
        request.addfinalizer(Lease.acquire(root / "toy-1" / "lease", job_id="other").release)
    else:
        lives(root, scripted)
    refused = invoke(f"{command} toy-20 toy-1 --yes", code=code)
    assert message in refused.stderr
    assert "Nothing was removed" in refused.stderr
    assert (root / "toy-20").exists()
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


def test_a_run_that_comes_to_life_while_somebody_is_asked_is_left_alone(root, scripted):
    planned = removal.plan([RunFolder(root / "toy-1")])
    pruned = removal.plan_pruning([RunFolder(root / "toy-1")], None)
    lives(root, scripted)
    for act in (lambda: removal.remove(planned[0]), lambda: removal.prune(pruned[0])):
        with pytest.raises(Exception, match=r"job 9 may still run|is pending"):
            act()
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


def test_a_link_to_a_run_is_not_removed(root):
    (root / "toy-1").rename(root / "real")
    (root / "toy-1").symlink_to(root / "real")
    assert "it is a link" in invoke("rm toy-1 --yes", code=2).stderr
    assert (root / "real" / "run.json").exists()


@needs_root
def test_runs_of_others_are_not_removed(open_folder, scripted):
    root = filled(open_folder / "runs")
    root.chmod(0o777)
    remove = lambda: invoke("rm toy-1 --yes", runs=root, code=None).stderr  # noqa: E731
    assert "it belongs to root" in as_user(remove)
    os.chown(root / "toy-1", 65534, 65534)
    assert "belongs to nobody" in invoke("rm toy-1 --yes", runs=root, code=1).stderr
    assert "you may not remove what is in it" in as_user(remove), "its folders are root's"
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


def test_prune_keeps_the_last_and_what_is_needed(root):
    run = RunFolder(root / "toy-1")
    assert "removes steps 10, 20, 30" in invoke("prune toy-1 --dry-run").stderr
    assert run.checkpoint_steps() == [10, 20, 30, 40]
    ordered(run, 20)
    bound(run, 10, 1.0)
    damage(run, 40)
    done = invoke("prune toy-1 --yes")
    assert "nothing to remove" in done.stderr
    assert "40 (after the last intact one)" in done.stderr
    run.checkpoint_file(40).write_bytes(CONTENT)
    assert "removed" in invoke("prune toy-1 --yes").stderr
    assert len([*run.checkpoints.iterdir()]) == 3 * len([10, 20, 40])
    assert run.checkpoint_steps() == [10, 20, 40]


def test_prune_keeps_milestones_and_what_was_imported(root):
    run = over(root / "m", "5", 1, 10, 15, 20, 30)
    note(run, Imported(step=1, source="elsewhere"))
    assert removal.plan_pruning([run], 15)[0].keep == {
        1: "imported",
        15: "a multiple of 15",
        30: "the last",
    }
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(
        text.replace("milestone_every: 50000", "milestone_every: 10").replace("300000", "0")
    )
    milestones = dict.fromkeys((10, 20), "a milestone of the recipe")
    assert removal.plan_pruning([run], None)[0].keep == {
        1: "imported",
        **milestones,
        30: "the last",
    }


# Of the picture that goes with an evaluation.
QUICK = ("sampling.method=em", "sampling.nfe=2")
SWEEP = ("submit toy --sweep train.seed=0,1 --name mine --cluster debug", *ONE, *QUICK)


def test_a_group_is_trained_here_shown_and_left_alone_once_it_is_finished(fresh_runs, monkeypatch):
    done = invoke(*SWEEP)
    assert done.stdout.startswith("mine\n")
    assert "2 runs of the group mine: 2 new" in done.stderr
    rows = json_of("status mine --json")
    assert [(row["name"], row["state"]) for row in rows] == [
        (f"mine-seed{k}", "FINISHED") for k in (0, 1)
    ]
    assert [(row["group"], row["sweep"]) for row in rows] == [
        ("mine", {"train.seed": str(k)}) for k in (0, 1)
    ]
    again = invoke(*SWEEP)
    assert "2 runs of the group mine: 2 finished already" in again.stderr
    refused = invoke("resume mine train.steps=20", code=2).stderr
    assert "is finished at step 20" in refused


def test_a_run_of_the_same_name_as_a_group_is_meant(tmp_path):
    seeds(tmp_path, "mine", 1)
    assert "mine-0" in invoke("status mine --json").stdout
    run_with(tmp_path / "mine", 10)
    done = invoke("status mine --json")
    assert [row["name"] for row in json.loads(done.stdout)] == ["mine"]
    assert "mine names a run and a group; the run is meant" in done.stderr


def test_a_group_is_noted_and_removed_by_its_name(tmp_path):
    seeds(tmp_path, "mine", 2, 10, infix="-seed")
    invoke("note mine 'for the paper' --tag paper")
    assert [run.ledger.history().note for run in Group(tmp_path, "mine").runs()] == [
        "for the paper"
    ] * 2
    assert "'mine' is a group of 2 runs" in invoke("why mine", code=2).stderr
    invoke("rm mine --yes")
    assert not (tmp_path / ".groups" / "mine").exists()
