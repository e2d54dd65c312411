"""A tuning in its folder (`tuned/ID` of a run), as a kind of sharded work of one shard. Loads no torch or numpy.

request.json, jobs.jsonl, shards/      see `cld_core.shards`
solution.json                          the result, `cld_core.solutions`
"""

import contextlib
import math

from cld_core import solutions
from cld_core.averages import snapshots
from cld_core.errors import NotFoundError
from cld_core.evaluate.reports import checkpoint_checksum
from cld_core.run import RunFolder
from cld_core.shards import WorkOfRun
from cld_core.solutions import Solution

from .request import TuneRequest


class Tuning(WorkOfRun):
    """One tuning to one checkpoint of ``run``."""

    command = "cldctl tune"
    computation = "cld_core.tune.computing:TuneComputation"
    request_type = TuneRequest
    called, doing, unit = "tuning", "tuning", "steps"
    request: TuneRequest

    @property
    def solution(self) -> Solution | None:
        """The result; None until there is one, of the run's present checkpoint if it still has it."""
        found, checksum = solutions.read(self.folder / solutions.FILE), None
        with contextlib.suppress(OSError):
            checksum = checkpoint_checksum(self.run, self.request.checkpoint_step)
        return found if found is not None and checksum in (None, found.checkpoint) else None

    @property
    def is_done(self) -> bool:
        return self.solution is not None

    def made_of(self, *, strict: bool = False) -> dict[str, str]:
        step = self.request.checkpoint_step
        checksum = checkpoint_checksum(self.run, step)
        if checksum is None and strict:
            raise self.gone(step, "Tune to another step")
        made_of = {"request": self.request.id}
        if self.request.ema_length is not None:
            made_of["averages"] = snapshots.fingerprint(self.run, step)
        if (neighbour := self.neighbour(checksum)) is not None:
            made_of["neighbour"] = neighbour.digest
        return made_of | ({} if checksum is None else {"checkpoint": checksum})

    def neighbour(self, checksum: str | None) -> Solution | None:
        """The solution to start from: of the next smaller number of evaluations that is solved for the same flow."""
        flow = ("eps", "denoise", "labels", "guidance", "guidance_from", "guidance_to", "ema_length")
        fewer = [
            one
            for one in solutions.in_run(self.run)
            if one.nfe < self.request.nfe
            and one.checkpoint == checksum
            and all(getattr(one, name) == getattr(self.request, name) for name in flow)
        ]
        return max(fewer, key=lambda one: (one.nfe, -one.rms.get(one.kept, math.inf)), default=None)


def tunings_of(run: RunFolder) -> list[Tuning]:
    """The tunings of a run; those that are damaged or of another version of cldctl are skipped."""
    works = []
    for name in run.tuning_names():
        with contextlib.suppress(NotFoundError):
            works.append(Tuning(run.tuned / name))
    return works
