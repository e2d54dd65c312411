"""Why a run is where it is."""

import time

import pytest

from cld_core.run.events import Failed
from cldctl.clusters.base import HELD, Answer, Held, Survey, Waiting
from cldctl.jobs.failures import SETUP_FAILED
from cldctl.runs import usage
from cldctl.runs.logs import first_failure, last_failed
from cldctl.runs.why import why
from tests.support.made_up import ended, given_up, note, ordered, queued, run_with, started, wished
from tests.support.tools import invoke, json_of


@pytest.fixture
def run(tmp_path, scripted):
    run = run_with(tmp_path / "mine", 100)
    note(run, queued(logs=run.logs, time=100.0))
    scripted.phases["7"] = "gone"
    return run


def attempt(run, cause, number=0, job_id="7", begin=None, steps=(0, 150), **end):
    """An attempt of 100 s that made these steps."""
    begin = time.time() + number if begin is None else begin
    first, last = steps
    note(
        run,
        started(number, first, job_id=job_id, time=begin),
        ended(cause, last, attempt=number, time=begin + 100, **end),
    )


def test_attempts_the_first_failure_nodes_and_what_to_type(run, scripted, monkeypatch):
    """Two attempts that each crash on a node of their own, 20 steps behind their checkpoint."""
    for number in range(2):
        begin = 1000.0 * (number + 1)
        about = {"job_id": "7", "restart": number, "host": f"n{number}"}
        start = started(number, 100 * number, time=begin, ranks=1, **about)
        failure = Failed("rank", rank=1, reason="OSError: disk", time=begin + 99, **about)
        end = ended("crashed", start.step + 120, attempt=number, time=begin + 100)
        nodes = ("n0", "n1")[: number + 1]
        wish = wished("crashed", exclude=nodes, time=begin + 101)
        note(run, start, failure, end, wish)
    text = "--- start 1 of job 7: rank 1 on n1, 2026-11-26T08:00:00 ---\nTraceback\nOSError: disk\n"
    (run.logs / "7_1_log.err").write_text(text)
    found = why(run)
    assert (found.row.state, found.failed.attempt, found.failed.rank) == ("STOPPED", 1, 1)
    assert found.failed.lines[-1] == "OSError: disk"
    assert found.excluded == ("n0", "n1")
    assert [(row["gained"], row["lost"], row["waited_s"]) for row in found.attempts] == [
        (100, 20, 900),
        (0, 120, 899),
    ]
    assert found.next[0] == "resume mine"
    document = json_of("why mine --json")
    assert document["failed_first"]["rank"] == 1
    monkeypatch.setattr(usage, "used_by", lambda *about, **more: 1 / 0)
    assert "usage: division by zero" in why(run).row.problems
    scripted.phases["7"] = "running"
    note(run, started(2, 200, restart=2))
    assert why(run).failed is None, "that was another attempt"


def test_evaluations_that_are_not_finished_are_explained(run, scripted, monkeypatch):
    work = ordered(run, 100, shards=2)
    for shard, phase in enumerate(("gone", "pending")):
        note(work, queued(f"8_{shard}", shard))
        scripted.phases[f"8_{shard}"] = phase
    monkeypatch.setattr(
        scripted, "why_waiting", lambda self, job, seen, asks: Waiting(f"{job.job_id} is held")
    )
    shown = " ".join(invoke("why mine").stdout.split())
    assert f"{work.name} PENDING, 0 of 2 shards: 8_1 is held; 1 of 2 shards have no job" in shown


@pytest.mark.parametrize(
    ("cause", "state", "says", "then"),
    [
        ("preempted", "STOPPED", "it was preempted at step 150; step 100 is saved", "resume mine"),
        ("finished", "FINISHED", "all 150 steps are done", "eval mine --elbo"),
        ("nonfinite", "FAILED", "step 150", "resume mine optim.lr=VALUE"),
        ("killed", "LOST", "its job was killed, at step 150", "resume mine"),
        ("terminated", "STOPPED", "it was terminated (SIGTERM) at step 150", "resume mine"),
        ("node_failure", "LOST", "it lost its node", "resume mine"),
    ],
)
def test_the_headline_is_a_sentence_and_the_next_command_fits(run, cause, state, says, then):
    attempt(run, cause, detail="SIGTERM")
    found = why(run)
    assert found.row.state == state
    assert says in found.headline
    assert found.next[0] == then
    assert found.failed is None, "a rank that obeys does not fail"


def test_an_error_that_another_start_would_meet_again_is_to_be_fixed_first(run):
    note(run, given_up("recipe: 'x' is wrong", never_began=True))
    found = why(run)
    assert "recipe: 'x' is wrong" in found.headline
    assert found.do.startswith("fix the error first")
    assert found.next[0].startswith("logs mine")


def test_what_has_failed_twice_is_not_advised(run):
    for number in range(2):
        detail = "DataError: toy data have another shape"
        attempt(run, "crashed", number, begin=1000.0 * number, steps=(100, 100), detail=detail)
        found = why(run)
        assert ("resume mine" in found.next) == (number == 0)
    assert "correct the cause first" in found.do


def test_a_setup_line_that_failed_is_to_be_corrected(run):
    said = f"{SETUP_FAILED} with code 1, in line: module load cuda"
    note(run, Failed("early", job_id="7", reason=said))
    found = why(run)
    assert found.row.state == "FAILED"
    assert said in found.headline
    assert found.do == "correct cluster.setup"
    assert found.next[0].startswith("resume mine cluster.setup=")


def test_a_run_of_another_launcher_goes_on_there(tmp_path, scripted):
    run = run_with(tmp_path / "mine", 100)
    attempt(run, "crashed", job_id="torchrun", detail="OSError: disk")
    found = why(run)
    assert "the same command again" in found.do
    assert found.next == ["resume mine"], "its launcher has the output"
    # It counts, too, if an earlier job was cldctl's.
    note(run, queued(logs=run.logs))
    scripted.phases["7"] = "gone"
    attempt(run, "preempted", 1)
    attempt(run, "terminated", 2, job_id="torchrun")
    found = why(run)
    assert (found.row.state, found.next) == ("STOPPED", ["resume mine"])


def test_a_job_that_waits_says_why_and_what_to_do(run, scripted, monkeypatch):
    scripted.phases["7"] = "pending"
    waiting = Waiting("somebody holds it", "release RUN", 2e9)
    monkeypatch.setattr(
        scripted, "why_waiting", lambda self, job, seen, asks: waiting, raising=False
    )
    found = why(run)
    assert found.headline == "job 7 waits in the queue: somebody holds it"
    assert found.do == "release mine"
    assert "as the scheduler expects" in invoke("why mine").stdout
    for kind, then in (
        (Waiting, "waits to continue automatically"),
        (Held, "and waits: somebody holds it"),
    ):
        waiting = kind("somebody holds it", "release it")
        attempt(run, "preempted")
        note(run, wished("preempted"))
        found = why(run)
        assert found.row.state == "REQUEUED"
        assert then in found.headline
        assert ("status mine --watch" in found.next) == (kind is Waiting), "nothing would change"
    note(
        run,
        Failed("early", job_id="7", reason="cluster.setup failed with code 1"),
        wished("crashed"),
    )
    assert "its last start did not train: cluster.setup failed with code 1" in why(run).headline


def begun(run, scripted):
    """By a job that its launcher may start again."""
    scripted.phases["7"] = "running"
    note(run, queued(logs=run.logs), started(ranks=2))


def test_a_requeue_that_nobody_has_answered(run, scripted, monkeypatch):
    begun(run, scripted)
    said = Waiting("it has not answered the requeue since noon")
    monkeypatch.setattr(scripted, "why_waiting", lambda *_, **how: said, raising=False)
    note(run, ended("preempted", 100), wished("preempted"))
    assert f"step 100 is saved: {said.reason}" in why(run).headline
    said = None
    assert why(run).headline.startswith("job 7 is starting"), "it was answered"


def test_while_its_job_decides_about_a_dead_rank_nothing_trains(run, scripted):
    begun(run, scripted)
    assert why(run).headline.startswith("it trains")
    log_of(run, 0, "srun: error: n2: task 1: Killed\n")
    assert why(run).headline.startswith("rank 1 on n2 ended (Killed) at step")
    note(run, ended("crashed", 100))
    assert "trains" not in why(run).headline


def test_a_job_that_is_being_set_up_does_not_wait(run, scripted):
    scripted.phases["7"] = "running"
    assert why(run).headline.startswith("job 7 is starting")


def test_status_says_below_its_table_what_never_begins(run, scripted, monkeypatch):
    seen = Answer("pending", reason=f"DependencyNeverSatisfied{HELD}cancel it")
    monkeypatch.setattr(
        scripted, "survey", lambda self, jobs, **how: Survey({job.job_id: seen for job in jobs})
    )
    assert (
        "mine: DependencyNeverSatisfied; it never begins by itself: cancel it"
        in invoke("status --all").stderr
    )


@pytest.fixture
def failed_run(run):
    attempt(run, "crashed", begin=100.0, detail="what rank 0 said")
    return run


def log_of(run, rank, text, stream="err"):
    head = f"--- start 0 of job 7: rank {rank} on n{rank}, 2026-11-26T08:00:00 ---\n"
    (run.logs / f"7_{rank}_log.{stream}").write_text(head + text)


def failed(run, time, rank, reason, restart=0):
    about = {"job_id": "7", "restart": restart, "rank": rank, "host": f"n{rank}"}
    note(run, Failed("rank", time=time, reason=reason, **about))


def first(run):
    history = run.ledger.history()
    return first_failure(run, history, last_failed(history))


def test_the_earliest_time_decides_not_the_order_of_lines_or_ranks(failed_run):
    failed(failed_run, 190.0, 0, "ValueError: late")
    failed(failed_run, 150.0, 2, "OSError: early")
    failed(failed_run, 110.0, 1, "ValueError: of another start", restart=1)
    log_of(failed_run, 2, "Traceback\n  at x\nOSError: early\nslurmstepd: error: something later\n")
    found = first(failed_run)
    assert (found.rank, found.host, found.reason, found.time) == (2, "n2", "OSError: early", 150.0)
    assert found.lines == ("Traceback", "  at x", "OSError: early")


def test_else_the_logs_of_the_ranks_tell(failed_run):
    log_of(
        failed_run,
        0,
        "Traceback\nRuntimeError: [../pair.cc:534] Connection closed by peer [127.0.0.1]\n",
    )
    log_of(failed_run, 1, "Traceback\ncld_core.errors.DataError: no such images\n")
    found = first(failed_run)
    assert (found.rank, found.reason) == (1, "cld_core.errors.DataError: no such images")
    assert found.file == failed_run.logs / "7_1_log.err"


def test_of_a_rank_that_was_killed_the_launcher_s_own_lines_are_no_last_words(failed_run):
    failed(failed_run, 150.0, 1, "Killed")
    launched = "submitit INFO (2026-11-26 08:00:00,1) - Loading pickle\n"
    log_of(failed_run, 1, f"step 5/20\n{launched}", "out")
    log_of(failed_run, 1, launched)
    assert first(failed_run).lines == ("step 5/20",)
    log_of(failed_run, 1, launched, "out")
    assert (first(failed_run).lines, first(failed_run).file) == ((), None)
