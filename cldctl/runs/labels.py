"""Tags and the note of a run: words to find it by, and what it is for."""

import re
from collections.abc import Sequence

from cld_core.errors import UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.events import Labelled
from cld_core.sanitize import has_control

_TAG = re.compile(r"[A-Za-z0-9._:-]{1,50}")
_MOST = 500


def check_tags(tags: Sequence[str]) -> None:
    """Raises UsageError if one of these cannot be a tag."""
    for tag in tags:
        if _TAG.fullmatch(tag) is None:
            raise UsageError(f"'{tag}' cannot be a tag: use letters, digits, '.', '_', ':' and '-', at most 50.")


def check_note(text: str) -> None:
    """Raises UsageError if this cannot be a note."""
    if has_control(text):
        raise UsageError("a note is one line without control characters. Leave them out.")
    if len(text) > _MOST:
        raise UsageError(f"a note has at most {_MOST} characters, not {len(text)}. Shorten it.")


def check(tags: Sequence[str], note: str | None) -> None:
    """Raises UsageError if a new run cannot have these."""
    check_tags(tags)
    check_note(note or "")


def label(run: RunFolder, note: str | None, tags: Sequence[str] = (), untag: Sequence[str] = ()) -> None:
    """Write down what a run is to be called.

    Args:
        note: replaces the one before; an empty text removes it, and None leaves it.
        tags: are added, and ``untag`` are removed.

    Raises:
        CldError: the run belongs to somebody who does not share it.
        UsageError: a tag or the note cannot be used, or the run does not have a tag that is to be removed.
    """
    check([*tags, *untag], note)
    if both := sorted(set(tags) & set(untag)):
        raise UsageError(f"--tag and --untag both name {', '.join(both)}. Leave one out.")
    require_may_change(run.path, "Nothing was noted")
    history = run.ledger.history()
    if missing := [tag for tag in untag if tag not in history.tags]:
        known = ", ".join(history.tags) or "none"
        raise UsageError(f"{run.name} does not have the tag {', '.join(missing)}. Its tags: {known}.")
    new = tuple(dict.fromkeys(tag for tag in tags if tag not in history.tags))
    changed = note if (note or None) != history.note else None
    if new or untag or changed is not None:
        run.ledger.append(Labelled(note=changed, add=new, remove=tuple(untag)))
