"""A kind of sharded work that has nothing to do with models: the squares of some integers, and their sum."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cld_core.files import read_object, write_json
from cld_core.shards import Computer, Request, ShardedWork, Task
from cld_core.shards.rows import Rows


@dataclass(frozen=True, kw_only=True)
class SquaresRequest(Request):
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
    """Its rows lie beside its folder: those of work with another number of rows are the same ones."""

    command = "squares"
    request_type = SquaresRequest

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.computed: list[tuple[int, int]] = []

    name = "squares"

    @property
    def is_done(self):
        return read_object(self.folder / "sum.json").get("id") == self.request.id

    def rows(self, kind):
        return Rows(self.folder.parent / "rows" / kind, self.request.chunk(kind))

    def computers(self, device):
        return {kind: SquareRows(self) for kind in self.request.sizes}

    def finish(self, task: Task):
        sums = {kind: int(sum(part["square"].sum() for part in task.parts(kind))) for kind in self.request.sizes}
        write_json(self.folder / "sum.json", {"id": self.request.id, **sums, "rows": task.made_of()})
