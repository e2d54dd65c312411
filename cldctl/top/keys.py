"""The keys of a screen in one line: whole words only, and fewer of them where there is no room."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

# A key and what it does; the last ones go first where there is no room.
Keys = Sequence[tuple[str, str]]
_GAP = 2


def key_line(keys: Keys, always: Keys, width: int) -> Text:
    """As many of ``keys`` as fit beside ``always``, which stand at the end."""
    left = width - sum(_size(entry) for entry in always)
    shown: list[tuple[str, str]] = []
    for entry in keys:
        left -= _size(entry)
        if left < -_GAP:
            break
        shown.append(entry)
    text = Text(no_wrap=True)
    for place, (key, what) in enumerate([*shown, *always]):
        text.append(" " * _GAP if place else "").append(key, "bold reverse").append(f" {what}")
    return text


def _size(entry: tuple[str, str]) -> int:
    return cell_len(entry[0]) + 1 + cell_len(entry[1]) + _GAP
