"""What a job runs in each of its processes. Pickled by submitit, so it holds names and paths only."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.train.stop import StopFlag

if TYPE_CHECKING:
    from cld_core.train.distributed import Ranks


@dataclass
class TrainJob:
    """Train a run, then compute the evaluations that were chained to it."""

    run: str
    evaluations: tuple[str, ...] = ()
    debug: bool = False

    def __call__(self) -> str:
        # Before anything slow is loaded: a signal that comes early must not be lost, nor kill.
        stop = StopFlag().listen(interrupt=self.debug)
        folder = RunFolder(self.run)
        with _errors_in_one_line(self.debug), _ranks(folder, self.debug) as (ranks, job_id):
            from cld_core.train import session

            ended = session.run(folder, ranks, stop, job_id=job_id)
            print(f"rank {ranks.rank} of {ranks.world_size}: {ended.cause} at step {ended.step}", flush=True)
            if ended.cause == "finished":
                _evaluate(folder, self.evaluations, ranks, stop)
            return ended.cause


@dataclass
class EvalJob:
    """Compute the missing shards of evaluations, each process its share."""

    run: str
    evaluations: tuple[str, ...]
    debug: bool = False

    def __call__(self) -> str:
        stop = StopFlag().listen(interrupt=self.debug)
        folder = RunFolder(self.run)
        with _errors_in_one_line(self.debug), _ranks(folder, self.debug, together=False) as (ranks, _):
            _evaluate(folder, self.evaluations, ranks, stop)
            return "finished"


def _evaluate(folder: RunFolder, evaluations: tuple[str, ...], ranks: "Ranks", stop: StopFlag) -> None:
    if evaluations:
        from cld_core.evaluation import shard

        for name in evaluations:
            shard.compute(folder, name, ranks, should_stop=lambda: stop.code != 0)


@contextlib.contextmanager
def _ranks(folder: RunFolder, debug: bool, together: bool = True) -> Iterator[tuple["Ranks", str]]:
    """This process among its peers and the job's id; ``together``: the peers talk to each other."""
    from cld_core.train import distributed

    if debug:
        yield distributed.Ranks(), str(os.getpid())
        return
    from . import executor

    job_id = executor.job_id()
    os.environ.update(executor.distributed_environment())
    if not together:
        yield distributed.alone(), job_id
        return
    meeting, method = None, "env://"
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        # A file rather than a port: nothing on this machine can be in its way.
        meeting = Path(folder.logs / f".meeting_{job_id}")
        method = f"file://{meeting}"
    ranks = distributed.join(init_method=method)
    try:
        yield ranks, job_id
    finally:
        ranks.leave()
        if meeting is not None and ranks.is_first:
            meeting.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_in_one_line(debug: bool) -> Iterator[None]:
    """Errors with a fix in them need no traceback, and the process ends with their code."""
    if debug:
        # Stdout is the command line's own there, for data.
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        yield
    except CldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
