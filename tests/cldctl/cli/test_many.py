"""Commands for many runs: filters of `status`, notes and tags, the beginning of a name, `rm` and `prune`."""

import json
import os
import sys

import pytest

from cld_core.config import load
from cld_core.evaluate.request import EvalRequest
from cld_core.run import Lease, RunFolder
from cld_core.run.events import Imported, JobRef, Submitted
from cldctl.runs import pruning, removal
from tests.support.made_up import CONTENT, TOY, damage, report
from tests.support.old_runs import over
from tests.support.other_users import as_user, needs_root, open_folder
from tests.support.tools import invoke

__all__ = ["open_folder"]


@pytest.fixture
def root(tmp_path, scripted, monkeypatch):
    monkeypatch.setenv("CLDCTL_CACHE", str(tmp_path / "cache"))
    return filled(tmp_path / "runs")


def filled(root):
    over(root / "toy-1", "1", 10, 20, 30, 40, created=1.0)
    over(root / "toy-2", "2", 10, cause="crashed")
    over(root / "toy-20", "3", 10, cause="preempted")
    return root


def listed(root, *words):
    return [row["name"] for row in json.loads(invoke("status", *words, "--json", runs=root).stdout)]


def answering(monkeypatch, answer):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: answer)


def test_status_filters_and_sorts(root):
    assert listed(root) == ["toy-2", "toy-20"], "the other one ended long ago"
    assert listed(root, "--all") == ["toy-1", "toy-2", "toy-20"]
    assert listed(root, "--state", "finished,FAILED", "--sort", "name", "--reverse") == ["toy-2", "toy-1"]
    invoke("note", "toy-1", "the first", "--tag", "good", "--tag", "v:1", runs=root)
    assert listed(root, "--tag", "good") == ["toy-1"]
    nothing = invoke("status", "--tag", "bad", runs=root)
    assert "matches these filters" in nothing.stderr
    assert "1 that ended over a week ago: --all" in invoke("status", runs=root).stderr


def test_notes_and_tags_are_shown_and_taken_back(root):
    invoke("note", "toy-1", "the first", "--tag", "good", runs=root)
    shown = invoke("status", "toy-1", runs=root).stdout
    assert "the first" in shown
    assert "good" in shown
    said = invoke("note", "toy-1", "", "--untag", "good", runs=root).stderr
    assert said == "toy-1: no note; tags: none\n"
    history = RunFolder(root / "toy-1").ledger.history()
    assert (history.note, history.tags) == (None, ())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to note"),
        (["two\nlines"], "one line"),
        (["--untag", "b"], "does not have the tag b. Its tags: none"),
        (["--tag", "a", "--untag", "a"], "both name a"),
    ],
    ids=str,
)
def test_what_cannot_be_noted(root, words, message):
    before = (root / "toy-1" / "attempts.jsonl").read_bytes()
    assert message in " ".join(invoke("note", "toy-1", *words, runs=root, code=2).stderr.split())
    assert (root / "toy-1" / "attempts.jsonl").read_bytes() == before


def test_the_beginning_of_a_name_is_enough_if_it_is_of_one_run(root):
    assert json.loads(invoke("status", "toy-1", "--json", runs=root).stdout)[0]["name"] == "toy-1"
    found = invoke("status", "toy-20", "--json", runs=root)
    assert "run:" not in found.stderr
    (root / "toy-1").rename(root / "other-run")
    found = invoke("status", "oth", "--json", runs=root)
    assert (json.loads(found.stdout)[0]["name"], found.stderr) == ("other-run", "run: other-run\n")
    refused = invoke("status", "toy", runs=root, code=2)
    assert "the beginning of 2 runs: toy-2, toy-20" in refused.stderr
    assert json.loads(invoke("status", "toy-2", "--json", runs=root).stdout)[0]["name"] == "toy-2", "it is whole"
    assert "no run at" in invoke("status", "toz", runs=root, code=3).stderr
    (root / "unique-but-no-run").mkdir()
    invoke("status", "unique", runs=root, code=3)


def test_a_removed_run_is_gone_with_what_an_interrupted_removal_left(root, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    run = RunFolder(root / "toy-1")
    (run.samples / "link").symlink_to(outside)
    os.link(run.checkpoint_file(40), run.samples / "again")
    assert removal.size_of(run.path) < removal.size_of(root)

    def killed(path, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        assert invoke("rm", "toy-2", "--yes", runs=root, code=130).returncode == 130
    assert listed(root, "--all") == ["toy-1", "toy-20"], "it disappears at once"
    assert [path.name for path in root.glob(".*.removed")]
    done = invoke("rm", "toy-1", "--yes", runs=root)
    assert "toy-1: FINISHED, " in done.stderr
    assert "removed toy-1" in done.stderr
    assert not list(root.glob(".*.removed"))
    assert listed(root, "--all") == ["toy-20"]
    assert (outside / "precious").read_text() == "kept"


def test_rm_asks(root, monkeypatch):
    assert "not a terminal. Add --yes" in invoke("rm", "toy-1", runs=root, code=2).stderr
    answering(monkeypatch, False)
    assert "nothing was removed" in invoke("rm", "toy-1", "toy-1", "toy-20", runs=root).stderr
    assert len(listed(root, "--all")) == 3
    answering(monkeypatch, True)
    invoke("rm", "toy-1", "toy-20", runs=root)
    assert listed(root, "--all") == ["toy-2"]
    (root / "toy-2").rename(root / "whole")
    assert "not the whole name of whole" in invoke("rm", "who", "--yes", runs=root, code=2).stderr
    invoke("rm", "who", runs=root)
    assert listed(root, "--all") == []


def lives(root, scripted, job_id="9", phase="pending"):
    RunFolder(root / "toy-1").ledger.append(Submitted(job=JobRef(cluster="scripted", job_id=job_id)))
    scripted.phases[job_id] = phase


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [(("1", "running"), 2, "still run or wait"), (("9", "pending"), 2, "cancel toy-1"), (None, 4, "nobody answers")],
)
@pytest.mark.parametrize("command", ["rm", "prune"])
def test_what_is_alive_or_may_be_is_left_alone(root, scripted, job, code, message, command):
    if job is None:
        scripted.away.add("scripted")
    else:
        lives(root, scripted, *job)
    refused = invoke(command, "toy-20", "toy-1", "--yes", runs=root, code=code)
    assert message in refused.stderr
    assert "Nothing was removed" in refused.stderr
    assert {path.name for path in root.glob("toy-*")} == {"toy-1", "toy-2", "toy-20"}
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


@pytest.mark.parametrize("command", ["rm", "prune"])
def test_a_run_that_a_process_writes_into_is_left_alone(root, command):
    lease = Lease.acquire(root / "toy-1" / "lease", job_id="other")
    try:
        assert "is alive and writes" in invoke(command, "toy-1", "--yes", runs=root, code=2).stderr
    finally:
        lease.release()


def test_a_run_that_comes_to_life_while_somebody_is_asked_is_left_alone(root, scripted):
    planned = removal.plan([RunFolder(root / "toy-1")])
    pruned = pruning.plan([RunFolder(root / "toy-1")], None)
    lives(root, scripted)
    for act in (lambda: removal.remove(planned[0]), lambda: pruning.prune(pruned[0])):
        with pytest.raises(Exception, match=r"job 9 may still run|is pending"):
            act()
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


def test_a_link_to_a_run_is_not_removed(root):
    (root / "toy-1").rename(root / "real")
    (root / "toy-1").symlink_to(root / "real")
    assert "it is a link" in invoke("rm", "toy-1", "--yes", runs=root, code=2).stderr
    assert (root / "real" / "run.json").exists()


@needs_root
def test_runs_of_others_are_not_removed(open_folder, scripted):
    root = filled(open_folder / "runs")
    root.chmod(0o777)
    remove = lambda: invoke("rm", "toy-1", "--yes", runs=root, code=None).stderr  # noqa: E731
    assert "it belongs to root" in as_user(remove)
    os.chown(root / "toy-1", 65534, 65534)
    assert "belongs to nobody" in invoke("rm", "toy-1", "--yes", runs=root, code=1).stderr
    assert "you may not remove what is in it" in as_user(remove), "its folders are root's"
    assert RunFolder(root / "toy-1").checkpoint_steps() == [10, 20, 30, 40]


def test_prune_keeps_the_last_and_what_is_needed(root):
    run = RunFolder(root / "toy-1")
    tried = invoke("prune", "toy-1", "--dry-run", runs=root)
    assert "removes steps 10, 20, 30" in tried.stderr
    assert run.checkpoint_steps() == [10, 20, 30, 40]
    EvalRequest.of(load(TOY), ("elbo",), 20, 1).save(run)
    report(run, EvalRequest.of(load(TOY), ("elbo",), 10, 1), elbo={"nll": 1.0})
    damage(run, 40)
    done = invoke("prune", "toy-1", "--yes", runs=root)
    assert "nothing to remove" in done.stderr
    assert "40 (after the last intact one)" in done.stderr
    run.checkpoint_file(40).write_bytes(CONTENT)
    assert "removed" in invoke("prune", "toy-1", "--yes", runs=root).stderr
    assert run.checkpoint_steps() == [10, 20, 40]
    assert (
        sorted(path.suffix for path in run.checkpoints.iterdir()) == [".json"] * 3 + [".pt"] * 3 + [".safetensors"] * 3
    )


def test_prune_keeps_milestones_and_what_was_imported(root):
    run = over(root / "m", "5", 1, 10, 15, 20, 30)
    run.ledger.append(Imported(step=1, source="elsewhere"))
    assert pruning.plan([run], 15)[0].keep == {1: "imported", 15: "a multiple of 15", 30: "the last"}
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text.replace("milestone_every: 50000", "milestone_every: 10").replace("300000", "0"))
    assert pruning.plan([run], None)[0].keep == {
        1: "imported",
        **dict.fromkeys((10, 20), "a milestone of the recipe"),
        30: "the last",
    }
