"""A kind of sharded work that has nothing to do with models: the squares of some integers, and their sum."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cld_core.files import read_json, write_json
from cld_core.shards import Request, Work
from cld_core.shards.compute import Computation
from cld_core.shards.merging import Merged


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


class Squares(Work):
    command = "squares"
    computation = f"{__name__}:SquaresComputation"

    request_type = SquaresRequest

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.computed: list[tuple[int, int]] = []

    name = "squares"

    @property
    def is_done(self):
        return (read_json(self.folder / "sum.json") or {}).get("id") == self.request.id

    def made_of(self, *, strict=False):
        return {"request": self.request.id}


class SquaresComputation(Computation):
    def __init__(self, work: Squares, device: object) -> None:
        self.work = work

    def prepare(self):
        return

    def rows(self, kind, first, last):
        if kind == "squares":
            self.work.computed.append((first, last))
        return {"square": np.arange(first, last) ** 2}

    def finish(self):
        merged = Merged(self.work)
        sums = {kind: int(sum(part["square"].sum() for part in merged.parts(kind))) for kind in self.work.request.sizes}
        write_json(self.work.folder / "sum.json", {"id": self.work.request.id, **sums})
