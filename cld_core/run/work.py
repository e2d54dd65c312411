"""Work: an evaluation, a tuning or statistics, which jobs compute in its folder. Loads no torch."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cld_core.codec import from_plain, text, to_plain
from cld_core.errors import NotFoundError
from cld_core.files import by_age, existing_object, passes, retried, write_json
from cld_core.registration import import_plugins, resolve
from cld_core.sanitize import one_line

from .folder import RunFolder
from .ledger import Ledger

if TYPE_CHECKING:
    from cld_core.ranks import Ranks

    from .evaluations import Evaluation
    from .tunings import Tuning

# By the ``kind`` of request.json: the class, and the function that computes the work, with torch.
# Its arguments are the work and those of `Work.compute`.
KINDS = {
    "evaluation": (
        "cld_core.run.evaluations:Evaluation",
        "cld_core.evaluate.rows:EvaluationTask.compute",
    ),
    "tuning": ("cld_core.run.tunings:Tuning", "cld_core.tune:compute"),
    "statistics": (
        "cld_core.evaluate.statistics:Statistics",
        "cld_core.evaluate.statistics:StatisticsTask.compute",
    ),
}
# The most pieces of a work: each is a task, or a part of one.
MAX_SHARDS = 10_000
# The most rows of a kind.
MAX_ROWS = 10**9
# Seconds for which reading a request is tried again while the file system fails.
READ_WITHIN_S = 1.0


def open_work(folder: Path) -> "Work":
    """The work that a folder's request.json describes.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
        OSError: it cannot be read at this moment.
    """
    content = content_of(folder)
    if content is None:
        raise NotFoundError(f"{folder}: there is no request here. Start the work again.")
    kind = text(content.get("kind"))
    if kind not in KINDS:
        raise NotFoundError(
            f"{folder}: its request was made by another version of cldctl. Start the work again."
        )
    work: Work = resolve(KINDS[kind][0])(folder)
    return work


def _readable(kind: str, folders: Iterable[Path]) -> list[Any]:
    """The works of a kind in folders, without those that are damaged or of another version.

    The module of their class is loaded only if there are folders.
    """
    works = []
    for folder in folders:
        with contextlib.suppress(NotFoundError):
            works.append(resolve(KINDS[kind][0])(folder))
    return works


def evaluations_of(run: RunFolder) -> list["Evaluation"]:
    """The evaluations of a run, oldest first, without those of `_readable`."""
    requests = by_age(run.evals / name / "request.json" for name in run.evaluation_names())
    return _readable("evaluation", (file.parent for file in requests))


def tunings_of(run: RunFolder) -> list["Tuning"]:
    """The tunings of a run, without those that are damaged or of another version of cldctl."""
    return _readable("tuning", (run.tuned / name for name in run.tuning_names()))


def works_of(run: RunFolder) -> list["Work"]:
    """The evaluations of a run, and then its tunings."""
    return [*evaluations_of(run), *tunings_of(run)]


def content_of(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's request.json; None if there is none.

    Raises:
        OSError: it cannot be read at this moment.
    """
    try:
        return retried(lambda: existing_object(folder / "request.json"), READ_WITHIN_S)
    except OSError as error:
        if passes(error):
            raise
        return None


def use_plugins(folder: Path) -> None:
    """Import the plug-ins of a request before it is read: it may have values that they register.

    Raises:
        RecipeError: one cannot be imported.
    """
    files = (content_of(folder) or {}).get("files") or {}
    plugins = [
        path
        for purpose, path in files.items()
        if purpose.startswith("plugin ") and isinstance(path, str)
    ]
    import_plugins(plugins, f"{folder}/request.json")


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """One piece of work, complete: everything that its numbers depend on, and how it is divided.

    Attributes:
        sections: fields with a section of a recipe, whose annotation is the base of its specs.
        shards: pieces that are computed independently of each other.
        batch_size: rows that are computed at once.
        retries: crashes of one task after which it is not started again.
    """

    kind: ClassVar[str]
    sections: ClassVar[tuple[str, ...]] = ()

    batch_size: int
    shards: int = 1
    retries: int = 3

    @property
    @abstractmethod
    def id(self) -> str:
        """A name made of everything that the numbers depend on; neither paths nor the division."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """The number of rows of each kind."""

    def store(self, folder: Path) -> Path:
        """Write the request into ``folder``, which is made if needed, and return the folder.

        Work that was begun with the same id keeps its number of shards.
        """
        stored = content_of(folder)
        request = self
        if stored is not None and stored.get("id") == self.id:
            request = replace(self, shards=type(self).load(folder).shards)
        content = {"kind": self.kind, "id": self.id, **to_plain(request)}
        folder.mkdir(parents=True, exist_ok=True)
        if stored != content:
            write_json(folder / "request.json", content)
        with contextlib.suppress(OSError):
            # The index of runs reads the folder again, although its files may be the same.
            os.utime(folder.parent)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The request of a folder.

        Raises:
            NotFoundError: there is none, or one that another version of cldctl wrote.
            OSError: it cannot be read at this moment.
        """
        from cld_core.config.registry import spec_of

        content = content_of(folder)
        if content is None:
            raise NotFoundError(f"{folder}: there is no {cls.kind} here. Start it again.")
        try:
            chosen = {section: spec_of(section, content[section]) for section in cls.sections}
            request = from_plain(cls, content, chosen=chosen)
            sizes = [request.batch_size, *request.sizes.values()]
            if not (
                1 <= request.shards <= MAX_SHARDS and all(1 <= size <= MAX_ROWS for size in sizes)
            ):
                raise ValueError(f"{request.shards} shards of {sizes} rows")
            return request
        except Exception as error:  # Any error: this version does not write such a file.
            raise NotFoundError(
                f"{folder}: the request was made by another version of cldctl ({one_line(error)}). "
                "Start the work again."
            ) from error


class Work(ABC):
    """Work in its folder, which jobs open again by its request (`open_work`).

    Args:
        request: default: the one in the folder.

    Attributes:
        folder: the folder of all its files, also of the logs of its jobs.
        request_type: the class of `request`.
        command: the command that continues it when it is run again, for messages.
        called: its kind in messages, such as "evaluation".
        doing: its computation in messages, such as "evaluating".
        unit: the unit of its progress in messages, such as "rows".

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
    """

    command: ClassVar[str]
    request_type: ClassVar[type[Request]]
    called: ClassVar[str] = "work"
    doing: ClassVar[str] = "computing"
    unit: ClassVar[str] = "rows"
    request: Request

    def __init__(self, folder: Path, request: Request | None = None) -> None:
        self.folder = folder
        self.request = request or self.request_type.load(folder)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.folder.name

    @property
    def ledger(self) -> Ledger:
        """The starts, crashes and cancellations of its tasks."""
        return Ledger(self.folder / "jobs.jsonl")

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether the product exists and answers the present request."""

    @property
    def outdated(self) -> str | None:
        """What replaced a thing that the product was made of, in words; None if nothing did."""
        return None

    @abstractmethod
    def to_start(self) -> list[int]:
        """The pieces that need a task; empty if the work is done."""

    @abstractmethod
    def rows_done(self) -> tuple[int, int]:
        """The progress in units: how many are computed, and how many there are."""

    @abstractmethod
    def moved_at(self) -> float | None:
        """When a unit of it was last computed, seconds since 1970; None before the first."""

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing pieces, and then the product; False if it was stopped before.

        Args:
            should_stop: called before every batch or step.
            only: the pieces of this process; None: all.

        Raises:
            CldError: an input is gone or has changed, or the result cannot be made.
        """
        return self.is_done or resolve(KINDS[self.request.kind][1])(self, ranks, should_stop, only)
