"""What a job computes in a folder: a training, an evaluation, a tuning, statistics of a data set.

A work has a ledger, a request and one or more pieces. A piece is what one group of processes
computes: all of a training, a shard of the others. What differs by kind is a method or a field of
its class; a further kind is one class, and one line in `KINDS`. One that belongs to runs is listed
in `works_of`, too. Loads no torch.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cld_core.errors import NotFoundError
from cld_core.files import by_age, existing_object, passes, retried, write_json
from cld_core.plugins import import_plugins, resolve
from cld_core.records import from_plain, record, text, to_plain
from cld_core.sanitize import one_line
from cld_core.stop import StopCode, StopFlag, Stopped

from .events import Cause, Event
from .folder import RunFolder
from .history import History
from .ledger import Ledger

if TYPE_CHECKING:
    from cld_core.config import Recipe
    from cld_core.ranks import Ranks

    from .evaluations import Evaluation
    from .tunings import Tuning

# For each kind, by its name in request.json: the class, and the function that computes it. The
# function loads torch; its arguments are the work, and those of `Work.compute`. A training has a
# recipe and no request.
KINDS = {
    "training": ("cld_core.run.work:Training", "cld_core.train.session:compute"),
    "evaluation": (
        "cld_core.run.evaluations:Evaluation",
        "cld_core.evaluate.rows:EvaluationComputation.compute",
    ),
    "tuning": ("cld_core.run.tunings:Tuning", "cld_core.tune:compute"),
    "statistics": (
        "cld_core.evaluate.statistics:Statistics",
        "cld_core.evaluate.statistics:StatisticsComputation.compute",
    ),
}
# The most pieces of a work: each is a task, or a part of one.
MAX_SHARDS = 10_000
# The most rows of a kind.
MAX_ROWS = 10**9
# Seconds for which reading a request is retried while the file system fails.
READ_WITHIN_S = 1.0


def open_work(folder: Path) -> "Work":
    """The work that a folder describes.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
        OSError: it cannot be read at this moment.
    """
    content = content_of(folder)
    if content is None and RunFolder(folder).exists:
        return Training(folder)
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
    """The works of a kind in folders; damaged ones and those of another version are left out.

    The module of their class is loaded only if there are folders.
    """
    works = []
    for folder in folders:
        with contextlib.suppress(NotFoundError):
            works.append(resolve(KINDS[kind][0])(folder))
    return works


def evaluations_of(run: RunFolder) -> list["Evaluation"]:
    """The evaluations of a run, oldest first; damaged ones and those of another version of cldctl
    are left out."""
    requests = by_age(run.evals / name / "request.json" for name in run.evaluation_names())
    return _readable("evaluation", (file.parent for file in requests))


def tunings_of(run: RunFolder) -> list["Tuning"]:
    """The tunings of a run; damaged ones and those of another version of cldctl are left out."""
    return _readable("tuning", (run.tuned / name for name in run.tuning_names()))


def works_of(run: RunFolder) -> list["RequestedWork"]:
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


@record
class Request(ABC):
    """The order for a work: everything that its numbers depend on, and how it is divided.

    Attributes:
        sections: fields that hold a section of a recipe; they are annotated with the base class.
        shards: the number of pieces, which are computed independently of each other.
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
            if not 1 <= request.shards <= MAX_SHARDS or min(sizes) < 1 or max(sizes) > MAX_ROWS:
                raise ValueError(f"{request.shards} shards of {sizes} rows")
            return request
        except Exception as error:  # Any error: this version does not write such a file.
            raise NotFoundError(
                f"{folder}: the request was made by another version of cldctl ({one_line(error)}). "
                "Start the work again."
            ) from error


@record
class Budget:
    """How often a task is started again after it crashed.

    Attributes:
        retries: crashes in a row.
        a_day: crashes within a day; None for no limit.
    """

    retries: int
    a_day: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How computing ended.

    Attributes:
        cause: "finished" if everything is done; else what stopped the process, None if only the
            launcher knows.
        code: the signal that stopped the process.
    """

    cause: Cause | None = None
    code: StopCode = StopCode.NONE

    @property
    def is_done(self) -> bool:
        return self.cause == "finished"


@record
class Start:
    """The start of a task that computes, as its launcher describes it.

    Attributes:
        job_id: the launcher's name for the job.
        restart: earlier starts of this job by the launcher.
        log: the file that the launcher writes its notices to.
        began: when the job got its machines, seconds since 1970.
        node: what the launcher calls this machine.
        cause_of: returns what a signal meant.
    """

    job_id: str = ""
    restart: int = 0
    log: Path | None = None
    began: float | None = None
    node: str = ""
    cause_of: Callable[[StopCode], Cause | None] = field(default=lambda code: None)


class Work(ABC):
    """A work in its folder, which jobs open again (`open_work`).

    Attributes:
        folder: its folder, which also has the logs of its jobs.
        run: the run that it belongs to; None for statistics.
        command: the command that continues it when it is run again, for messages.
        called: the noun for its kind in messages.
        is_world: whether the processes of a task form one world of ranks, or each is a task of its
            own.
        together: whether one task computes all works of a job, one after another.
        has_successors: whether another job may wait for its job to end badly.
    """

    command: ClassVar[str]
    called: ClassVar[str] = "work"
    is_world: ClassVar[bool] = False
    together: ClassVar[bool] = False
    has_successors: ClassVar[bool] = False
    kind: str
    folder: Path

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.folder.name

    @property
    def run(self) -> RunFolder | None:
        return None

    def make_folder(self) -> None:
        """Make the folder, which is locked while jobs of a work without a run are started."""
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """Which tasks were started, crashed or were cancelled."""

    @property
    def doing(self) -> str:
        """The phase in messages while it is computed."""
        return "computing"

    @property
    def unit(self) -> str:
        """The unit of its progress, as a noun for messages."""
        return "rows"

    def history(self) -> History:
        return self.ledger.history()

    @property
    @abstractmethod
    def input_file(self) -> Path:
        """The file that defines what is to be computed."""

    @abstractmethod
    def budget(self, within_s: float) -> Budget:
        """How often it is started again.

        Raises:
            OSError: the retries cannot be read for ``within_s`` seconds.
        """

    def nodes(self, within_s: float) -> int:
        """How many nodes one of its tasks runs on.

        Raises:
            OSError: that cannot be read for ``within_s`` seconds.
        """
        return 1

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether the product exists and answers the present request."""

    @property
    def outdated(self) -> str | None:
        """What replaced a thing that the product was made of, in words; None if nothing did."""
        return None

    def missing(self) -> list[int]:
        """The pieces that are not complete; empty if the work is done."""
        return [] if self.is_done else [0]

    def to_start(self) -> list[int]:
        """The pieces that need a task: the missing ones, or else the first, to merge them.

        Empty if the work is done.
        """
        return [] if self.is_done else self.missing() or [0]

    @abstractmethod
    def rows_done(self) -> tuple[int, int]:
        """How much is computed, and the total, in `unit`."""

    @abstractmethod
    def moved_at(self) -> float | None:
        """When a unit of it was last computed, seconds since 1970; None before the first."""

    def compute(
        self,
        ranks: "Ranks",
        stop: StopFlag | None = None,
        pieces: Collection[int] | None = None,
        start: Start | None = None,
    ) -> Outcome:
        """Compute those of ``pieces`` that are missing, and then the product.

        Args:
            stop: read before every batch or step; default: nothing requests a stop.
            pieces: the pieces of this process; None for all.
            start: the start of the task; default: a start without a launcher.

        Raises:
            CldError: an input is gone or has changed, or the result cannot be made.
        """
        if self.is_done and not self.is_world:
            return Outcome("finished")
        compute = resolve(KINDS[self.kind][1])
        stop = stop or StopFlag()
        try:
            outcome: Outcome = compute(self, ranks, stop, pieces, start or Start())
        except Stopped:
            # Another process may have finished the work, which also ends this one.
            return Outcome("finished") if self.is_done else Outcome(code=stop.code)
        return outcome


class Training(Work):
    """The training of a run: one piece, which a world of ranks computes.

    Args:
        notify: called after each event that this process appends to the ledger.
    """

    command = "cldctl resume"
    called = "training"
    doing = "training"
    unit = "steps"
    is_world = True
    has_successors = True
    kind = "training"

    def __init__(self, folder: Path, notify: Callable[[Event], None] | None = None) -> None:
        self.folder = folder
        self._run = RunFolder(folder, notify)
        self._recipe: Recipe | None = None

    @property
    def run(self) -> RunFolder:
        return self._run

    @property
    def ledger(self) -> Ledger:
        return self._run.ledger

    @property
    def input_file(self) -> Path:
        return self._run.recipe_file

    def recipe(self, within_s: float = 0.0, *, with_plugins: bool = False) -> "Recipe":
        """The recipe of the run, as it was when it was first read.

        Args:
            with_plugins: import its plug-ins.

        Raises:
            RecipeError: the recipe is damaged.
            OSError: the recipe cannot be read for ``within_s`` seconds.
        """
        if self._recipe is None or with_plugins:
            self._recipe = self._run.recipe(within_s=within_s, with_plugins=with_plugins)
        return self._recipe

    def nodes(self, within_s: float) -> int:
        return self.recipe(within_s).cluster.nodes

    def budget(self, within_s: float) -> Budget:
        spec = self.recipe(within_s).train
        return Budget(retries=spec.max_retries, a_day=spec.max_crashes_a_day)

    @property
    def is_done(self) -> bool:
        """Whether the newest attempt finished; what was requested since then does not count."""
        return self.history().cause == "finished"

    def rows_done(self) -> tuple[int, int]:
        """How many steps are done, and how many were requested."""
        history, progress = self._run.history_and_progress()
        steps = history.steps if history.steps is not None else progress.get("steps", 0)
        reached = history.last.last_step if history.last is not None else None
        return max(progress.get("step", 0), reached or 0, history.saved or 0), steps or 0

    def moved_at(self) -> float | None:
        return self._run.progress().get("time")


class RequestedWork(Work):
    """A sharded work, which a request describes: an evaluation, a tuning, or statistics.

    Args:
        request: the request of the work; default: the request in the folder.

    Attributes:
        request_type: the class of `request`.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
    """

    request_type: ClassVar[type[Request]]
    request: Request

    def __init__(self, folder: Path, request: Request | None = None) -> None:
        self.folder = folder
        self.request = request or self.request_type.load(folder)
        self.kind = self.request.kind

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "jobs.jsonl")

    @property
    def input_file(self) -> Path:
        return self.folder / "request.json"

    def budget(self, within_s: float) -> Budget:
        return Budget(retries=self.request.retries)

    def rows_done(self) -> tuple[int, int]:
        total = sum(self.request.sizes.values())
        return (total if self.is_done else min(self.rows_stored(), total)), total

    @abstractmethod
    def rows_stored(self) -> int:
        """The number of rows that are computed."""
