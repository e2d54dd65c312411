"""A batch script under bash, with shell scripts for Slurm's clients and the Python of the trap."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters.base import JobSpec
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.support.tools import program

LIMIT = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO TIME LIMIT ***"
NODES = "n[1-2],m7"
BEGUN = "--- start 0 of job 7: rank 0 on n1 ---"
# What scontrol answers, by line of the file `looks` or `requests`; the last line is for all calls
# that follow.
SCONTROL = """
next() {
    answer=$(head -n1 "$1")
    [ "$(wc -l <"$1")" = 1 ] || sed -i 1d "$1"
    case $answer in
    away) echo "Unable to contact slurm controller (connect failure)"; exit 1 ;;
    late) exit 137 ;;
    missing) exit 127 ;;
    nowhere) echo "fatal: Could not establish a configuration source"; exit 1 ;;
    refused) echo "Invalid job id specified"; exit 1 ;;
    esac
}
case "$*" in
*"show job"*) next looks; echo "JobId=7 JobState=$answer $ABOUT Partition=low ExcNodeList=$EXCLUDED Features=(null)" ;;
"show hostnames"*) printf '%s\\n' n1 n2 m7 ;;
update*) ;;
*) next requests; sed 's/^/scontrol: /' >>called ;;
esac
"""
CLIENTS = {
    "scontrol": SCONTROL,
    # With Pyxis, the Python of the trap is behind a second one.
    "srun": (
        'case "$*" in *--overlap*) while [ "${1##*/}" != python ]; do shift; done; exec "$@" '
        ";; esac\n"
    ),
    "timeout": '[ "${1#-}" = "$1" ] || shift; shift; exec "$@"',
    **dict.fromkeys(("python", "sbatch", "scancel", "squeue", "sinfo", "sleep"), ""),
}


@dataclass
class Start:
    """How a start ended: the exit code of its script, what its log says, and each call, with what
    was read."""

    code: int
    log: str
    called: list[str]

    def of(self, client):
        return [
            call.removeprefix(client).strip() for call in self.called if call.split()[0] == client
        ]

    @property
    def requests(self):
        return self.of("scontrol:")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the script of job 7; ``clients`` are lines of shell."""
    bin_ = tmp_path / "bin"
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "7_0_log.err").write_text(f"{BEGUN}\n{LIMIT}\n")
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(bin_ / "python"))

    def call(
        wish="", looks="RUNNING", requests="ok", excluded="(null)", env=None, size=None, **clients
    ):
        says = f"echo '{wish}' >logs/7_wish_0\n" if wish else ""
        clients["srun"] = CLIENTS["srun"] + says + clients.get("srun", "")
        for name, lines in {**CLIENTS, **clients}.items():
            program(bin_ / name, f'#!/bin/bash\necho {name} "$@" >>called\n{lines}\n')
        for name, answers in (("looks", looks), ("requests", requests)):
            (tmp_path / name).write_text("".join(f"{answer}\n" for answer in answers.split()))
        (tmp_path / "called").write_text("")
        spec = JobSpec(
            name="mine", logs=logs, size=ClusterSpec(**size or {}), aftermath=("aftermath", "it")
        )
        (tmp_path / "script").write_text(SlurmCluster().script(spec))
        with (logs / "7_0_log.err").open("a+") as log:
            variables = {
                "PATH": os.environ["PATH"],
                "SLURM_JOB_ID": "7",
                "EXCLUDED": excluded,
                **(env or {}),
            }
            done = subprocess.run(
                ["bash", "script"], cwd=tmp_path, env=variables, stderr=log, stdout=log, check=False
            )
            log.seek(0)
            return Start(
                done.returncode, log.read(), (tmp_path / "called").read_text().splitlines()
            )

    return call


@pytest.mark.parametrize(
    ("wish", "how", "requests"),
    [
        ("", {}, []),
        ("delay 0", {}, ["requeue 7"]),
        ("delay 20", {}, ["requeue 7", "update jobid=7 starttime=now+20"]),
        (
            "delay 0\navoid n9",
            {"excluded": NODES},
            ["requeue 7", "update jobid=7 excnodelist=m7,n1,n2,n9"],
        ),
        (
            "delay 0\nreadmit n2,m7",
            {"excluded": NODES},
            ["requeue 7", "update jobid=7 excnodelist=n1"],
        ),
        (
            "delay 0\nreadmit n1,n2,m7",
            {"excluded": NODES},
            ["requeue 7", "update jobid=7 excnodelist="],
        ),
        ("delay 0", {"looks": "COMPLETING", "srun": f"echo '{LIMIT}' >&2"}, ["requeue 7"]),
        ("delay 0\nonly limit", {"srun": f"echo '{LIMIT}' >&2"}, ["requeue 7"]),
        # An earlier request was heard late.
        ("delay 0", {"looks": "RUNNING PENDING", "requests": "refused"}, []),
    ],
)
def test_a_wish_is_carried_out(start, wish, how, requests):
    end = start(wish, **how)
    assert (end.requests, end.code, end.of("python")) == (requests, 0, [])


@pytest.mark.parametrize(
    ("wish", "how", "why"),
    [
        ("delay 0", {"looks": "COMPLETING"}, "it is COMPLETING"),
        ("delay 0", {"srun": "touch logs/7_cancelled"}, "it was cancelled"),
        ("delay 0", {"looks": "RUNNING COMPLETING", "requests": "away ok"}, "it is COMPLETING"),
    ],
)
def test_what_was_cancelled_stays_so(start, wish, how, why):
    """Notices about the time limits of earlier starts are in the log."""
    assert start("delay 0\nonly limit").requests == []
    end = start(wish, **how)
    assert f"job 7 does not start again: {why}\n" in end.log
    assert (end.requests, end.code) == ([], 0)
    if why == "it was cancelled":
        assert start().of("srun") == [], "nor at its next start"


def test_who_was_told_to_end_without_knowing_why_learns_it_from_outside(start):
    """By the notice in the log and by what Slurm said, as a container may have no client; `cancel`
    knows it itself."""
    end = start("delay 0\nonly limit", looks="COMPLETING")
    assert (end.of("python"), end.requests, end.code) == (["-m aftermath it 0 told"], [], 0)
    end = start("delay 0\nonly limit", looks="COMPLETING", srun="touch logs/7_cancelled")
    assert end.of("python") == []


def test_a_scheduler_that_is_away_is_asked_until_it_answers(start):
    end = start("delay 0", looks="away late away away RUNNING", requests="away ok", srun="exit 143")
    assert end.of("sleep") == ["2", "4", "8", "10", "10"]
    assert end.log.count("is not requeued yet: Unable to contact") == 4
    assert "is not requeued yet: scontrol gave no answer within 20 s" in end.log
    assert (end.requests, end.code) == (["requeue 7"], 143)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"looks": "missing"}, "there is no scontrol on this node"),
        ({"looks": "nowhere"}, "fatal: Could not establish a configuration source"),
        ({"requests": "refused"}, "Invalid job id specified"),
        (
            {"looks": "away", "size": {"setup": ("sleep() { SECONDS=$((SECONDS + 1300)); }",)}},
            "Unable to contact",
        ),
    ],
)
def test_a_job_that_cannot_be_requeued_says_so_and_ends_badly(start, how, why):
    end = start("delay 0", **how)
    (asked,) = end.of("python")
    assert asked.startswith(f"-m aftermath it 0 refused {why}")
    assert f"job 7 could not be requeued: {why}" in end.log
    assert (end.requests, end.code) == ([], 7)


def test_of_an_array_one_task_begins_again(start):
    end = start(
        env={"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"},
        srun="[ ! -e logs/6_2_wish_0 ] && echo 'delay 20' >logs/6_2_wish_1",
    )
    assert end.requests == ["requeue 6_2", "update jobid=6_2 starttime=now+20"]
    assert end.of("scontrol")[0] == "--oneliner show job 6_2", (
        "the number of one task is that of the array, too"
    )


def test_a_wish_of_an_earlier_start_counts_for_nothing(start, tmp_path):
    for restart in (0, 1):
        (tmp_path / "logs" / f"7_wish_{restart}").write_text("delay 0\n")
    assert start(env={"SLURM_RESTART_COUNT": "1"}).requests == []


AGAIN = ["requeue 7", "update jobid=7 starttime=now+10"]


@pytest.mark.parametrize(
    ("srun", "python", "requests"),
    [
        ("exit 137", "", []),
        (
            "exit 137",
            "echo 'delay 30' >logs/7_wish_0",
            ["requeue 7", "update jobid=7 starttime=now+30"],
        ),
        # It cannot be asked, or it sees no files.
        (f"echo '{BEGUN}' >&2; exit 137", "exit 1", AGAIN),
        ("exit 137", "exit 1", []),
        ("exit 137", "exit 9", AGAIN),
        *((f"echo '{BEGUN}' >&2; exit {code}", "exit 1", []) for code in (2, 3, 6, 7)),
    ],
)
def test_python_is_asked_what_follows_a_bad_end(start, srun, python, requests):
    before = len(f"{BEGUN}\n{LIMIT}\n")
    end = start(srun=srun, python=python)
    code = int(srun.split()[-1])
    assert end.of("python") == [f"-m aftermath it {code} work {before}"]
    assert (end.requests, end.code) == (requests, code)


def test_python_sees_the_nodes_without_a_client(start, tmp_path):
    start(srun="exit 1", excluded=NODES, sinfo="echo 'n1|low|idle|(null)'")
    excluded, _, rows = (tmp_path / "logs/7_nodes").read_text().partition("--\n")
    assert excluded.split() == ["n1", "n2", "m7"]
    assert rows == "n1|low|idle|(null)\n"


def test_of_a_cancelled_job_nobody_asks_what_follows(start):
    end = start(srun="exit 143", looks="COMPLETING")
    assert (end.of("python"), end.requests, end.code) == ([], [], 143)


@pytest.mark.parametrize(("restart", "delay"), [(0, 10), (5, 320), (49, 600), (50, None)])
def test_a_job_whose_files_nobody_can_write_begins_again_so_often(start, restart, delay):
    """A rank could not write down what it wishes for."""
    end = start(srun="exit 9", env={"SLURM_RESTART_COUNT": str(restart)})
    assert end.requests == (["requeue 7", f"update jobid=7 starttime=now+{delay}"] if delay else [])
    assert ("was started 51 times" in end.log, end.of("python")) == (delay is None, [])


def test_in_a_container_of_pyxis_the_trap_asks_through_srun(start):
    end = start(srun="exit 1", size={"srun_args": ("--container-image=x.sqsh", "--mpi=none")})
    assert end.of("srun")[1].startswith("--nodes=1 --ntasks=1 --overlap --container-image=x.sqsh /")
    assert len(end.of("python")) == 1


@pytest.mark.parametrize(
    ("setup", "code", "line"),
    [
        (("true", "false # it"), 1, ", in line: false # it\n"),
        (("f() { (exit 5); }", "if true; then", "  f", "fi"), 5, ", in line:   f\n"),
        (("set -u", "echo $NOWHERE"), 1, "\n"),
        (("exit 0",), 1, "\n"),
        (("exit 5",), 5, "\n"),
    ],
)
def test_a_setup_line_that_fails_ends_the_job_and_is_named(start, setup, code, line):
    end = start(size={"setup": setup})
    assert (
        f"job 7 ended in cluster.setup with code {0 if setup == ('exit 0',) else code}{line}"
        in end.log
    )
    assert (end.code, end.of("srun"), len(end.of("python"))) == (code, [], 1)


@pytest.mark.parametrize(("says", "asks"), [(f"echo '{LIMIT}' >&2", 1), ("true", 0)])
def test_a_setup_that_is_told_to_end(start, says, asks):
    """By the time limit, or by its user."""
    end = start(
        looks="COMPLETING",
        size={"setup": (says, "kill -TERM $$")},
        python="echo 'delay 10' >logs/7_wish_0",
    )
    assert (end.code, end.of("srun"), len(end.of("python"))) == (143, [], asks)
    assert end.requests == AGAIN * asks
    assert "ended in cluster.setup" not in end.log


def test_after_the_setup_the_script_outlives_a_signal(start):
    end = start(
        "delay 0",
        srun="kill -TERM $PPID; exit 3",
        size={"setup": ("set -euo pipefail", "IFS=,", "set -f")},
    )
    assert (end.requests, end.code) == (["requeue 7"], 3)


def test_what_ranks_and_trap_inherit(start):
    """Also where jobs get no variables of the command that submits them."""
    says = 'echo "${SLURM_EXPORT_ENV-none} $PYTHONSAFEPATH $CLDCTL_SIGNAL_S" >>called'
    end = start(env={"SLURM_EXPORT_ENV": "NONE"}, srun=f"{says}; exit 1", python=says)
    assert end.called.count("none 1 90") == 2


def succeeded(start, folder, job="7", **how):
    (folder / f"logs/{job}_submitted.pkl").write_text("pickled")
    how = {
        "sbatch": "echo 'sbatch: welcome' >&2; echo '8;cluster'",
        "size": {"successor": True},
        **how,
    }
    return start(**how)


def test_a_successor_waits_for_the_job_to_fail(start, tmp_path):
    """What waits for the job waits for its successor, too."""
    waiting = "printf '%s\\n' '9|afterany:7(unfulfilled)' '10|afterany:70(unfulfilled)' '11|'"
    end = succeeded(start, tmp_path, excluded="n[1-2]", squeue=waiting)
    (asked,) = end.of("sbatch")
    assert (
        asked
        == "--parsable --dependency=afternotok:7 --kill-on-invalid-dep=yes --exclude=n[1-2] script"
    )
    assert (tmp_path / "logs/8_submitted.pkl").read_text() == "pickled"
    assert end.requests == ["update jobid=9 dependency=afterany:8"]
    assert (len(end.of("srun")), end.of("scancel")) == (1, [])
    assert succeeded(start, tmp_path, looks="PENDING RUNNING").of("sbatch") == [], (
        "it waits at the next start"
    )
    assert len(succeeded(start, tmp_path, looks="CANCELLED RUNNING").of("sbatch")) == 1, (
        "and if not, another one does"
    )


def test_the_successor_of_a_task(start, tmp_path):
    env = {
        "SLURM_ARRAY_JOB_ID": "6",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_CONF": "here",
        "SLURM_NTASKS": "4",
    }
    end = succeeded(start, tmp_path, "6_2", env=env, sbatch="env | grep ^SLURM_ >>called; echo 8")
    (asked,) = end.of("sbatch")
    assert "--dependency=afternotok:6_2 " in asked
    assert " --array=2 script" in asked
    assert (tmp_path / "logs/6_2_successor").read_text() == "8_2\n"
    assert (tmp_path / "logs/8_2_submitted.pkl").exists()
    assert [call for call in end.called if call.startswith("SLURM_")] == ["SLURM_CONF=here"]


def test_a_job_goes_on_without_a_successor_that_is_refused(start, tmp_path):
    end = succeeded(start, tmp_path, sbatch="echo 'sbatch: error: no more jobs' >&2; exit 1")
    assert "job 7 has no successor: sbatch: error: no more jobs" in end.log
    assert (end.code, len(end.of("srun"))) == (0, 1)
    assert not (tmp_path / "logs/7_successor").exists()


PREEMPTED = "PreemptTime=2026-11-25T00:00:00 Reason=None"
LATE, OTHER = (f"PreemptTime=None Reason={reason}" for reason in ("TimeLimit", "DeadLine"))


@pytest.mark.parametrize(
    ("how", "begins"),
    [
        ({"looks": "COMPLETING", "srun": "exit 143"}, False),
        ({"looks": "COMPLETING", "srun": "exit 143", "env": {"ABOUT": PREEMPTED}}, True),
        ({"looks": "COMPLETING", "srun": "exit 143", "env": {"ABOUT": LATE}}, True),
        ({"looks": "COMPLETING", "srun": "exit 143", "env": {"ABOUT": OTHER}}, True),
        ({"looks": "COMPLETING", "srun": f"echo '{LIMIT}' >&2; exit 143"}, True),
        (
            {
                "looks": "COMPLETING",
                "srun": "touch logs/7_cancelled; exit 143",
                "env": {"ABOUT": PREEMPTED},
            },
            False,
        ),
        ({"srun": "exit 1"}, False),
        ({"looks": "away", "srun": "exit 1"}, True),
        # Slurm knows that it is not needed.
        ({}, True),
        ({"wish": "delay 0", "looks": "RUNNING COMPLETING"}, True),
    ],
)
def test_a_successor_is_for_a_job_that_was_taken_away(start, tmp_path, how, begins):
    file = tmp_path / "logs/7_successor"
    file.write_text("8\n")
    assert (start(**how).of("scancel"), file.exists()) == (([], True) if begins else (["8"], False))


@pytest.mark.parametrize(
    ("looks", "how", "begins"),
    [
        ("CANCELLED RUNNING", {}, False),
        ("CANCELLED RUNNING", {"ABOUT": PREEMPTED}, True),
        ("FAILED RUNNING", {}, True),
        ("RUNNING", {"SLURM_RESTART_COUNT": "1"}, True),
    ],
)
def test_a_successor_does_not_follow_a_job_that_was_cancelled(start, tmp_path, looks, how, begins):
    """The batch script of that one was killed before it could cancel this one."""
    (tmp_path / "logs/6_successor").write_text("7\n")
    end = succeeded(start, tmp_path, looks=looks, env=how)
    asked = [] if begins else ["-m aftermath it 0 withdrawn"]
    assert (end.of("python"), end.code) == (asked, 0)
    assert [len(end.of(client)) for client in ("srun", "sbatch")] == [begins, begins]
