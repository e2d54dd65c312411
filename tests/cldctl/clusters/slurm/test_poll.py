"""Questions to Slurm: how often, what its answers mean, also torn ones; why a job waits."""

import subprocess
import sys
from pathlib import Path

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.run.events import JobRef
from cldctl.clusters.base import HELD, Answer, Held, JobSpec
from cldctl.clusters.slurm import client, poll, submit
from cldctl.clusters.slurm.client import Reply
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.clusters.slurm.poll import explained
from tests.support.clock import Clock
from tests.support.scheduler import clients, register


@pytest.fixture
def clock():
    return Clock(now=1_000_000.0)


@pytest.fixture
def slurm(monkeypatch, clock):
    return register(monkeypatch, clock)


def job(job_id):
    return JobRef(cluster="slurm", job_id=job_id)


def phases(*names, **how):
    jobs = [job(name) for name in names]
    survey = SlurmCluster().survey(jobs, **how)
    return [survey.of(job).phase for job in jobs]


def look(*names):
    """As `status` does; another process of the same user."""
    poll._memory.cache_clear()
    return phases(*names, max_age_s=30.0)


def test_one_squeue_for_all_and_one_sacct_for_those_that_it_has_forgotten(slurm):
    slurm.mine = {"1": "RUNNING|n1|None", "2_0": "PENDING||Priority"}
    slurm.ends = {"3": "TIMEOUT|n1", "4_7": "FAILED|n1"}
    survey = SlurmCluster().survey(
        [job("1"), job("2_0"), job("3"), job("4_7"), job("5")], max_age_s=0
    )
    words = [survey.of(job(name)).word for name in ("1", "2_0", "3", "4_7", "5")]
    assert words == ["RUNNING", "PENDING", "TIMEOUT", "FAILED", ""], (
        "Slurm has forgotten the last one"
    )
    assert slurm.calls == {"squeue": 2, "sacct": 1}
    assert "--jobs=3,4_7,5" in slurm.asked[1]


def test_an_answer_serves_all_commands_for_half_a_minute(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None", "2": "PENDING||Priority"}
    assert look("1") == ["running"]
    slurm.mine["1"] = "COMPLETING|n1|None"
    clock.now += 29
    assert look("1", "2") == ["running", "pending"], (
        "no question named job 2, but it was among mine"
    )
    assert slurm.calls == {"squeue": 1}
    clock.now += 2
    assert look("1") == ["ending"]
    assert slurm.calls == {"squeue": 2}


def test_who_decides_asks_now_and_everybody_learns_the_answer(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None"}
    look("1")
    slurm.mine["1"] = "PENDING||BeginTime"
    assert phases("1", max_age_s=0) == ["pending"]
    clock.now += 20
    assert look("1") == ["pending"]
    assert slurm.calls == {"squeue": 2}


def test_a_colleague_s_job_is_asked_about_by_its_name_whoever_asks(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None"}
    slurm.others = {"9": "RUNNING|n2|None"}
    assert look("1", "9") == ["running", "running"]
    clock.now += 31
    slurm.others["9"] = "PENDING||Priority"
    assert look("1") == ["running"], "another process asks, which does not know job 9"
    assert look("9") == ["pending"]
    assert slurm.calls == {"squeue": 4}


def test_many_unknown_jobs_cost_few_calls_and_are_forgotten_in_the_end(slurm, clock):
    slurm.refuses_lists = True
    slurm.others = {"2000": "RUNNING|n2|None"}
    unknown = [str(number) for number in range(1000, 1150)]
    for number in range(1, 61):
        assert phases("2000", *unknown, max_age_s=0)[0] == "running"
        assert slurm.calls["squeue"] <= 14 * number
        clock.now += 31
        poll._memory.cache_clear()
    assert {*phases(*unknown, max_age_s=0)} == {"gone"}


def test_accounting_is_not_asked_about_jobs_whose_end_is_known(slurm):
    """A slurmdbd that hangs must not keep those waiting whose runs finished long ago."""
    assert phases("1", settled=[job("1")], max_age_s=0) == ["gone"]
    assert slurm.calls == {"squeue": 1}
    phases("1", "2", settled=[job("1")], max_age_s=0)
    assert slurm.calls == {"squeue": 3, "sacct": 1}


def test_a_controller_that_is_away_is_said_to_be_also_to_who_shares_the_answer(slurm):
    slurm.is_away = True
    for max_age_s in (0, 30):
        survey = SlurmCluster().survey([job("2")], max_age_s=max_age_s)
        assert (survey.problem, survey.of(job("2")).phase) == (poll.AWAY, "unknown")
        poll._memory.cache_clear()
    assert slurm.calls["squeue"] == 1


@pytest.mark.parametrize(("is_away", "phase"), [(True, "unknown"), (False, "gone")])
def test_without_squeue_a_job_that_slurm_starts_again_may_be_alive(is_away, phase, slurm):
    """Accounting hears of a start later than of the end of the one before."""
    ends = ("PREEMPTED", "CANCELLED by 0", "NODE_FAIL", "COMPLETED", "BOOT_FAIL")
    slurm.is_away = is_away
    slurm.ends = {str(number): f"{end}|n1" for number, end in enumerate(ends, start=1)}
    assert phases(*slurm.ends, max_age_s=0) == [phase, "gone", phase, "gone", phase]


def asked_within(slurm, clock, seconds):
    before = slurm.calls["squeue"]
    for _ in range(int(seconds)):
        look("1")
        clock.now += 1
    return slurm.calls["squeue"] - before


def test_who_does_not_answer_is_asked_less_and_less_by_everybody(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None"}
    look("1")
    slurm.is_away = True
    assert asked_within(slurm, clock, 30) == 0
    # After 60, 120, and then every 300 s.
    assert asked_within(slurm, clock, 60 + 120 + 300 + 300) == 4
    assert look("1") == ["unknown"], "it may have ended meanwhile"
    slurm.is_away = False
    assert phases("1", max_age_s=0) == ["running"], "who decides does not wait"
    assert asked_within(slurm, clock, 60) == 1, "and it is asked as before"


LOOK = """
from cld_core.run.events import JobRef
from cldctl.clusters.slurm.cluster import SlurmCluster
job = JobRef(cluster="slurm", job_id="1")
print(SlurmCluster().survey([job], max_age_s=30.0).of(job).phase)
"""


def test_commands_that_begin_at_the_same_moment_ask_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CLDCTL_ASK_EVERY_S", "36000")
    calls = clients(tmp_path, monkeypatch, "sleep 1\necho '1|RUNNING|n1|None'")
    commands = [
        subprocess.Popen([sys.executable, "-c", LOOK], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [command.communicate(timeout=120)[0] for command in commands] == ["running\n"] * 4
    assert calls.read_text().count("squeue") == 1


SQUEUE = "12|RUNNING|n[1-2]|None\n13_4|PENDING||Priority\n13_5|COMPLETED|n3|None\n14|PENDING||JobHeldUser\n"
SACCT = "12|PREEMPTED|n1\n12|NODE_FAIL|n1\n12|CANCELLED by 0|n2\n14|COMPLETED|n1\n"
TOY = JobSpec(name="toy", logs=Path("logs"), size=ClusterSpec())
SUBMITTED = "12|2026-11-25T00:57:43\n13|2026-11-25T01:57:43\n"


def test_squeue_and_sacct(monkeypatch):
    answers, is_whole = poll.parse_squeue(f"{SQUEUE}rubbish\n")
    assert is_whole
    assert answers == {
        "12": Answer("running", node="n[1-2]", word="RUNNING"),
        "13_4": Answer("pending", reason="Priority", word="PENDING"),
        "13_5": Answer("gone", node="n3", word="COMPLETED"),
        "14": Answer(
            "pending", reason=f"JobHeldUser{HELD}release it: `scontrol release 14`", word="PENDING"
        ),
    }
    ends = {
        word: poll.seen_of(word).ended
        for word in ("CANCELLED by 1000", "NODE_FAIL", "OUT_OF_MEMORY")
    }
    assert [*ends.values()] == ["cancelled", "node_failure", "out_of_memory"]
    assert [poll.seen_of(word).phase for word in ("REQUEUE_HOLD", "SUSPENDED")] == [
        "pending",
        "suspended",
    ]
    monkeypatch.setattr(client, "run", lambda command, **_: Reply(0, SACCT))
    assert poll.ended_states(["12", "14"]) == {
        "12": ["PREEMPTED", "NODE_FAIL", "CANCELLED"],
        "14": ["COMPLETED"],
    }


def test_a_torn_answer_never_ends_a_job():
    """Whatever is cut off, a job that the whole answer shows in the queue does not look gone."""
    whole, _ = poll.parse_squeue(SQUEUE)
    for cut in (SQUEUE[:end] for end in range(len(SQUEUE) + 1)):
        answers, is_whole = poll.parse_squeue(cut)
        for name, seen in answers.items():
            assert seen.phase in (whole[name].phase, "unknown"), "a line is whole, or left out"
        assert is_whole == (cut == "" or cut[-1] == "\n")


@pytest.mark.parametrize("text", ["", "|||\n===\n", "\x00\ufffd|\n", SACCT[:20]])
def test_whatever_clients_print_nothing_breaks(monkeypatch, text):
    monkeypatch.setattr(client, "run", lambda command, **_: Reply(0, text))
    assert {*phases("12", "13_4", max_age_s=0)} <= {"gone", "unknown"}
    submit.submitted_since(TOY, 0.0)
    client.show_job("12")
    poll.ended_states(["12"])
    submit.forget()
    assert SlurmCluster().most_tasks(TOY).tasks > 0
    submit.forget()


@pytest.mark.parametrize(("line", "jobs"), [("12|N/A\n", None), ("12\n", None), ("", ["12", "13"])])
def test_a_job_submitted_at_an_unreadable_time_is_not_forgotten(monkeypatch, line, jobs):
    text = f"Welcome to this cluster\n{SUBMITTED}{line}"
    monkeypatch.setattr(client, "run", lambda command, **_: Reply(0, text))
    assert submit.submitted_since(TOY, 0.0) == jobs


PENDING = Answer("pending", word="PENDING")


@pytest.mark.parametrize(
    ("word", "reason", "advice"),
    [
        ("Priority", "jobs of higher priority come first (Priority)", "sprio -j 7"),
        ("QOSMaxJobsPerUserLimit", "allows one user", "wait for your other jobs"),
        ("AssocGrpGRESMinutes", "the budget of its account is used up", "cluster.account"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-4]", "down, drained or reserved", "sinfo -R"),
        ("Dependency", "another job to end (afterany:6)", ""),
        ("DependencyNeverSatisfied", "it never begins", "cancel it, then `cldctl resume RUN`"),
        ("JobHeldUser", "it is held by its user", "scontrol release 7"),
        (
            "launch_failed_requeued_held",
            "it is held, because its last start failed on the node",
            "excnodelist",
        ),
        ("JobHeldAdmin", "it is held by an administrator", "only they can release it"),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs",
            "down, drained or reserved",
            "sinfo -R",
        ),
        ("PartitionTimeLimit", "it never begins", "resume RUN cluster.time_min=MINUTES"),
        ("SomethingNew", "Slurm says SomethingNew", "man squeue"),
    ],
)
def test_every_reason_is_said_in_words_with_what_to_do(word, reason, advice):
    found = explained(
        "7", {"Reason": word, "Dependency": "afterany:6", "StartTime": "Unknown"}, PENDING
    )
    assert reason in found.reason
    assert advice in found.advice
    assert found.expected is None
    assert isinstance(found, Held) == ("held" in found.reason or "never" in found.reason)


def test_without_scontrol_the_survey_s_word_is_explained_and_without_any_nothing():
    assert "higher priority" in explained("7", {}, Answer("pending", reason="Priority")).reason
    assert explained("7", {}, PENDING) is None
    assert explained("7", {"JobState": "FAILED", "Reason": "NonZeroExitCode"}, PENDING) is None, (
        "it has ended since"
    )
