"""A made-up Slurm behind the clients that commands call, and clients that are shell scripts."""

import os
from collections import Counter

from cldctl.clusters.slurm import client, poll
from cldctl.clusters.slurm.client import Reply
from tests.support.tools import program


class Scheduler:
    """Jobs by id: what squeue shows of them ("RUNNING|n1|None"), mine and those of others, and what
    accounting knows.

    Attributes:
        calls: how often each client was called, and ``asked`` each call.
        takes_s: how long squeue takes to answer.
        is_away: it does not answer at all.
        refuses_lists: it refuses to name several jobs if it does not know one of them.
    """

    def __init__(self, clock):
        self.clock = clock
        self.mine = {}
        self.others = {}
        self.ends = {}
        self.calls = Counter()
        self.asked = []
        self.takes_s = 0.0
        self.is_away = False
        self.refuses_lists = False

    def __call__(self, command, stdin="", **options):
        self.calls[command[0]] += 1
        self.asked.append(list(command))
        self.clock.now += self.takes_s
        if command[0] == "sacct":
            return self._sacct(command[-1].split(","))
        if command[0] != "squeue":
            return Reply(0, "")
        if self.is_away:
            return Reply(1, "slurm_load_jobs error: Unable to contact slurm controller", away=True)
        if "--me" in command:
            return Reply(0, self._lines(self.mine))
        (names,) = [
            word.partition("=")[2].split(",") for word in command if word.startswith("--jobs=")
        ]
        known = self.mine | self.others
        if not {*names} <= known.keys() and (self.refuses_lists or len(names) == 1):
            return Reply(1, "slurm_load_jobs error: Invalid job id specified")
        return Reply(0, self._lines({name: known[name] for name in names if name in known}))

    def _sacct(self, names):
        if self.ends is None:
            return Reply(1, "sacct: error: Problem talking to the database")
        ends = {job: end for job, end in self.ends.items() if job.split("_")[0] in names}
        return Reply(0, self._lines(ends))

    @staticmethod
    def _lines(jobs):
        return "".join(f"{job}|{text}\n" for job, text in jobs.items())


def register(monkeypatch, clock):
    """Let commands of this test ask a made-up Slurm."""
    scheduler = Scheduler(clock)
    monkeypatch.setattr(client, "run", scheduler)
    monkeypatch.setattr(poll, "time", clock)
    monkeypatch.delenv("CLDCTL_ASK_EVERY_S", raising=False)
    return scheduler


def clients(folder, monkeypatch, lines="exit 1"):
    """Clients of Slurm on PATH: each notes how it was called in the file that is returned, then
    does ``lines``."""
    place = folder / "bin"
    calls = folder / "called"
    for name in ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel"):
        program(place / name, f'#!/bin/sh\necho {name} "$@" >> {calls}\n{lines}\n')
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return calls
