"""A data set for tests whose tunings stand still at rows that files name, until these files are gone.

CLDCTL_TEST_HOLDS: a folder; while it has a file KIND-ROW, such as `grid-5`, that row is not computed.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch

from cld_core.data.toy import toy
from cld_core.tune.computing import TuneComputation

_rows = TuneComputation.rows


def _held(self: TuneComputation, kind: str, first: int, last: int) -> Any:
    holds = Path(os.environ.get("CLDCTL_TEST_HOLDS", "/nonexistent"))
    while (holds / f"{kind}-{first}").exists():
        time.sleep(0.02)
    return _rows(self, kind, first, last)


TuneComputation.rows = _held  # type: ignore[method-assign]


@toy("held")
def held(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, 2, generator=generator)
