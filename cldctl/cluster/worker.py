"""What a job runs in each of its processes. Pickled by submitit, so it holds names and paths only."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.stop import StopCode, StopFlag

from . import inside

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


@dataclass
class TrainJob:
    """Train a run, then compute the evaluations that were chained to it."""

    run: str
    cluster: str
    evaluations: tuple[str, ...] = ()

    def __call__(self) -> str:
        # Before anything slow is loaded: a signal that comes early must not be lost, nor kill.
        stop = StopFlag().listen(interrupt=self.cluster == "debug")
        folder, slurm = RunFolder(self.run), self.cluster == "slurm"
        with _errors_in_one_line(self.cluster), _ranks(folder, self.cluster, None) as (ranks, job_id):
            from cld_core.train import session

            if slurm and ranks.is_first:
                inside.begin(folder)
            ended = session.run(
                folder,
                ranks,
                stop,
                job_id=job_id,
                restart=inside.restarts() if slurm else 0,
                log=inside.log_file(folder) if slurm else None,
                cause_of=(lambda code: inside.cause_of(folder, code)) if slurm else (lambda code: None),
            )
            print(f"rank {ranks.rank} of {ranks.world_size}: {ended.cause} at step {ended.step}", flush=True)
            if ended.cause == "finished":
                _evaluate(folder, [(name, None) for name in self.evaluations], ranks, stop)
        if slurm and ranks.is_first and ended.cause == "cancelled":
            from . import successor

            successor.withdraw(folder)
        # The other ranks have nothing left to do: to requeue starts the killing.
        if slurm and ranks.is_first and ended.code is StopCode.USR2:
            inside.go_on(folder, ended.cause)
        return ended.cause


@dataclass
class EvalJob:
    """Compute the missing shards of evaluations: ``pieces`` (evaluation, shard), or each process its share of all."""

    run: str
    evaluations: tuple[str, ...]
    cluster: str
    gpu: bool
    pieces: tuple[tuple[str, int], ...] = ()

    def __call__(self) -> str:
        stop = StopFlag().listen(interrupt=self.cluster == "debug")
        folder = RunFolder(self.run)
        with _errors_in_one_line(self.cluster), _ranks(folder, self.cluster, self.gpu, together=False) as (ranks, _):
            if (warning := ranks.lacks_gpu(self.gpu)) is not None:
                print(f"warning: {warning}", file=sys.stderr, flush=True)
            work: list[tuple[str, int | None]] = [*((name, None) for name in self.evaluations), *self.pieces]
            done = _evaluate(folder, work, ranks, stop)
        if not done and self.cluster == "slurm" and stop.code is StopCode.USR2:
            inside.requeue_task()
        return "finished" if done else "stopped"


def _evaluate(folder: RunFolder, work: Sequence[tuple[str, int | None]], ranks: "Ranks", stop: StopFlag) -> bool:
    """Compute (evaluation, shard) pairs, None for a share of all shards. What fails leaves the others alone.

    Raises:
        CldError: the first one, when nothing else is left to do.
    """
    if not work:
        return True
    from cld_core.evaluation import shard as shards
    from cldctl.evals import sweep

    first_error: CldError | None = None
    for name, shard in work:
        try:
            if not shards.compute(folder, name, ranks, should_stop=lambda: stop.code != 0, only=shard):
                return False
        except CldError as error:
            if len(work) == 1:
                raise
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            first_error = first_error or error
    sweep.write_finished(folder)
    if first_error is not None:
        raise first_error
    return True


@contextlib.contextmanager
def _ranks(folder: RunFolder, cluster: str, gpu: bool | None, together: bool = True) -> Iterator[tuple["Ranks", str]]:
    """This process among its peers and the job's id.

    ``gpu``: whether it was given one, None: as the run's recipe says; ``together``: the peers talk to each other.
    """
    from cld_core import ranks as distributed

    gpu = folder.recipe().cluster.uses_gpu if gpu is None else gpu
    if cluster == "debug":
        yield distributed.debugging(gpu=gpu), str(os.getpid())
        return
    from . import executor

    job_id = executor.job_id()
    os.environ.update(executor.distributed_environment())
    if not together:
        yield distributed.alone(gpu=gpu), job_id
        return
    meeting, method = None, "env://"
    if cluster == "local":
        # A file rather than a port: nothing on this machine can be in its way.
        meeting = Path(folder.logs / f".meeting_{job_id}")
        method = f"file://{meeting}"
    elif cluster == "slurm":
        os.environ["MASTER_PORT"] = str(inside.port(folder))
    ranks = distributed.join(gpu=gpu, init_method=method)
    try:
        yield ranks, job_id
    finally:
        ranks.leave()
        if meeting is not None and ranks.is_first:
            meeting.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_in_one_line(cluster: str) -> Iterator[None]:
    """Errors with a fix in them need no traceback, and the process ends with their code."""
    if cluster == "debug":
        # Stdout is the command line's own there, for data.
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        yield
    except CldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


@dataclass
class StatsJob:
    """Compute the missing shards of a training set's statistics: one ``shard``, or each process its share of all."""

    folder: str
    cluster: str
    gpu: bool
    shard: int | None = None

    def __call__(self) -> str:
        stop = StopFlag().listen(interrupt=self.cluster == "debug")
        folder = Path(self.folder)
        run = RunFolder(folder)
        with _errors_in_one_line(self.cluster), _ranks(run, self.cluster, self.gpu, together=False) as (ranks, _):
            from cld_core.evaluation import training_set

            done = training_set.compute(folder, ranks, lambda: stop.code != 0, self.shard)
        if not done and self.cluster == "slurm" and stop.code is StopCode.USR2:
            inside.requeue_task()
        return "finished" if done else "stopped"
