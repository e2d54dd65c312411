"""What a launcher pickles for a task that trains. Jobs of other versions know these names."""

from dataclasses import dataclass
from pathlib import Path

from cld_core.stop import StopFlag
from cldctl.clusters.base import InJob

from .task import run_task


@dataclass(frozen=True)
class TrainWork:
    """Train a run."""

    run: str

    def __call__(self, job: InJob, stop: StopFlag) -> None:
        run_task({Path(self.run): (0,)}, job, stop)
