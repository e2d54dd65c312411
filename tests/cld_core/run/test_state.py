"""The table of states, row by row, without a cluster."""

import random
from dataclasses import replace

import pytest

from cld_core.files import write_json
from cld_core.run import RunFolder, events
from cld_core.run import state as states
from cld_core.run.events import CAUSES
from cld_core.run.history import History
from cld_core.run.state import (
    OVER,
    SUBMITTING_S,
    TABLE,
    Answer,
    RunFacts,
    ShardedFacts,
    Situation,
    rule_of,
    state_of,
    why_stopped,
)
from tests.support.made_up import queued

NOW = 1000.0
NOWHERE = RunFolder("/nowhere/mine")
STATES = {"PENDING", "RUNNING", "REQUEUED", *OVER}
GONE = Answer("gone")
PENDING = Answer("pending", reason="Priority")
RUNNING = Answer("running")
ENDING = Answer("ending")
UNKNOWN = Answer("unknown")
ELSEWHERE = Answer("unknown", reason="started on n7")
PHASES = ("pending", "running", "suspended", "ending", "gone", "gone", "gone", "unknown")
ENDS = (None, "cancelled", "crashed", "out_of_memory", "timeout")


def requested(ago=1.0, **more):
    return events.Requested(time=NOW - ago, steps=9, **more)


def submitted(job_id="1", *, restarts=False, successor_of=None):
    return queued(job_id, restarts=restarts, successor_of=successor_of, time=NOW - 50)


def started(attempt=0, job_id="1", warning=None):
    return events.Started(time=NOW - 40, attempt=attempt, job_id=job_id, step=0, warning=warning)


def ended(cause, attempt=0):
    detail = "what it died of"
    return events.Ended(time=NOW - 30, attempt=attempt, cause=cause, step=5, detail=detail)


def trained(cause, *then, restarts=False):
    """A job whose only attempt has ended, and what followed."""
    return (submitted(restarts=restarts), started(), ended(cause), *then)


CANCELLED = events.Cancelled(time=NOW - 20, job_id="1")
NOT_CANCELLED = events.Refused("cancellation", time=NOW - 19, job_id="1", reason="no answer")
REQUEUED = events.Wished(time=NOW - 20, job_id="1", cause="preempted")
NOT_REQUEUED = events.Refused("requeue", time=NOW - 20, job_id="1", reason="no answer")
NOT_BEGUN = events.GivenUp(never_began=True, time=NOW - 5, job_id="1", reason="bad recipe")
GIVEN_UP = events.GivenUp(time=NOW - 20, reason="budget spent")
HELD = events.TurnedAway(job_id="1", why="held")
LATE = events.TurnedAway(job_id="2", why="finished")
WITHDRAWN = events.TurnedAway(job_id="2", why="withdrawn")
SECOND = submitted("2", restarts=True, successor_of="1")
BEGUN = (submitted(), started())
SUCCESSOR = (submitted(restarts=True), SECOND, started(), ended("node_failure"))
SUCCESSOR_OF_KILLED = (submitted(), SECOND, started(), ended("killed"))
OWNER = {"pid": 7, "job_id": "torchrun"}
WRITER = "process 7 on this machine writes into it (job torchrun)"
WARNED = (submitted(), started(warning="no GPU"))


class Answers:
    """Answers of one cluster, by job id."""

    def __init__(self, answers, as_of=None):
        self.answers = answers
        self.moment = as_of

    def of(self, job):
        return self.answers.get(job.job_id, UNKNOWN)

    def as_of(self, cluster):
        return self.moment


def situated(happened, answers, run=NOWHERE):
    return History.of(happened), RunFacts(run), Answers(answers), NOW


# Name of the rule, what happened, what launchers answer about jobs 1 and 2, state, and a part of
# its reason.
CASES = [
    (
        "refused",
        (requested(), events.Refused("submission", reason="no such partition")),
        [],
        "FAILED",
        "no such partition",
    ),
    ("interrupted submission", [requested(SUBMITTING_S + 1)], [], "FAILED", "interrupted"),
    ("being submitted", [requested(SUBMITTING_S - 1)], [], "PENDING", None),
    ("turned away", (submitted(), HELD), [GONE], "PENDING", None),
    ("finished", (started(job_id="pid-7"), ended("finished")), [], "FINISHED", None),
    ("finished", trained("finished", submitted("2"), LATE), [GONE, PENDING], "FINISHED", "job 2"),
    ("ended", [events.Imported(step=8, source="a.pth")], [], "STOPPED", None),
    ("lost without job", [started(job_id="pid-7")], [], "LOST", None),
    ("successor's turn", SUCCESSOR, [GONE, PENDING], "REQUEUED", "Priority"),
    ("cancelled", (submitted(), CANCELLED), [UNKNOWN], "CANCELLED", None),
    ("perhaps queued", (submitted(), CANCELLED, NOT_CANCELLED), [UNKNOWN], "PENDING", None),
    ("perhaps queued", [submitted()], [ELSEWHERE], "PENDING", "started on n7"),
    ("queued", [submitted()], [PENDING], "PENDING", "Priority"),
    ("cancelled", [submitted()], [Answer("gone", ended="cancelled")], "CANCELLED", None),
    ("never began", [submitted()], [GONE], "FAILED", "before it began; see"),
    ("never began", (submitted(), NOT_BEGUN), [GONE], "FAILED", "bad recipe"),
    ("requeued by launcher", BEGUN, [PENDING], "REQUEUED", "Priority"),
    ("training", BEGUN, [RUNNING], "RUNNING", None),
    ("training", WARNED, [RUNNING], "RUNNING", "no GPU"),
    ("training", WARNED, [Answer("suspended")], "RUNNING", "suspended"),
    ("failed unsaid", BEGUN, [Answer("gone", "out_of_memory", word="OOM")], "FAILED", "OOM"),
    ("too late", BEGUN, [Answer("gone", "timeout")], "STOPPED", "time limit"),
    ("vanished", BEGUN, [GONE], "LOST", "without a message"),
    ("deciding", trained("crashed", restarts=True), [RUNNING], "RUNNING", "deciding"),
    ("back in queue", trained("crashed"), [PENDING], "REQUEUED", "what it died of"),
    ("coming back", trained("preempted", restarts=True), [RUNNING], "REQUEUED", None),
    ("coming back", trained("crashed", REQUEUED, restarts=True), [ENDING], "REQUEUED", "died"),
    ("followed", SUCCESSOR_OF_KILLED, [ENDING, PENDING], "REQUEUED", "its job was killed"),
    ("ended", (*SUCCESSOR_OF_KILLED, WITHDRAWN), [ENDING, PENDING], "LOST", "job 2 still waits"),
    ("cancelled", trained("preempted"), [Answer("gone", ended="cancelled")], "CANCELLED", None),
    ("given up", trained("timeout", GIVEN_UP), [GONE], "FAILED", "budget spent"),
    ("stuck", trained("preempted", REQUEUED), [GONE], "STOPPED", "requeued, and is gone"),
    ("stuck", trained("crashed", REQUEUED, NOT_REQUEUED), [GONE], "STOPPED", "no answer"),
    ("ended", trained("timeout"), [GONE], "STOPPED", None),
    ("ended", trained("killed"), [GONE], "LOST", "its job was killed"),
    ("ended", trained("crashed"), [GONE], "FAILED", "what it died of"),
    ("ended", (*BEGUN, CANCELLED, ended("terminated")), [GONE], "CANCELLED", None),
]
RESUME = "; `cldctl resume mine` "
# The same, and what the folder says.
WITH_FILES = [
    (
        "being submitted",
        [requested(99 * SUBMITTING_S, host="n1", pid=12)],
        [],
        "PENDING",
        "process 12 on n1",
        {"is_starting": True},
    ),
    ("interrupted submission", [], [], "FAILED", f"got a job{RESUME}asks for one", {}),
    ("lost ledger", [], [], "LOST", f"is missing{RESUME}continues from the", {"saved": [10, 20]}),
    ("lost ledger", [], [], "LOST", "is damaged; ", {"created": NOW, "step": 5, "ledger": "?"}),
    ("other writer", [], [], "RUNNING", WRITER, {"saved": [10], "writer": OWNER}),
    ("writer without job", BEGUN, [GONE], "RUNNING", WRITER, {"writer": OWNER}),
    ("finished", trained("finished"), [GONE], "FINISHED", None, {"writer": OWNER}),
]


def folder(path, *, created=0.0, saved=(), step=None, ledger=""):
    run = RunFolder(path / "mine")
    run.checkpoints.mkdir(parents=True)
    write_json(run.identity_file, {"created": created})
    for number in saved:
        for suffix in (".pt", ".json"):
            run.checkpoint_file(number).with_suffix(suffix).touch()
    if step is not None:
        write_json(run.progress_file, {"step": step})
    if ledger:
        run.ledger.path.write_text(ledger)
    return run


class Pieces:
    """A work of three pieces, of which ``done`` are complete."""

    command = "cldctl eval"
    unit = "pieces"
    name = "fid"
    outdated = None

    def __init__(self, done=0, written=None):
        self.done = done
        self.written = written

    @property
    def is_done(self):
        return self.done > 3

    def missing(self):
        return list(range(self.done, 3))

    def rows_done(self):
        return self.done, 3

    def moved_at(self):
        return self.written


def piece(number, job="8"):
    return queued(f"{job}_{number}", number)


# Name of the rule, the work, phases of the jobs of its pieces, state, and what its reason says.
SHARDED = [
    ("product", Pieces(4), ["running"], "FINISHED", None),
    ("computing", Pieces(1), ["gone", "suspended", "pending"], "RUNNING", None),
    ("computing", Pieces(), ["running", "gone", "gone"], "RUNNING", "2 of 3 pieces have no job"),
    ("begun since", Pieces(written=NOW - 5), ["pending"] * 3, "RUNNING", None),
    ("queued pieces", Pieces(written=NOW - 50), ["gone", "gone", "unknown"], "PENDING", "2 of 3"),
    ("standing still", Pieces(2), ["gone"] * 3, "STOPPED", "with 2 of 3 pieces complete"),
    ("standing still", Pieces(), [], "STOPPED", None),
]


def check(situation, rule, state, reason):
    assert rule_of(Situation(*situation)).name == rule
    found = state_of(*situation)
    assert (found.name, found.reason is None) == (state, reason is None)
    assert (reason or "") in (found.reason or "")


@pytest.mark.parametrize(("rule", "work", "phases", "state", "reason"), SHARDED)
def test_a_rule_for_pieces(rule, work, phases, state, reason):
    history = History.of(map(piece, range(len(phases))))
    answers = {f"8_{number}": Answer(phase) for number, phase in enumerate(phases)}
    situation = (history, ShardedFacts(work), Answers(answers, as_of=NOW - 10), NOW)
    check(situation, rule, state, reason)


CRASH = events.Failed("crash", job_id="8_0", restart=0, code=1)


@pytest.mark.parametrize(
    ("happened", "done", "cause", "why"),
    [
        ([], 1, "stopped", "its jobs have ended, with 1 of 3 pieces complete"),
        ([], 3, "not merged", "all pieces are complete, but they were not merged"),
        ([events.Failed("task", job_id="8_0", reason="no law")], 3, "not merged", "no law; fix"),
        ([events.Failed("task", job_id="8_0", reason="no law")], 1, "failed", "no law; 1 of 3"),
        ([events.Cancelled(job_id="8_1")], 1, "cancelled", "cancelled"),
        ([CRASH, events.GivenUp(reason="4 crashes", job_id="8_0")], 2, "crashed", "4 crashes"),
        ([events.GivenUp(reason="no weights", job_id="8_0")], 2, "failed", "no weights"),
        ([events.GivenUp(reason="damaged", job_id="8_0")], 3, "not merged", "damaged"),
        ([events.Refused("requeue", job_id="8_0", reason="away")], 2, "not requeued", "away"),
        ([events.GivenUp(reason="x", job_id="8_0"), piece(0, "9")], 2, "stopped", "have ended"),
    ],
)
def test_why_a_sharded_work_stands_still(happened, done, cause, why):
    found = why_stopped(History.of([piece(0), *happened]), ShardedFacts(Pieces(done)))
    assert found[0] == cause
    assert why in found[1]


@pytest.mark.parametrize(
    ("rule", "happened", "answers", "state", "reason", "files"),
    [*((*case, {}) for case in CASES), *WITH_FILES],
)
def test_a_rule(rule, happened, answers, state, reason, files, tmp_path, monkeypatch):
    files = dict(files)
    owner = files.pop("writer", None)
    is_starting = files.pop("is_starting", False)
    monkeypatch.setattr(states, "local_holder", lambda leases: owner)
    monkeypatch.setattr(states, "is_starting", lambda run: is_starting)
    by_job = dict(zip("12", answers, strict=False))
    check(situated(happened, by_job, folder(tmp_path, **files)), rule, state, reason)


def test_every_rule_has_a_case():
    rules = {rule for rule, *_ in (*CASES, *WITH_FILES, *SHARDED)}
    assert rules == {rule.name for rule in TABLE}


def random_history(rng):
    """Events in any order, as after crashes of their writers, and any answers."""
    jobs = []
    happened = []
    attempt = -1
    for _ in range(rng.randrange(14)):
        job_id = rng.choice(jobs) if jobs else "none"
        others = (
            events.Refused("submission", reason="no"),
            events.Cancelled(job_id=job_id),
            events.Wished(job_id=job_id, cause="crashed"),
            events.GivenUp(never_began=True, job_id=job_id, reason="no"),
            events.TurnedAway(job_id=job_id, reason="held", why="held"),
            events.Ended(afterwards=True, attempt=max(attempt, 0), cause="node_failure"),
            GIVEN_UP,
        )
        match rng.choice(("request", "job", "start", "start", "end", "end", "other")):
            case "request":
                happened.append(requested(rng.choice((1.0, 100.0))))
            case "job":
                successor_of = job_id if jobs and rng.random() < 0.4 else None
                jobs.append(str(len(jobs)))
                restarts = rng.random() < 0.7
                happened.append(submitted(jobs[-1], restarts=restarts, successor_of=successor_of))
            case "start":
                attempt += 1
                happened.append(started(attempt, job_id))
            case "end" if attempt >= 0:
                happened.append(ended(rng.choice(CAUSES), attempt))
            case "other":
                happened.append(rng.choice(others))
    answers = {}
    for job_id in jobs:
        phase = rng.choice(PHASES)
        answers[job_id] = Answer(phase, ended=rng.choice(ENDS) if phase == "gone" else None)
    return happened, answers


@pytest.mark.parametrize("seed", range(4))
def test_every_history_has_one_sensible_state(seed, tmp_path):
    rng = random.Random(seed)
    run = folder(tmp_path, created=NOW)
    seen = set()
    for _ in range(500):
        known = situated(*random_history(rng), run)
        history = known[0]
        situation = Situation(*known)
        found = state_of(*known)
        state = found.name
        seen.add(state)
        assert state != "FAILED" or found.reason or situation.attempt == "ended", "it says why"
        if state == "FINISHED":
            assert history.cause == "finished"
        if state == "RUNNING":
            assert situation.phase not in ("", "gone", "pending")
        if state == "REQUEUED":
            assert situation.phase != "gone", "what is gone does not come back"
            assert situation.job == "successor" or situation.attempt in ("open", "ended")
        if situation.phase == "gone" and not situation.request:
            assert state in OVER
        if history.request is not None:
            assert state in ("PENDING", "FAILED"), "a new request hides what came before"
    assert seen == STATES


# An answer of some seconds ago, and what the ledger says since.
AS_OF = NOW - 20


def before(*happened):
    return tuple(replace(event, time=AS_OF - 100) for event in happened)


def since(*happened):
    return tuple(replace(event, time=AS_OF + 15) for event in happened)


WAITS = before(submitted(restarts=True))
TRAINS = (*WAITS, *before(started()))
CRASHED = (*TRAINS, *since(ended("crashed")))


@pytest.mark.parametrize(
    ("happened", "phase", "state", "now"),
    [
        (since(submitted()), "unknown", "PENDING", NOW),
        ((*WAITS, *since(started())), "pending", "RUNNING", NOW),
        ((*TRAINS, *since(ended("finished"))), "running", "FINISHED", NOW),
        ((*TRAINS, *since(ended("preempted"), REQUEUED)), "gone", "REQUEUED", NOW),
        (CRASHED, "pending", "RUNNING", NOW),
        ((*CRASHED, *since(GIVEN_UP)), "running", "FAILED", NOW),
        (
            (*TRAINS, *before(ended("preempted"), REQUEUED), *since(started(1))),
            "pending",
            "RUNNING",
            NOW,
        ),
        # What the answer knows already.
        (TRAINS, "gone", "LOST", NOW),
        # A crash that nothing follows is one after a while.
        (CRASHED, "running", "RUNNING", AS_OF + 15 + 29),
        (CRASHED, "running", "FAILED", AS_OF + 15 + 31),
        ((*TRAINS, *before(ended("timeout"), REQUEUED)), "unknown", "REQUEUED", NOW),
    ],
)
def test_an_answer_that_is_older_than_the_ledger(happened, phase, state, now):
    answers = Answers({"1": Answer(phase)}, as_of=AS_OF)
    assert state_of(History.of(happened), RunFacts(NOWHERE), answers, now).name == state
