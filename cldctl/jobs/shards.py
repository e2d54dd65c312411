"""The work of a task that computes shards, of evaluations and of statistics alike."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import CldError
from cld_core.files import forgive_output
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Event, Failed, GivenUp, Remarked
from cld_core.run.work import open_work, use_plugins
from cld_core.sanitize import one_line
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob, Wish
from cldctl.evals.results import write_finished

from . import hooks, process
from .process import NOTE_WITHIN_S, one_line_errors

_MAX_REASON = 500  # characters


@dataclass(frozen=True)
class Piece:
    """Shards of the work in a folder."""

    folder: str
    shards: tuple[int, ...]


@dataclass(frozen=True)
class ShardsWork:
    """Compute pieces of sharded work. Pickled by the launcher, so it holds paths, texts and numbers
    only.

    Attributes:
        code: the digest of the code that was to be imported when it was submitted; None to take
            any.
    """

    pieces: tuple[Piece, ...]
    gpu: bool
    code: str | None = None

    def __call__(self, job: InJob, stop: StopFlag) -> None:
        offset = process.log_size(job)
        if not job.in_process:
            forgive_output()
        process.begin(job)
        for piece in self.pieces:
            process.readable(Path(piece.folder, "request.json"))
        process.stop_before_limit(job, stop)
        self._compare_code(job)
        with one_line_errors(job):
            for piece in self.pieces:
                use_plugins(Path(piece.folder))
        folders = [Path(piece.folder) for piece in self.pieces]
        with hooks.settled(job, lambda: hooks.tell_of_works(folders)), one_line_errors(job):
            is_done = self._compute(job, stop)
        if is_done or not job.ref.restarts:
            return
        # A notice of the limit always means to continue.
        cause = "timeout" if stop.code is StopCode.USR2 else job.cause_of(stop.code, offset)
        if cause == "timeout":
            with process.written_down(job):
                job.wish(Wish())
        else:
            process.wish_after_term(job, cause)

    def _compare_code(self, job: InJob) -> None:
        """Warn of code that has changed since the submission: shards of one result may differ."""
        if self.code is None or (imported := code.imported()) == self.code:
            return
        text = (
            f"job {job.ref.job_id} runs code {_short(imported)}, not {_short(self.code)}, "
            f"which was there when it was submitted"
        )
        print(f"warning: {text}", file=sys.stderr, flush=True)
        self._note(Remarked("code", what=text))

    def _note(self, event: Event) -> None:
        for piece in self.pieces:
            try:
                open_work(Path(piece.folder)).ledger.note(event, within_s=NOTE_WITHIN_S)
            except Exception as error:
                # A folder that is gone or damaged changes nothing for the others.
                print(f"{piece.folder}: not noted ({error}): {event}", file=sys.stderr, flush=True)

    def _compute(self, job: InJob, stop: StopFlag) -> bool:
        """Compute piece after piece; one that fails does not stop the others.

        Returns:
            Whether all were computed; False if the task was stopped first.

        Raises:
            CldError: the first one, once all other pieces are computed.
        """
        from cld_core import ranks as distributed

        ranks = distributed.alone(job.place(), gpu=self.gpu)
        if (warning := ranks.lacks_gpu(self.gpu)) is not None:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        first_error: CldError | None = None
        runs: dict[Path, RunFolder] = {}
        for piece in self.pieces:
            work = open_work(Path(piece.folder))
            try:
                if not work.compute(ranks, lambda: stop.code != 0, piece.shards):
                    return False
            except CldError as error:
                work.ledger.note(GivenUp(reason=str(error), job_id=job.ref.job_id))
                if len(self.pieces) == 1:
                    raise
                print(f"{work.name}: {error}", file=sys.stderr, flush=True)
                first_error = first_error or error
            except Exception as error:
                reason = one_line(f"{type(error).__name__}: {error}", _MAX_REASON)
                failed = Failed("task", job_id=job.ref.job_id, reason=reason)
                work.ledger.note(failed, within_s=NOTE_WITHIN_S)
                raise
            if isinstance(work, Evaluation):
                runs[work.run.path] = work.run
        for run in runs.values():
            try:
                write_finished(run)
            except OSError as error:
                text = f"the tables of the sweeps of {run.name} could not be written: {error}"
                print(f"warning: {text}", file=sys.stderr)
        if first_error is not None:
            raise first_error
        return True


def _short(text: str) -> str:
    """A text whose digests are cut to 12 digits."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1", text)


def divided(missing: Sequence[tuple[str, Sequence[int]]], tasks: int) -> list[tuple[Piece, ...]]:
    """The missing shards of works, by folder, for at most ``tasks`` tasks: one shard each if
    possible."""
    units = [(folder, shard) for folder, shards in missing for shard in shards]
    count = min(len(units), tasks)
    return [_joined(units[task::count]) for task in range(count)]


def _joined(units: Sequence[tuple[str, int]]) -> tuple[Piece, ...]:
    shards: dict[str, list[int]] = {}
    for folder, shard in units:
        shards.setdefault(folder, []).append(shard)
    return tuple(Piece(folder, tuple(numbers)) for folder, numbers in shards.items())
