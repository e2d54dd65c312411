"""A kind of work that has nothing to do with models: the squares of integers, and their sum."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cld_core.computation import Computation, Computer
from cld_core.files import read_object, write_json
from cld_core.run.shards import Rows, ShardedRequest, ShardedWork


@dataclass(frozen=True, kw_only=True)
class SquaresRequest(ShardedRequest):
    kind: ClassVar[str] = "squares"

    n: int
    few: int = 0  # rows of a second kind

    @property
    def id(self):
        return f"squares-{self.n}-{self.few}"

    @property
    def sizes(self):
        return {"squares": self.n} | ({"few": self.few} if self.few else {})

    def chunk(self, kind):
        return 4


class SquareRows(Computer):
    def __init__(self, work):
        self.work = work

    def compute(self, first, last):
        self.work.computed.append((first, last))
        return {"square": np.arange(first, last) ** 2}


class Squares(ShardedWork):
    """Its rows lie beside its folder, and are those of work with another number of rows, too."""

    command = "squares"
    request_type = SquaresRequest

    name = "squares"
    unit = "integers"

    def __init__(self, folder, request=None):
        super().__init__(folder, request)
        self.computed = []

    @property
    def is_done(self):
        return read_object(self.folder / "sum.json").get("id") == self.request.id

    def rows(self, kind):
        return Rows(self.folder.parent / "rows" / kind, self.request.chunk(kind))


class SquaresTask(Computation):
    def computers_on(self, device):
        return {kind: SquareRows(self.work) for kind in self.work.request.sizes}

    def finish(self):
        request = self.work.request
        sums = {
            kind: int(sum(part["square"].sum() for part in self.parts(kind)))
            for kind in request.sizes
        }
        write_json(self.work.folder / "sum.json", {"id": request.id, **sums, "rows": self.made_of})
