"""The kinds of work, by the ``kind`` field of their request.json."""

from pathlib import Path

from cld_core.codec import text
from cld_core.errors import NotFoundError
from cld_core.imports import resolve
from cld_core.run.work import Work

from .request import content_of

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
