"""What Slurm's clients print, cut, garbled or new: every reader copes, and no live job looks gone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cld_core.run.events import JobRef
from cldctl.clusters.records import DoctorOptions, MeasuredSaves
from cldctl.clusters.slurm import asking, client, doctor, inside, limits, node_probe, polling, shared
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster

from .campaign import Target
from .mutations import ODD_VALUES, changed, damaged

PRINTED = {
    "squeue": "12|RUNNING|n[1-2]|None\n13_4|PENDING||Priority\n13_5|COMPLETING|n3|None\n14|CANCELLED|n1|None\n",
    "submitted": "12|2026-11-25T00:57:43\n13|2026-11-25T01:57:43\n",
    "sacct": "12|PREEMPTED|n1\n12|NODE_FAIL|n1\n12|CANCELLED by 0|n2\n14|COMPLETED|n1\n",
    "job": "JobId=12 JobName=toy Requeue=1 Restarts=1 ExitCode=0:0 JobState=RUNNING Reason=None "
    "EndTime=2026-11-25T00:57:43 PreemptTime=None ExcNodeList=(null) Comment=a=b\n",
    "config": "SLURM_VERSION = 23.11.4\nClusterName = c\nPreemptType = preempt/qos\nPreemptMode = GANG,REQUEUE\n"
    "KillWait = 30 sec\nJobRequeue = 1\nSlurmctldParameters = preempt_send_user_signal\nMaxArraySize = 1001\n",
    "partition": "PartitionName=low Default=YES State=UP Nodes=n[1-2] PriorityTier=1 PreemptMode=REQUEUE GraceTime=90 "
    "DefaultTime=01:00:00 MaxTime=2-00:00:00\nPartitionName=high PriorityTier=9 MaxTime=UNLIMITED\n",
    "qos": "normal||cluster|00:00:00\nhigh|normal|REQUEUE|00:01:30\n",
    "log": "error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO TIME LIMIT ***\nslurmstepd: oom_kill\n",
}
ANSWER = {
    **{
        "host": "n1",
        "node": "n1",
        "python": "3.12.1",
        "file_system": "nfs",
        "unresolved": ["n2"],
        "own_address": "::1",
    },
    **{"interfaces": ["lo", "eth0"], "variables": {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "ib0"}},
}
PHASES = {"pending", "running", "suspended", "ending", "gone", "unknown"}


def _odd(rng: random.Random, text: str) -> str:
    """The text, often cut, garbled, or with an odd word in it."""
    match rng.randrange(5):
        case 0:
            return text
        case 1:
            return text[: rng.randrange(len(text) + 1)]
        case 2:
            return damaged(rng, text.encode()).decode(errors="replace")
        case 3:
            separator = rng.choice(("|", " ", "=", "\n", ":"))
            words = text.split(separator)
            words[rng.randrange(len(words))] = str(rng.choice([value for value in ODD_VALUES if value != 10**400]))
            return separator.join(words)
        case _:
            return "".join(rng.choice(list(PRINTED.values())) for _ in range(rng.randrange(3)))


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    printed = {name: _odd(rng, text) for name, text in PRINTED.items()}
    answer = changed(rng, ANSWER) if rng.random() < 0.7 else ANSWER
    try:
        (folder / node_probe.ANSWER).write_text(json.dumps(answer), errors="replace")
    except (RecursionError, TypeError, ValueError):
        (folder / node_probe.ANSWER).write_text("[" * 5000)

    cut_off = printed["squeue"][-1:] not in ("", "\n")
    printed["sacct"] = "" if cut_off else printed["sacct"]

    def run(command: Any, stdin: str = "") -> Answer:
        words = {"show": {"config": "config", "partition": "partition", "job": "job"}}
        if command[0] == "squeue":
            by_name = any(word.startswith("--name=") for word in command)
            return Answer(0, printed["submitted" if by_name else "squeue"])
        if command[0] == "sacct":
            return Answer(0, printed["sacct"])
        if command[0] == "sacctmgr":
            return Answer(0, printed["qos"])
        if command[0] == "sbatch":
            return Answer(0, "12\n")
        for word, name in words["show"].items():
            if word in command:
                return Answer(0, printed[name])
        return Answer(0, "n1\nn2\n")

    def case() -> None:
        jobs = [JobRef(cluster="slurm", job_id=name) for name in ("12", "13_4", "13_5", "14", "15")]
        own = shared.Answers(None, None)
        with mock.patch.object(client, "run", run), mock.patch.object(asking, "answers", return_value=own):
            survey = SlurmCluster().survey(jobs, max_age_s=0)
            assert {survey.of(job).phase for job in jobs} <= PHASES
            if (
                printed["sacct"] == ""
                and PRINTED["squeue"].startswith(printed["squeue"])
                and printed["squeue"][-1:] != "\n"
            ):
                alive = [job for job in jobs[:3] if printed["squeue"]]
                assert all(survey.of(job).phase != "gone" for job in alive), "cut off, not gone"
            client.submitted_since("toy", 0.0)
            job = client.show_job("12")
            inside._seconds_left(job), inside._limit_reached(job), client.restarts_of(job)
            client._waits("12", 0)
            limits.most_tasks.cache_clear()
            limits.most_tasks()
            polling.states_of_starts("12")
            polling.notice_in(printed["log"])
            saves = MeasuredSaves(slowest_s=3.0, notice_s=90)
            assert list(doctor.checks(folder, DoctorOptions(job=False), saves))
            known = node_probe._answer(folder)
            found = node_probe.Probe("answered", "12", job=job, answer=known if known is not None else ANSWER)
            assert list(doctor._answered(found, 2))
            if job.get("JobState") != "COMPLETED":
                doctor._without_an_answer(node_probe._without_an_answer(folder, "12", job), folder)

    return case


TARGET = Target("slurm_output", _make)
