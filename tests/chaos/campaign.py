"""A run, many events, and after each of them the question whether every promise was kept."""

import contextlib
import os
import threading
import time

import psutil

from cld_core.checkpoint import load
from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.run.checkpoints import verify
from cld_core.run.events import Ended, GivenUp, Remarked, Started
from cld_core.run.lease import newest
from cld_core.run.state import OVER
from tests.support.tools import same, wait_for

from .events import NAME, PATIENCE_S
from .stage import RANKS, processes_of, ranks_of

# Steps after which a run counts as training again.
STEPS = 20
EVERY = 100
# Heartbeats of a lease come every 5 seconds.
LEASE_S = 60.0
# Seconds in which `status` has to answer.
STATUS_S = 60.0


class Campaign:
    """One run, what is done to it, and every promise that was broken.

    Attributes:
        reached: by attempt, the last step that it was seen to report.
        broken: the promises, a line each.
    """

    def __init__(self, stage, rng):
        self.stage = stage
        self.faults = stage.faults
        self.rng = rng
        self.folder = RunFolder(stage.runs / NAME)
        self.reached = {}
        self.broken = []
        self._during = "before the first event"
        self._over = threading.Event()

    def run(self, events):
        """Do everything, print a line for each event, and return every promise that was broken."""
        self._began = time.monotonic()
        endless = (f"train.checkpoint_every={EVERY}", "train.steps=100000000")
        self.stage.submit(NAME, *endless, **self.faults.environment())
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        try:
            for number, event in enumerate(events):
                self._during = f"event {number}, {event.name}"
                self._apply(event)
            self._during = "at the end"
            self._finish()
        finally:
            self.faults.calm()
            self._over.set()
            watching.join()
        self._judge_the_ledger()
        return self.broken

    # --- what events do with the run
    # -------------------------------------------------------------------

    @property
    def slurm(self):
        """Only some campaigns have one."""
        return self.stage.lab.slurm

    @property
    def job(self):
        """The current one."""
        return str(self._attempts()[-1].job_id)

    def note(self, problem):
        """A promise was broken."""
        self.broken.append(f"{self._during}: {problem}")
        print(f"  BROKEN: {problem}", flush=True)

    def ranks(self):
        return {number: processes[0] for number, processes in ranks_of(self.folder).items()}

    def signal(self, number, *ranks):
        """Send a signal to these ranks, or to all; returns their processes."""
        hit = [process for rank, process in self.ranks().items() if not ranks or rank in ranks]
        for process in hit:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return hit

    def look(self):
        """The status, which has to come in time; whether it is right depends on the event."""
        began = time.monotonic()
        row = self.stage.status(NAME)
        if (took := time.monotonic() - began) > STATUS_S:
            self.note(f"status took {took:.0f} s")
        if row["state"] == "UNKNOWN":
            self.note(f"status failed: {row['reason']}")
        return row

    def until(self, condition, what):
        wait_for(condition, PATIENCE_S, what=what, last_seen=self.stage.describe)

    def ended(self):
        """Wait until nothing of the run is alive any more."""
        self.until(
            lambda: self.look()["state"] in OVER and not ranks_of(self.folder), f"{NAME} to end"
        )

    # --- event after event
    # -----------------------------------------------------------------------------

    def _apply(self, event):
        self._train(self.rng.randrange(2 * EVERY))
        first = self._attempts()[-1].attempt
        repair = event.do(self)
        # What comes late, as a preemption does, is waited for.
        least = first if None in event.causes else first + 1
        self._train(STEPS, since=dict(self.reached), ends=event.ends, least=least)
        if repair is not None:
            repair()
        if self.stage.lab is not None:
            self.slurm.restore_nodes()
        *over, last = [attempt for attempt in self._attempts() if attempt.attempt >= first]
        before = self.reached[first]
        after = before
        if over:
            steps = [(self.reached.get(attempt.attempt, 0), attempt.last_step) for attempt in over]
            before = max(max(reached, noted or 0) for reached, noted in steps)
            after = last.first_step
        causes = [attempt.cause for attempt in over] or [None]
        said = ", ".join(cause or "-" for cause in causes)
        print(f"{self._seconds():6.0f} s  {event.name}: {said}, {before} -> {after}", flush=True)
        allowed = (*event.causes, *(() if event.strict else ("killed",)))
        if not set(causes) <= set(allowed):
            self.note(f"the ledger says {said}")
        if event.saves and before - after > (0 if event.announced else 2 * EVERY):
            self.note(f"{before - after} steps were trained twice, from {after} to {before}")
        self._check(event)

    def _check(self, event):
        """What has to be true whenever the run trains again."""
        for step in self.folder.checkpoint_steps():
            try:
                verify(self.folder, step)
            except CldError as error:
                # Training may have removed it meanwhile.
                if step in self.folder.checkpoint_steps():
                    self.note(str(error))
        row = self.look()
        last = self._attempts()[-1]
        if row["state"] != "RUNNING" or row["attempts"][-1]["attempt"] != last.attempt:
            said = f"{row['state']} ({row.get('reason')})"
            self.note(f"status says {said} of a run that trains in attempt {last.attempt}")
        # A checkpoint may be later than the last report.
        if row.get("step", 0) > max(*self.reached.values(), row.get("checkpoint_step") or 0):
            self.note(f"status says step {row['step']}, which was not reached")
        if event.strict:
            before = self._sign_of_life()
            try:
                wait_for(lambda: self._sign_of_life() != before, LEASE_S)
            except AssertionError:
                self.note("the lease is not renewed any more, though the run trains")

    def _sign_of_life(self):
        """What changes whenever the owner of the run renews its lease."""
        number = newest(self.folder.leases)[0]
        stat = os.stat(self.folder.leases / f"{number:08d}.json")
        return number, stat.st_ino, stat.st_mtime_ns

    def _train(self, steps, *, since=None, ends=False, least=0):
        """Until the newest attempt, of number ``least`` or more, has done so many steps, ``since``
        some moment.

        A run that ended is resumed: where its cluster starts it again, that is a broken promise.
        """
        moved = time.monotonic()
        seen = None
        resumed = 0

        def trains():
            nonlocal moved, seen, resumed, ends
            attempts = self._attempts()
            if attempts and attempts[-1].cause is None:
                number = attempts[-1].attempt
                first = attempts[-1].first_step
                step = self.reached.get(number, first)
                enough = max(first, (since or {}).get(number, first)) + steps
                if number >= least and step >= enough and self._is_alone():
                    return True
                if seen != (number, step):
                    seen = (number, step)
                    moved = time.monotonic()
            if time.monotonic() - moved < 3.0:
                return False
            moved = time.monotonic()
            row = self.stage.status(NAME)
            if row["state"] in OVER and not ranks_of(self.folder):
                if self.stage.comes_back and not ends:
                    self.note(
                        f"the run ended and did not come back: {row['state']}, {row.get('reason')}"
                    )
                ends = False
                done = self.stage.cldctl("resume", NAME, **self.faults.environment())
                resumed += 1
                if done.returncode != 0:
                    self.note(f"resume ended with {done.returncode}: {done.stderr[-1500:]}")
                assert resumed <= 3, (
                    f"resumed {resumed} times in vain: {done.stderr}\n{self.stage.describe()}"
                )
            return False

        self.until(trains, "the run to train again")

    def _is_alone(self):
        """Whether each rank is one process, and none is left of earlier attempts."""
        ranks = ranks_of(self.folder)
        return sorted(ranks) == list(range(RANKS)) and all(
            len(processes) == 1 for processes in ranks.values()
        )

    def _finish(self):
        """Cancel the endless run, resume it with few steps left, and compare it with a calm run."""
        self._train(STEPS)
        self._must("cancel", NAME)
        step = self._end_of(NAME)["step"]
        steps = f"train.steps={step + 2 * EVERY}"
        self._must("resume", NAME, steps)
        final = self._end_of(NAME)
        if final["state"] != "FINISHED" or final["step"] != final["steps"]:
            self.note(f"the run did not finish: {final}")
        print(f"{self._seconds():6.0f} s  the same without events, {steps}", flush=True)
        whole = self.stage.submit(
            "twin", f"train.checkpoint_every={step}", steps, CLDCTL_TEST_PACE="0"
        )
        assert self._end_of("twin")["state"] == "FINISHED"
        if not same(*(load(run, run.checkpoint_steps()[-1]) for run in (self.folder, whole))):
            self.note("the run ended with other numbers than its undisturbed twin")
        if self.stage.lab is not None:
            # One that the last event took away may have been declared down since.
            self.slurm.restore_nodes()
            self.slurm.wait_idle(PATIENCE_S)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not processes_of(self.stage.runs), 30)
        for process in processes_of(self.stage.runs):
            self.note(f"left behind: {process}")

    def _must(self, *arguments):
        done = self.stage.cldctl(*arguments)
        assert done.returncode == 0, (
            f"{done.returncode}\n{done.stdout}\n{done.stderr}\n{self.stage.describe()}"
        )

    def _end_of(self, name):
        """The status once a run is over."""

        def over():
            row = self.stage.status(name)
            return row["state"] in OVER and not ranks_of(RunFolder(self.stage.runs / name)) and row

        return wait_for(
            over, 2 * PATIENCE_S, 0.5, what=f"{name} to end", last_seen=self.stage.describe
        )

    def _attempts(self):
        return self.folder.ledger.history().attempts

    def _seconds(self):
        return time.monotonic() - self._began

    # --- what is seen from outside
    # ---------------------------------------------------------------------

    def _watch(self):
        """How far the run gets, and what is saved when, independently of its ledger."""
        saved = 0
        begun = set[int]()
        writer = -1
        while not self._over.wait(0.05):
            # In this order: what was saved at the last look was there before an attempt that is new
            # now.
            saved_before = saved
            saved = max([saved, *self.folder.checkpoint_steps()])
            for attempt in self._attempts():
                if attempt.attempt not in begun and attempt.first_step < saved_before:
                    self.note(
                        f"attempt {attempt.attempt} began at {attempt.first_step}, but "
                        f"{saved_before} was saved"
                    )
                begun.add(attempt.attempt)
            if progress := self.folder.progress():
                number = int(progress["attempt"])
                self.reached[number] = max(self.reached.get(number, 0), int(progress["step"]))
                if number < writer:
                    self.note(f"attempt {number} wrote its progress after attempt {writer}")
                writer = number

    def _judge_the_ledger(self):
        newest_attempt = -1
        for event in self.folder.ledger.events():
            match event:
                case Started():
                    if event.attempt <= newest_attempt:
                        self.note(f"attempt {event.attempt} began after attempt {newest_attempt}")
                    newest_attempt = max(newest_attempt, event.attempt)
                case Ended() if event.attempt < newest_attempt:
                    self.note(
                        f"attempt {event.attempt} noted its end after attempt {newest_attempt} had "
                        f"begun"
                    )
                case Remarked(kind="damaged"):
                    self.note(f"the checkpoint of {event.what} is damaged: {event.reason}")
                case GivenUp():
                    self.note(f"the run was given up: {event.reason}")
