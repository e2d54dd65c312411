"""`hooks.on_change`: called once for each change, by whoever knows of it, and never in the way of
the run."""

import contextlib
import json
import os
import re
from unittest.mock import Mock

import pytest
import yaml

from cld_core.config.train import HooksSpec
from cld_core.run import RunFolder, events
from cld_core.run.history import History
from cld_core.run.pids import find
from cld_core.run.state import RunFacts, state_of
from cld_core.run.work import Training
from cldctl.clusters.base import Answer, Survey
from cldctl.jobs import hooks
from cldctl.jobs.hooks import KEPT_BYTES, call, changes, variables
from cldctl.jobs.task import wish_requeue
from cldctl.runs.survey import Answers
from tests.support.made_up import (
    bound,
    ended,
    given_up,
    note,
    ordered,
    queued,
    requested,
    run_with,
    started,
    unfit,
    wished,
)
from tests.support.paths import ROOT
from tests.support.recipes import toy_recipe
from tests.support.scripted import inside
from tests.support.tools import program, wait_for

TELL = 'cat >> "$CLDCTL_RUN_PATH/told"'


@pytest.fixture
def run(tmp_path):
    run = run_with(tmp_path / "mine", 20, overrides=(f"hooks.on_change={TELL}", "train.steps=100"))
    hooks.allow(run, run.recipe())
    note(run, requested(100), queued(), started(host="n1"))
    return run


def dispatch(run, *options):
    return hooks.main([str(run.path), str(run.logs), *options])


def told(run):
    file = run.path / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def states(run):
    return [content["state"] for content in told(run)]


def log(run):
    file = run.logs / hooks.LOG
    return file.read_text() if file.exists() else ""


def with_command(run, command, **more):
    recipe = toy_recipe()
    object.__setattr__(recipe, "hooks", HooksSpec(on_change=command, **more))
    hooks.allow(run, recipe)
    return run


def test_each_change_once(run):
    for _ in range(2):
        assert dispatch(run) == 0
    assert states(run) == ["RUNNING"]
    note(run, ended("crashed", 30, detail="ValueError: no"))
    dispatch(run)
    assert states(run) == ["RUNNING"], "what follows is not decided yet"
    note(run, wished("crashed"))
    for _ in range(2):
        dispatch(run)
    assert states(run) == ["RUNNING", "REQUEUED"]
    last = told(run)[-1]
    assert last["text"] == "mine: REQUEUED (crashed) at step 30 of 100: ValueError: no"
    expected = {
        "run": "mine",
        "cause": "crashed",
        "step": 30,
        "steps": 100,
        "job_id": "7",
        "host": "n1",
    }
    assert {name: last[name] for name in expected} == expected
    assert last["link"] == run.path.as_uri()


def test_what_a_process_that_was_killed_did_not_get_to_is_told_by_the_next(run, monkeypatch):
    monkeypatch.setattr(hooks, "call", Mock(side_effect=SystemExit))
    with pytest.raises(SystemExit):
        dispatch(run)
    monkeypatch.undo()
    note(run, ended("finished", 100))
    dispatch(run, "--decided")
    assert states(run) == ["RUNNING", "FINISHED"]


def test_an_evaluation_once_for_each_job(run):
    work = ordered(run, 20)
    words = "--evaluation", str(work.folder)
    dispatch(run, *words)
    assert told(run) == []
    note(work, queued("9_0", 0))
    for task in ("9_0", "9_1"):
        note(work, given_up("its data are gone", task))
        dispatch(run, *words)
    assert [(one["state"], one["reason"]) for one in told(run)] == [("FAILED", "its data are gone")]
    note(work, queued("10_0", 0))
    bound(run, 20, 2.5, n=32, nfe_mean=10.0)
    for _ in range(2):
        dispatch(run, *words)
    assert states(run) == ["FAILED", "FINISHED"]
    last = told(run)[-1]
    assert (last["evaluation"], last["results"]["nll"], last["link"]) == (
        work.name,
        2.5,
        work.folder.as_uri(),
    )


def test_it_fails_hangs_or_floods(run):
    with_command(run, "echo problem; exit 3")
    assert dispatch(run) == 0
    assert "mine: RUNNING at step 0 of 100: ended with exit code 3" in log(run)
    assert "  problem\n" in log(run)
    with_command(run, "sleep 60 & echo pid $!; exec sleep 60", timeout_s=0.5)
    note(run, ended("finished", 100))
    assert dispatch(run, "--decided") == 0
    assert "did not end within 0.5 s (hooks.timeout_s) and was ended" in log(run)
    pid = int(log(run).partition("  pid ")[2].split()[0])
    wait_for(lambda: find(pid) is None, what="the end of what it had started")
    content = {"path": str(run.path)}
    assert "could not be started" in call("nul\0", content, 60.0)[1]
    output, problem = call("yes", content, 60.0)
    assert "wrote more than" in problem
    assert len(output) == KEPT_BYTES


@pytest.mark.parametrize("name", [hooks.SETTINGS, "."])
def test_others_may_write_where_it_is_stored(run, name):
    path = run.logs / name
    path.chmod(path.stat().st_mode | 0o020)
    assert dispatch(run) == 1
    assert (told(run), log(run)) == ([], "")


def test_nobody_waits_for_it(run):
    """It hangs until the test lets it go on; meanwhile everything returns."""
    gate = run.path / "gate"
    os.mkfifo(gate)
    with_command(run, f"cat {gate} > /dev/null; {TELL}")
    hooks.fire(run)
    hooks.settle(run, 0.0)
    assert len(hooks._processes) == 1, "it is not over"
    gate.write_text("go")
    hooks.settle(run)
    assert hooks._processes == []
    assert states(run) == ["RUNNING"]


def test_a_requeue_is_told_before_it_is_wished_for(run):
    """Which may end the job's processes."""
    job, seen = inside(), []
    job.wish = lambda wish: seen.append(len(hooks._processes))
    note(run, ended("preempted", 30))
    wish_requeue(Training(run.path, hooks.heard(run.path)), job, "preempted")
    assert seen == [1]
    hooks.settle(run)
    assert states(run) == ["RUNNING", "REQUEUED"]


@pytest.mark.parametrize(
    ("slurm", "fails", "told_of"), [(False, True, True), (True, True, False), (True, False, True)]
)
def test_an_end_is_told_unless_an_aftermath_follows(run, slurm, fails, told_of):
    """Which decides what comes next."""
    job = inside()
    job.cluster.restarts = slurm
    note(run, ended("crashed"))
    with contextlib.suppress(ValueError), hooks.settled(job, [run.path]):
        if fails:
            raise ValueError
    assert ("FAILED" in states(run)) == told_of


def test_a_requeue_that_comes_to_nothing_is_told_as_a_change_of_its_own():
    happened = [
        queued(),
        started(),
        ended("crashed"),
        wished("crashed"),
    ]
    before = changes(happened)[-1]["place"]
    last = changes([*happened, events.Refused("requeue", job_id="7", reason="no")])[-1]
    assert last["state"] == "STOPPED"
    assert last["place"] > before, "so that a hook that has heard of the requeue hears of this, too"
    never = given_up("no checkpoint", never_began=True)
    last = changes([*happened, never])[-1]
    assert (last["state"], last["place"] > before) == ("FAILED", True)


BEGUN = queued(), started()
DIED_EARLY = events.Failed("early", job_id="7", restart=0, reason="the setup")
NOT_CANCELLED = (
    events.Cancelled(job_id="7"),
    events.Refused("cancellation", job_id="7", reason="nobody answers"),
)

# What happened, and the phase of the newest job.
LEDGERS = {
    "trains": (BEGUN, "running"),
    "preempted": ((*BEGUN, ended("preempted")), "pending"),
    "finished, and wished for more": (
        (*BEGUN, ended("finished"), wished("preempted")),
        "pending",
    ),
    "given up": (
        (*BEGUN, ended("crashed"), given_up("4 crashes")),
        "gone",
    ),
    "not begun": (
        (queued(), given_up("no checkpoint", never_began=True)),
        "gone",
    ),
    "unfit without a scheduler": ((queued(restarts=False), unfit()), "gone"),
    "crashed, unfit": (
        (*BEGUN, ended("crashed"), wished("crashed"), unfit(restart=1), wished("unfit")),
        "pending",
    ),
    "unfit, cancelled": (
        (queued(), unfit(), wished("unfit"), events.Cancelled(job_id="7")),
        "gone",
    ),
    "setup too long": ((queued(), DIED_EARLY, wished("timeout")), "pending"),
    "cancelled": ((*BEGUN, events.Cancelled(job_id="7"), ended("terminated")), "gone"),
    "not cancelled": ((*BEGUN, *NOT_CANCELLED), "running"),
    "cancelled at the second try": (
        (queued(), *NOT_CANCELLED, events.Cancelled(job_id="7")),
        "gone",
    ),
}


@pytest.mark.parametrize(("happened", "phase"), LEDGERS.values(), ids=LEDGERS)
def test_a_hook_hears_the_state_that_status_shows(happened, phase):
    """One knows the ledger alone, the other the launcher's answer."""
    newest = [event for event in happened if isinstance(event, events.Submitted)][-1].job.job_id
    seen = {"7": Answer("gone"), newest: Answer(phase)}
    answers = Answers({"scripted": Survey(seen)})
    state = state_of(History.of(happened), RunFacts(RunFolder("none")), answers, 1000.0)
    assert changes(happened)[-1]["state"] == state.name


def test_a_refused_submission_is_told_by_its_command_alone():
    before = (*BEGUN, ended("preempted"), requested(100))
    refused = events.Refused("submission", reason="no such partition")
    assert changes((*before, refused, events.Cancelled(job_id="7"))) == changes(before)


@pytest.mark.parametrize("cause", events.CAUSES)
def test_after_any_cause_a_hook_hears_what_status_shows(cause):
    test_a_hook_hears_the_state_that_status_shows(
        (queued(restarts=False), started(), ended(cause)), "gone"
    )


def test_a_silent_end_is_told_with_the_next_beginning():
    happened = (
        queued(),
        started(),
        ended("node_failure", afterwards=True),
        started(1, 20),
    )
    heard = [(change["state"], change["cause"], change["step"]) for change in changes(happened)]
    assert heard == [("RUNNING", None, 0), ("RUNNING", "node_failure", 20)]


DOC = (ROOT / "docs" / "notifications.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
REASON = """it's "quoted"; $(touch /tmp/x) `id` & more"""


@pytest.mark.parametrize("name", ["webhook", "slack", "ntfy"])
def test_what_is_posted(run, tmp_path, monkeypatch, name):
    """By a curl that writes down what it gets, from a home in which the address is kept."""
    program(
        tmp_path / "curl",
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/input\n',
    )
    (tmp_path / ".config/cldctl").mkdir(parents=True)
    (tmp_path / ".config/cldctl" / name).write_text(f"https://example.org/{name}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    note(run, ended("crashed", 30, detail=REASON))
    (command,) = [
        text
        for block in BLOCKS
        if f"cldctl/{name}" in (text := yaml.safe_load(block)["hooks"]["on_change"])
    ]
    with_command(run, command)
    dispatch(run, "--decided")
    *_, text, address = (tmp_path / "arguments").read_text().splitlines()
    if name != "ntfy":
        text = json.loads((tmp_path / "input").read_text())["text"]
    assert (text, address) == (
        f"mine: FAILED (crashed) at step 30 of 100: {REASON}",
        f"https://example.org/{name}",
    )


def test_all_variables_are_documented():
    for name in variables({"path": ""}):
        assert f"`{name}`" in DOC
