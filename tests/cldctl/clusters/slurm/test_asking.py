"""How often Slurm is asked, by whom, and what is done with its answers."""

import os
import subprocess
import sys

import pytest

from cld_core.run.events import JobRef
from cldctl.clusters.slurm import asking, shared
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.support.clock import Clock
from tests.support.scheduler import Scheduler, register


@pytest.fixture
def clock() -> Clock:
    return Clock(now=1_000_000.0)


@pytest.fixture
def slurm(monkeypatch, clock) -> Scheduler:
    return register(monkeypatch, clock)


def job(job_id):
    return JobRef(cluster="slurm", job_id=job_id)


def phases(*names, **how):
    jobs = [job(name) for name in names]
    survey = SlurmCluster().survey(jobs, **how)
    return [survey.of(job).phase for job in jobs]


def look(*names):
    """As `status` does; another process of the same user."""
    shared._answers.cache_clear()
    return phases(*names, max_age_s=30.0)


def test_one_squeue_for_all_and_one_sacct_for_those_that_it_has_forgotten(slurm):
    slurm.mine = {"1": "RUNNING|n1|None", "2_0": "PENDING||Priority"}
    slurm.ends = {"3": "TIMEOUT|n1", "4_7": "FAILED|n1"}
    survey = SlurmCluster().survey([job("1"), job("2_0"), job("3"), job("4_7"), job("5")], max_age_s=0)
    assert [survey.of(job(name)).word for name in ("1", "2_0", "3", "4_7", "5")] == [
        *("RUNNING", "PENDING", "TIMEOUT", "FAILED", ""),
    ]
    assert survey.of(job("5")).phase == "gone", "nobody remembers it"
    assert slurm.calls == {"squeue": 2, "sacct": 1}
    assert "--me" in slurm.asked[0]
    assert "--jobs=3,4_7,5" in slurm.asked[1]
    assert all("--me" in call or any(word.startswith("--jobs=") for word in call) for call in slurm.asked[:2])


def test_an_answer_serves_all_commands_for_half_a_minute(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None", "2": "PENDING||Priority"}
    assert look("1") == ["running"]
    slurm.mine["1"] = "COMPLETING|n1|None"
    clock.now += 29
    assert look("1", "2") == ["running", "pending"], "nobody asked about job 2, but it was among mine"
    assert slurm.calls == {"squeue": 1}
    clock.now += 2
    assert look("1") == ["ending"]
    assert slurm.calls == {"squeue": 2}


def test_who_decides_asks_now_and_everybody_learns_the_answer(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None"}
    look("1")
    slurm.mine["1"] = "PENDING||BeginTime"
    assert phases("1", max_age_s=0) == ["pending"]
    assert look("1") == ["pending"]
    clock.now += 20
    assert look("1") == ["pending"]
    assert slurm.calls == {"squeue": 2}


def test_a_new_job_forces_no_question_and_is_known_after_the_next(slurm, clock):
    slurm.mine = {"1": "RUNNING|n1|None"}
    look("1")
    slurm.mine["2"] = "PENDING||Priority"
    survey = SlurmCluster().survey([job("2")], max_age_s=30.0)
    assert survey.of(job("2")).phase == "unknown"
    assert survey.of(job("2")).reason == "Slurm has not said anything about it yet"
    assert slurm.calls == {"squeue": 1}
    clock.now += 30
    assert look("2") == ["pending"]


def test_a_colleague_s_job_is_asked_about_by_its_name_whoever_asks(slurm, clock):
    slurm.mine, slurm.others = {"1": "RUNNING|n1|None"}, {"9": "RUNNING|n2|None"}
    assert look("1", "9") == ["running", "running"]
    clock.now += 31
    slurm.others["9"] = "PENDING||Priority"
    assert look("1") == ["running"], "somebody else asks, who does not know job 9"
    assert look("9") == ["pending"]
    assert slurm.calls == {"squeue": 4}
    clock.now += 700
    look("1")
    assert slurm.calls == {"squeue": 5}, "nobody has watched it for ten minutes"


def test_many_unknown_jobs_cost_few_calls_and_are_forgotten_in_the_end(slurm, clock):
    slurm.refuses_lists = True
    slurm.others = {"2000": "RUNNING|n2|None"}
    unknown = [str(number) for number in range(1000, 1150)]
    for _ in range(60):
        before = slurm.calls["squeue"]
        assert phases("2000", *unknown, max_age_s=0)[0] == "running"
        assert slurm.calls["squeue"] - before <= 14
        clock.now += 31
        shared._answers.cache_clear()
    assert {*phases(*unknown, max_age_s=0)} == {"gone"}


def test_accounting_is_not_asked_about_jobs_whose_end_is_known(slurm):
    """A slurmdbd that hangs must not keep those waiting whose runs finished long ago."""
    assert phases("1", settled=[job("1")], max_age_s=0) == ["gone"]
    assert slurm.calls == {"squeue": 1}
    phases("1", "2", settled=[job("1")], max_age_s=0)
    assert slurm.calls == {"squeue": 3, "sacct": 1}


def test_a_controller_that_is_away_is_said_to_be(slurm):
    slurm.is_away, slurm.ends = True, {"1": "COMPLETED|n1"}
    survey = SlurmCluster().survey([job("1"), job("2")], max_age_s=0)
    assert [survey.of(job(name)).phase for name in "12"] == ["gone", "unknown"]
    assert survey.problem == asking.AWAY


@pytest.mark.parametrize(("is_away", "phase"), [(True, "unknown"), (False, "gone")])
def test_without_squeue_a_job_that_slurm_starts_again_may_be_alive(is_away, phase, slurm):
    """Accounting hears of a start later than of the end of the one before."""
    slurm.is_away, slurm.ends = is_away, {"1": "PREEMPTED|n1", "2": "CANCELLED by 0|n1", "3": "NODE_FAIL|n1"}
    assert phases("1", "2", "3", max_age_s=0) == [phase, "gone", phase]


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
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho squeue >> {tmp_path}/calls\nsleep 1\necho '1|RUNNING|n1|None'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    commands = [subprocess.Popen([sys.executable, "-c", LOOK], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [command.communicate(timeout=120)[0] for command in commands] == ["running\n"] * 4
    assert (tmp_path / "calls").read_text().split() == ["squeue"]
