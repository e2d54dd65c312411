"""An evaluation in its folder (`evals/ID` of a run), as a kind of sharded work. Loads no torch or numpy.

request.json, jobs.jsonl, shards/      see `cld_core.shards`
report.json, samples.png               the results
"""

import contextlib
from typing import Any

from cld_core.checkpoint.files import weights_digest
from cld_core.errors import NotFoundError
from cld_core.files import by_age
from cld_core.run import RunFolder
from cld_core.shards import WorkOfRun

from . import registry
from .reports import current_report
from .request import EvalRequest


class Evaluation(WorkOfRun):
    """One evaluation of one checkpoint of ``run``."""

    command = "cldctl eval"
    computation = "cld_core.evaluate.computing:EvalComputation"
    request_type = EvalRequest
    called, doing = "evaluation", "evaluating"
    request: EvalRequest

    @property
    def report(self) -> dict[str, Any] | None:
        """The results; None until there are some of the run's present checkpoint."""
        return current_report(self.folder)

    @property
    def is_done(self) -> bool:
        return self.report is not None

    def made_of(self, *, strict: bool = False) -> dict[str, str]:
        step, length = self.request.checkpoint_step, self.request.ema.length
        checksum = weights_digest(self.run, step)
        if checksum is None and strict:
            raise self.gone(step, "What was computed is kept; use another step")
        made_of = {"request": self.request.id, **registry.row_versions(self.request.sizes)}
        if length is not None and (averages := weights_digest(self.run, step, length)) is not None:
            made_of["averages"] = averages
        return made_of | ({} if checksum is None else {"checkpoint": checksum})


def evaluations_of(run: RunFolder) -> list[Evaluation]:
    """The evaluations of a run, oldest first; those that are damaged or of another version of cldctl are skipped."""
    works = []
    for file in by_age(run.evals / name / "request.json" for name in run.evaluation_names()):
        with contextlib.suppress(NotFoundError):
            works.append(Evaluation(file.parent))
    return works
