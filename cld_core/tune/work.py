"""A tuning in its folder (`tuned/ID` of a run), as a kind of sharded work of one shard. Loads no torch or numpy.

request.json, jobs.jsonl, shards/      see `cld_core.shards`
solution.json                          the result, `cld_core.solutions`
"""

import contextlib

from cld_core import solutions
from cld_core.checkpoint.files import weights_digest
from cld_core.errors import NotFoundError
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
            checksum = weights_digest(self.run, self.request.checkpoint_step)
        return found if found is not None and checksum in (None, found.checkpoint) else None

    @property
    def is_done(self) -> bool:
        return self.solution is not None

    def made_of(self, *, strict: bool = False) -> dict[str, str]:
        step = self.request.checkpoint_step
        checksum = weights_digest(self.run, step)
        if checksum is None and strict:
            raise self.gone(step, "Tune to another step")
        made_of = {"request": self.request.id}
        length = self.request.ema_length
        if length is not None and (averages := weights_digest(self.run, step, length)) is not None:
            made_of["averages"] = averages
        return made_of | ({} if checksum is None else {"checkpoint": checksum})


def tunings_of(run: RunFolder) -> list[Tuning]:
    """The tunings of a run; those that are damaged or of another version of cldctl are skipped."""
    works = []
    for name in run.tuning_names():
        with contextlib.suppress(NotFoundError):
            works.append(Tuning(run.tuned / name))
    return works
