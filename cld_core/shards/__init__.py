"""Sharded work: rows that are a function of their index, computed in pieces by tasks that may be interrupted.

The package knows no metric. A kind of work (`KINDS`) says which rows there are, how they are computed and what becomes
of them; identity, division into shards, completeness, resuming and merging are here. Importing it loads no torch or
numpy.
"""

from pathlib import Path

from cld_core.codec import text
from cld_core.errors import NotFoundError
from cld_core.imports import resolve
from cld_core.run.work import Work

from .request import Request, content_of
from .work import Computer, ShardedWork, Task

__all__ = ["KINDS", "Computer", "Request", "ShardedWork", "Task", "open_work"]

# By the ``kind`` field of their request.json.
KINDS = {
    "evaluation": "cld_core.evaluate.evaluation:Evaluation",
    "tuning": "cld_core.tune.tuning:Tuning",
    "statistics": "cld_core.evaluate.statistics:Statistics",
}


def open_work(folder: Path) -> Work:
    """The work that a folder's request.json describes.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
        OSError: it cannot be read at this moment.
    """
    content = content_of(folder)
    kind = text(content.get("kind")) if content is not None else None
    if kind not in KINDS:
        what = "there is no request here" if content is None else "its request was made by another version of cldctl"
        raise NotFoundError(f"{folder}: {what}. Start the work again.")
    work: Work = resolve(KINDS[kind])(folder)
    return work
