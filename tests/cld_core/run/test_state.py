"""The table of states, row by row, without a cluster."""

import random
from dataclasses import replace

import pytest

from cld_core.files import write_json
from cld_core.run import RunFolder, events
from cld_core.run import state as states
from cld_core.run.events import CAUSES, JobRef
from cld_core.run.history import History
from cld_core.run.state import (
    OVER,
    SUBMITTING_S,
    TABLE,
    Answer,
    DividedFacts,
    RunFacts,
    Situation,
    rule_of,
    state_of,
    why_stopped,
)

NOW = 1000.0
NOWHERE = RunFolder("/nowhere/mine")
STATES = {"PENDING", "RUNNING", "REQUEUED", *OVER}
GONE, PENDING, RUNNING, UNKNOWN = (
    Answer("gone"),
    Answer("pending", reason="Priority"),
    Answer("running"),
    Answer("unknown"),
)


def requested(ago=1.0, **more):
    return events.Requested(time=NOW - ago, steps=9, **more)


def submitted(job_id="1", *, restarts=False, successor_of=None):
    job = JobRef(cluster="any", job_id=job_id, restarts=restarts)
    return events.Submitted(time=NOW - 50, job=job, successor_of=successor_of)


def started(attempt=0, job_id="1", warning=None):
    return events.Started(time=NOW - 40, attempt=attempt, job_id=job_id, step=0, warning=warning)


def ended(cause, attempt=0):
    return events.Ended(
        time=NOW - 30, attempt=attempt, cause=cause, step=5, detail="what it died of"
    )


CANCELLED = events.Cancelled(time=NOW - 20, job_id="1")
NOT_CANCELLED = events.Refused(
    "cancellation", time=NOW - 19, job_id="1", reason="it does not answer"
)
REQUEUED = events.Wished(time=NOW - 20, job_id="1", cause="preempted")
NOT_REQUEUED = events.Refused("requeue", time=NOW - 20, job_id="1", reason="nobody answers")
NOT_BEGUN = events.GivenUp(never_began=True, time=NOW - 5, job_id="1", reason="bad recipe")
GIVEN_UP = events.GivenUp(time=NOW - 20, reason="budget spent")
PHASES = ("pending", "running", "suspended", "ending", "gone", "gone", "gone", "unknown")
ELSEWHERE = Answer("unknown", reason="started on n7")
OWNER = {"pid": 7, "job_id": "torchrun"}
WAITED = events.TurnedAway(job_id="2", why="finished")
FINISHED_WHILE_2_WAITED = (submitted(), started(), ended("finished"), submitted("2"), WAITED)
SECOND = submitted("2", restarts=True, successor_of="1")
SUCCESSOR_OF_KILLED = (submitted(), SECOND, started(), ended("killed"))
WITHDRAWN = events.TurnedAway(job_id="2", why="withdrawn")
SUCCESSOR = (submitted(restarts=True), SECOND, started(), ended("node_failure"))


class Said:
    """Answers of one cluster, by job id."""

    def __init__(self, looks, as_of=None):
        self.looks = looks or {}
        self.moment = as_of

    def of(self, job):
        return self.looks.get(job.job_id, Answer("unknown"))

    def as_of(self, cluster):
        return self.moment


def situated(happened, looks=None, run=NOWHERE):
    return History.of(happened), RunFacts(run), Said(looks), NOW


# Name of the rule, what happened, what the launcher says about each job, state, and what its reason
# says; what the folder says, if it is asked.
CASES = [
    (
        "refused",
        (requested(), events.Refused("submission", reason="no such partition")),
        {},
        "FAILED",
        "no such partition",
    ),
    ("interrupted submission", (requested(SUBMITTING_S + 1),), {}, "FAILED", "interrupted"),
    ("being submitted", (requested(SUBMITTING_S - 1),), {}, "PENDING", None),
    (
        "turned away",
        (submitted(), events.TurnedAway(job_id="1", why="held")),
        {"1": GONE},
        "PENDING",
        None,
    ),
    ("finished", (started(job_id="pid-7"), ended("finished")), {}, "FINISHED", None),
    ("ended", (events.Imported(step=8, source="a.pth"),), {}, "STOPPED", None),
    ("lost without job", (started(job_id="pid-7"),), {}, "LOST", None),
    ("successor's turn", SUCCESSOR, {"1": GONE, "2": PENDING}, "REQUEUED", "Priority"),
    ("cancelled", (submitted(), CANCELLED), {"1": UNKNOWN}, "CANCELLED", None),
    ("perhaps queued", (submitted(), CANCELLED, NOT_CANCELLED), {"1": UNKNOWN}, "PENDING", None),
    ("queued", (submitted(),), {"1": PENDING}, "PENDING", "Priority"),
    ("perhaps queued", (submitted(),), {"1": ELSEWHERE}, "PENDING", "started on n7"),
    ("cancelled", (submitted(),), {"1": Answer("gone", ended="cancelled")}, "CANCELLED", None),
    ("never began", (submitted(),), {"1": GONE}, "FAILED", "before it began; see"),
    ("never began", (submitted(), NOT_BEGUN), {"1": GONE}, "FAILED", "bad recipe"),
    ("requeued by launcher", (submitted(), started()), {"1": PENDING}, "REQUEUED", "Priority"),
    ("training", (submitted(), started()), {"1": RUNNING}, "RUNNING", None),
    ("training", (submitted(), started(warning="no GPU")), {"1": RUNNING}, "RUNNING", "no GPU"),
    (
        "training",
        (submitted(), started(warning="no GPU")),
        {"1": Answer("suspended")},
        "RUNNING",
        "suspended",
    ),
    (
        "failed unsaid",
        (submitted(), started()),
        {"1": Answer("gone", "out_of_memory", word="OOM")},
        "FAILED",
        "OOM",
    ),
    (
        "too late",
        (submitted(), started()),
        {"1": Answer("gone", "timeout")},
        "STOPPED",
        "time limit",
    ),
    ("vanished", (submitted(), started()), {"1": GONE}, "LOST", "without a message"),
    (
        "deciding",
        (submitted(restarts=True), started(), ended("crashed")),
        {"1": RUNNING},
        "RUNNING",
        "deciding",
    ),
    (
        "back in queue",
        (submitted(), started(), ended("crashed")),
        {"1": PENDING},
        "REQUEUED",
        "what it died of",
    ),
    (
        "coming back",
        (submitted(restarts=True), started(), ended("preempted")),
        {"1": RUNNING},
        "REQUEUED",
        None,
    ),
    (
        "coming back",
        (submitted(restarts=True), started(), ended("crashed"), REQUEUED),
        {"1": Answer("ending")},
        "REQUEUED",
        "died",
    ),
    (
        "followed",
        SUCCESSOR_OF_KILLED,
        {"1": Answer("ending"), "2": PENDING},
        "REQUEUED",
        "its job was killed",
    ),
    (
        "ended",
        (*SUCCESSOR_OF_KILLED, WITHDRAWN),
        {"1": Answer("ending"), "2": PENDING},
        "LOST",
        "job 2 still waits",
    ),
    (
        "cancelled",
        (submitted(), started(), ended("preempted")),
        {"1": Answer("gone", ended="cancelled")},
        "CANCELLED",
        None,
    ),
    (
        "given up",
        (submitted(), started(), ended("timeout"), GIVEN_UP),
        {"1": GONE},
        "FAILED",
        "budget spent",
    ),
    (
        "stuck",
        (submitted(), started(), ended("preempted"), REQUEUED),
        {"1": GONE},
        "STOPPED",
        "requeued, and is gone",
    ),
    (
        "stuck",
        (submitted(), started(), ended("crashed"), REQUEUED, NOT_REQUEUED),
        {"1": GONE},
        "STOPPED",
        "nobody answers",
    ),
    ("ended", (submitted(), started(), ended("timeout")), {"1": GONE}, "STOPPED", None),
    ("ended", (submitted(), started(), ended("killed")), {"1": GONE}, "LOST", "its job was killed"),
    ("ended", (submitted(), started(), ended("crashed")), {"1": GONE}, "FAILED", "what it died of"),
    (
        "ended",
        (submitted(), started(), CANCELLED, ended("terminated")),
        {"1": GONE},
        "CANCELLED",
        None,
    ),
    # What the folder says.
    (
        "being submitted",
        (requested(99 * SUBMITTING_S, host="n1", pid=12),),
        {},
        "PENDING",
        "process 12 on n1",
        {"is_starting": True},
    ),
    (
        "interrupted submission",
        (),
        {},
        "FAILED",
        "interrupted before it got a job; `cldctl resume mine` asks for one",
    ),
    (
        "lost ledger",
        (),
        {},
        "LOST",
        "is missing; `cldctl resume mine` continues from the",
        {"saved": [10, 20]},
    ),
    ("lost ledger", (), {}, "LOST", "is damaged; ", {"created": NOW, "step": 5, "ledger": "?"}),
    (
        "other writer",
        (),
        {},
        "RUNNING",
        "process 7 on this machine writes into it (job torchrun)",
        {"saved": [10], "writer": OWNER},
    ),
    (
        "writer without job",
        (submitted(), started()),
        {"1": GONE},
        "RUNNING",
        "process 7 on this machine",
        {"writer": OWNER},
    ),
    (
        "finished",
        (submitted(), started(), ended("finished")),
        {"1": GONE},
        "FINISHED",
        None,
        {"writer": OWNER},
    ),
    (
        "finished",
        FINISHED_WHILE_2_WAITED,
        {"1": GONE, "2": PENDING},
        "FINISHED",
        "job 2 still waits",
    ),
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

    def to_start(self):
        return list(range(self.done, 3))

    def rows_done(self):
        return self.done, 3

    def moved_at(self):
        return self.written


def piece(number, job="8"):
    job = JobRef(cluster="any", job_id=f"{job}_{number}")
    return events.Submitted(job=job, shards=(number,))


# Name of the rule, the work, phases of the jobs of its pieces, state, and what its reason says.
DIVIDED = [
    ("product", Pieces(4), ["running"], "FINISHED", None),
    ("computing", Pieces(1), ["gone", "suspended", "pending"], "RUNNING", None),
    ("computing", Pieces(), ["running", "gone", "gone"], "RUNNING", "2 of 3 pieces have no job"),
    ("begun since", Pieces(written=NOW - 5), ["pending"] * 3, "RUNNING", None),
    ("queued pieces", Pieces(written=NOW - 50), ["gone", "gone", "unknown"], "PENDING", "2 of 3"),
    ("standing still", Pieces(2), ["gone"] * 3, "STOPPED", "with 2 of 3 pieces complete"),
    ("standing still", Pieces(), [], "STOPPED", None),
]


@pytest.mark.parametrize(("rule", "work", "phases", "state", "reason"), DIVIDED)
def test_a_rule_for_pieces(rule, work, phases, state, reason):
    history = History.of(map(piece, range(len(phases))))
    answers = Said({f"8_{n}": Answer(phase) for n, phase in enumerate(phases)}, as_of=NOW - 10)
    known = history, DividedFacts(work), answers, NOW
    assert rule_of(Situation(*known)).name == rule
    found = state_of(*known)
    assert (found.name, found.reason is None) == (state, reason is None)
    assert (reason or "") in (found.reason or "")


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
def test_why_a_divided_work_stands_still(happened, done, cause, why):
    found = why_stopped(History.of([piece(0), *happened]), DividedFacts(Pieces(done)))
    assert found[0] == cause
    assert why in found[1]


@pytest.mark.parametrize("case", CASES)
def test_a_rule(case, tmp_path, monkeypatch):
    rule, happened, looks, state, reason, *files = case
    told = dict(*files)
    owner, is_starting = told.pop("writer", None), told.pop("is_starting", False)
    monkeypatch.setattr(states, "local_holder", lambda leases: owner)
    monkeypatch.setattr(states, "is_starting", lambda run: is_starting)
    known = situated(happened, looks, folder(tmp_path, **told))
    assert rule_of(Situation(*known)).name == rule
    found = state_of(*known)
    assert (found.name, found.reason is None) == (state, reason is None)
    assert (reason or "") in (found.reason or "")


def test_every_rule_has_a_case():
    rules = [rule for rule, *_ in (*CASES, *DIVIDED)]
    assert {*rules, "standing still"} == {rule.name for rule in TABLE}


def random_history(rng):
    """Events in any order that ledgers can have, also after crashes of their writers, and any
    answers."""
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
                happened.append(
                    submitted(jobs[-1], restarts=rng.random() < 0.7, successor_of=successor_of)
                )
            case "start":
                attempt += 1
                happened.append(started(attempt, job_id))
            case "end" if attempt >= 0:
                happened.append(ended(rng.choice(CAUSES), attempt))
            case "other":
                happened.append(rng.choice(others))
    looks = [Answer(rng.choice(PHASES)) for _ in jobs]
    ends = (None, "cancelled", "crashed", "out_of_memory", "timeout")
    looks = [replace(it, ended=rng.choice(ends)) if it.is_gone else it for it in looks]
    return happened, dict(zip(jobs, looks, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happened_there_is_one_sensible_state(seed, tmp_path):
    rng, run = random.Random(seed), folder(tmp_path, created=NOW)
    states = set()
    for _ in range(500):
        happened, looks = random_history(rng)
        known = situated(happened, looks, run)
        history = known[0]
        situation = Situation(*known)
        found = state_of(*known)
        state, reason = found.name, found.reason
        states.add(state)
        assert state in STATES
        assert state != "FAILED" or reason or situation.attempt == "ended", "a failure says why"
        if state == "FINISHED":
            assert history.last.cause == "finished"
        if state == "RUNNING":
            assert situation.phase not in ("", "gone", "pending")
        if state == "REQUEUED":
            assert situation.phase != "gone", "what is gone does not come back"
            assert situation.job == "successor" or situation.attempt in ("open", "ended")
        if situation.phase == "gone" and not situation.request:
            assert state in OVER
        if history.request is not None:
            assert state in ("PENDING", "FAILED"), "a new request hides what came before"
    assert states == STATES


# An answer of half a minute ago, and what the ledger says since.

ASKED = NOW - 20


def before(*happened):
    return tuple(replace(event, time=ASKED - 100) for event in happened)


def since(*happened):
    return tuple(replace(event, time=ASKED + 15) for event in happened)


def known(happened, phase, now=NOW):
    answers = Said({} if phase is None else {"1": Answer(phase)}, as_of=ASKED)
    return state_of(History.of(happened), RunFacts(NOWHERE), answers, now).name


WAITS = before(submitted(restarts=True))
BEGUN = (*WAITS, *before(started()))
CRASHED = (*BEGUN, *since(ended("crashed")))


@pytest.mark.parametrize(
    ("happened", "phase", "wanted", "more"),
    [
        (since(submitted()), None, "PENDING", {}),
        ((*WAITS, *since(started())), "pending", "RUNNING", {}),
        ((*BEGUN, *since(ended("finished"))), "running", "FINISHED", {}),
        ((*BEGUN, *since(ended("preempted"), REQUEUED)), "gone", "REQUEUED", {}),
        (CRASHED, "pending", "RUNNING", {}),
        ((*CRASHED, *since(GIVEN_UP)), "running", "FAILED", {}),
        (
            (*BEGUN, *before(ended("preempted"), REQUEUED), *since(started(1))),
            "pending",
            "RUNNING",
            {},
        ),
        # What the answer knows already.
        (BEGUN, "gone", "LOST", {}),
        # A crash that nothing follows is one after a while.
        (CRASHED, "running", "RUNNING", {"now": ASKED + 15 + 29}),
        (CRASHED, "running", "FAILED", {"now": ASKED + 15 + 31}),
        ((*BEGUN, *before(ended("timeout"), REQUEUED)), None, "REQUEUED", {}),
    ],
)
def test_an_answer_that_is_older_than_the_ledger(happened, phase, wanted, more):
    assert known(happened, phase, **more) == wanted
