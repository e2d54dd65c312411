"""What sharded work is asked to compute, kept as `request.json` in the work's folder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from cld_core.codec import from_plain, to_plain
from cld_core.config import plugins
from cld_core.errors import NotFoundError, UsageError
from cld_core.files import existing_object, passes, retried, write_json
from cld_core.ranges import CHUNK, share
from cld_core.sanitize import one_line

# The most pieces that work is divided into: each is a task, or a part of one.
MAX_SHARDS = 10_000
# The most rows of a kind.
MAX_ROWS = 10**9
# Seconds for which a request is tried to be read: one fault of the file system does not mean that there is none.
READ_WITHIN_S = 1.0


def content_of(folder: Path) -> dict[str, Any] | None:
    """What a folder's request.json holds; None if there is none.

    Raises:
        OSError: nobody knows at this moment.
    """
    try:
        return retried(lambda: existing_object(folder / "request.json"), READ_WITHIN_S)
    except OSError as error:
        if passes(error):
            raise
        return None


def use_plugins(folder: Path) -> None:
    """Import the plug-ins of a request, before it is read: what they register may be part of it.

    Raises:
        RecipeError: one cannot be imported.
    """
    files = (content_of(folder) or {}).get("files") or {}
    named = [path for place, path in files.items() if place.startswith("plugin ") and isinstance(path, str)]
    plugins.use(named, f"{folder}/request.json")


def require_few(shards: int) -> None:
    """Refuse more pieces than work is divided into.

    Raises:
        UsageError
    """
    if shards > MAX_SHARDS:
        why = f"work is divided into at most {MAX_SHARDS:,}, since each is a task of the cluster, and files in the run"
        raise UsageError(f"--shards {shards}: {why}. Ask for fewer; more tasks than Slurm takes share shards anyway.")


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """One piece of work, complete: everything that its numbers depend on, and how it is divided.

    Attributes:
        files: where things lie on this machine. Their content is part of the id, their place is not.
        shards: pieces that are computed independently of each other.
        batch_size: rows that are computed at once.
        retries: crashes of one task after which it is not started again.
    """

    kind: ClassVar[str]

    files: dict[str, str | None]
    batch_size: int
    shards: int = 1
    retries: int = 3

    @property
    @abstractmethod
    def id(self) -> str:
        """A name made of everything that the numbers depend on; the division and ``files`` are not in it."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """How many rows there are of each kind of rows."""

    @classmethod
    def chosen(cls, content: Mapping[str, Any]) -> Mapping[str, type]:
        """By field, the class that the content of a request.json calls for, if the annotation names only its base.

        Raises:
            RecipeError: it is not registered here.
        """
        return {}

    def chunk(self, kind: str) -> int:
        """How many rows of a kind are kept in a file: a constant of the format, so that all work shares the files."""
        return CHUNK

    def chunks(self, shard: int) -> dict[str, range]:
        """By kind of rows, the chunks that are a shard's share; kinds without any are left out."""
        numbers = {kind: -(-size // self.chunk(kind)) for kind, size in self.sizes.items()}
        shares = {kind: range(*share(count, shard, self.shards)) for kind, count in numbers.items()}
        return {kind: chunks for kind, chunks in shares.items() if chunks}

    def wanted(self, kind: str, number: int) -> int:
        """How many rows of a chunk there are; 0 if it is behind the last one."""
        chunk = self.chunk(kind)
        return max(min(chunk, self.sizes[kind] - number * chunk), 0)

    def in_shards(self, shards: int) -> Self:
        """The same request in so many shards, or in as many as it has rows. One without a chunk is complete at once."""
        return replace(self, shards=min(shards, max(self.sizes.values())))

    def store(self, folder: Path) -> Path:
        """Write the request into ``folder``, which is made if needed, and return the folder.

        Work that was begun with the same id keeps its number of shards.
        """
        begun = content_of(folder)
        request = self
        if begun is not None and begun.get("id") == self.id:
            request = replace(self, shards=type(self).load(folder).shards)
        content = {"kind": self.kind, "id": self.id, **to_plain(request)}
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        if begun != content:
            write_json(folder / "request.json", content)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The request of a folder.

        Raises:
            NotFoundError: there is none, or one that another version of cldctl wrote.
            OSError: it cannot be read at this moment.
        """
        content = content_of(folder)
        if content is None:
            raise NotFoundError(f"{folder}: there is no {cls.kind} here. Start it again.")
        try:
            request = from_plain(cls, content, chosen=cls.chosen(content))
            request.require_bounds()
            return request
        except Exception as error:  # Whatever reading it meets: nobody but another version writes such a file.
            text = f"the request was made by another version of cldctl ({one_line(error)})"
            raise NotFoundError(f"{folder}: {text}. Start the work again.") from error

    def require_bounds(self) -> None:
        """Refuse numbers that no request of cldctl has.

        Raises:
            ValueError
        """
        sizes = {**self.sizes, "batch_size": self.batch_size}
        for name, size in sizes.items():
            if not 1 <= size <= MAX_ROWS:
                raise ValueError(f"{name} is {size}")
        if not 1 <= self.shards <= min(MAX_SHARDS, max(self.sizes.values(), default=MAX_SHARDS)):
            raise ValueError(f"shards is {self.shards}")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}")
