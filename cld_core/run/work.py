"""What a job computes in a folder of its own: an evaluation, statistics of a training set, a
tuning. Loads no torch."""

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

# By the ``kind`` field of their request.json: their class, and what computes them, with torch,
# which is called as `Work.compute` is, with the work before.
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
# The most pieces that work is divided into: each is a task, or a part of one.
MAX_SHARDS = 10_000
# The most rows of a kind.
MAX_ROWS = 10**9
# Seconds for which a request is tried to be read: one fault of the file system does not mean that
# there is none.
READ_WITHIN_S = 1.0


def open_work(folder: Path) -> "Work":
    """The work that a folder's request.json describes.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
        OSError: it cannot be read at this moment.
    """
    content = content_of(folder)
    kind = text(content.get("kind")) if content is not None else None
    if kind not in KINDS:
        what = (
            "there is no request here"
            if content is None
            else "its request was made by another version of cldctl"
        )
        raise NotFoundError(f"{folder}: {what}. Start the work again.")
    work: Work = resolve(KINDS[kind][0])(folder)
    return work


def _readable(kind: str, folders: Iterable[Path]) -> list[Any]:
    """The works of a kind in folders, without those that are damaged or of another version of
    cldctl.

    What reads them is loaded if there are folders.
    """
    works = []
    for folder in folders:
        with contextlib.suppress(NotFoundError):
            works.append(resolve(KINDS[kind][0])(folder))
    return works


def evaluations_of(run: RunFolder) -> list["Evaluation"]:
    """The evaluations of a run, oldest first; those that are damaged or of another version of
    cldctl are skipped."""
    requests = by_age(run.evals / name / "request.json" for name in run.evaluation_names())
    return _readable("evaluation", (file.parent for file in requests))


def tunings_of(run: RunFolder) -> list["Tuning"]:
    """The tunings of a run; those that are damaged or of another version of cldctl are skipped."""
    return _readable("tuning", (run.tuned / name for name in run.tuning_names()))


def works_of(run: RunFolder) -> list["Work"]:
    """The evaluations of a run, and then its tunings."""
    return [*evaluations_of(run), *tunings_of(run)]


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
    named = [
        path
        for place, path in files.items()
        if place.startswith("plugin ") and isinstance(path, str)
    ]
    import_plugins(named, f"{folder}/request.json")


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """One piece of work, complete: everything that its numbers depend on, and how it is divided.

    Attributes:
        sections: fields that hold a section of a recipe, of which the annotation names only the
            base of its specs.
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
        """A name made of everything that the numbers depend on; places of files and the division
        are not in it."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """How many rows there are of each kind of rows."""

    def store(self, folder: Path) -> Path:
        """Write the request into ``folder``, which is made if needed, and return the folder.

        Work that was begun with the same id keeps its number of shards.
        """
        begun = content_of(folder)
        request = self
        if begun is not None and begun.get("id") == self.id:
            request = replace(self, shards=type(self).load(folder).shards)
        content = {"kind": self.kind, "id": self.id, **to_plain(request)}
        folder.mkdir(parents=True, exist_ok=True)
        if begun != content:
            write_json(folder / "request.json", content)
        with contextlib.suppress(OSError):
            # Work of this folder goes on: who remembers that all of it was done looks again.
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
        except (
            Exception
        ) as error:  # Whatever reading it meets: nobody but another version writes such a file.
            why = f"the request was made by another version of cldctl ({one_line(error)})"
            raise NotFoundError(f"{folder}: {why}. Start the work again.") from error


class Work(ABC):
    """Work in its folder, which jobs open again by its request (`open_work`).

    Args:
        request: what is asked; default: what the folder says.

    Attributes:
        folder: where everything of it is, the logs of its jobs too.
        request_type: the class of `request`.
        command: the command that continues it when it is run again, for messages.
        called, doing, unit: what it is, what computing it is called, and what its progress is
            counted in, for people who watch.

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
        """What people call it."""
        return self.folder.name

    @property
    def ledger(self) -> Ledger:
        """Which tasks were started, crashed or were cancelled."""
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
        """The pieces that tasks are to be started for; empty if the work is done."""

    @abstractmethod
    def rows_done(self) -> tuple[int, int]:
        """How much is computed, and how much there is in all."""

    @abstractmethod
    def moved_at(self) -> float | None:
        """When something of it was last computed, seconds since 1970; None before the first."""

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing ones of some pieces, and then the product; False if it was asked to
        stop before.

        Args:
            should_stop: asked before every batch or step.
            only: the pieces of this process.

        Raises:
            CldError: what is needed is gone or has changed, or the result cannot be made.
        """
        return self.is_done or resolve(KINDS[self.request.kind][1])(self, ranks, should_stop, only)
