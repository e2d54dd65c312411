"""A data set for tests whose tunings stand still at rows that files name, until these files are gone.

CLDCTL_TEST_HOLDS: a folder; while it has a file STAGE-ROW, such as `grid-5`, that row is not computed.
"""

import os
import time
from pathlib import Path

import torch

from cld_core.data.toy import toy
from cld_core.tune.job import Job

_step = Job.step


def _held(self: Job, stage: str) -> None:
    holds = Path(os.environ.get("CLDCTL_TEST_HOLDS", "/nonexistent"))
    while (holds / f"{stage}-{len(self._state.rows.get(stage, ()))}").exists():
        time.sleep(0.02)
    _step(self, stage)


Job.step = _held  # type: ignore[method-assign]


@toy("held")
def held(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, 2, generator=generator)
