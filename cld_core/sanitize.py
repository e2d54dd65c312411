"""Cleans text from files and commands of other users before it is shown or passed on."""

import re
import time
import unicodedata

# Escape sequences of terminals: CSI (colours, cursor), OSC (titles, links, clipboard), and those of
# two characters.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]?", re.DOTALL
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Bidirectional overrides and isolates, which change the order in which text is shown.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def is_control(character: str) -> bool:
    """Whether a character controls a terminal or a script instead of being shown.

    Line breaks and tabs do. Halves of surrogate pairs, which stand for bytes that are not UTF-8,
    count, too.
    """
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _REORDERING


def has_control(text: str) -> bool:
    """Whether ``text`` contains control characters."""
    return any(map(is_control, text))


def printable(text: str, keep: str = "\n\t") -> str:
    """``text`` without escape sequences and control characters, except for those in ``keep``."""
    if text.isprintable():
        return text
    text = _SURROGATE.sub("\ufffd", _ESCAPES.sub("", text))
    return "".join(
        character for character in text if character in keep or not is_control(character)
    )


def one_line(text: object, most: int = 200) -> str:
    """One line for a message: at most ``most`` characters, without control characters."""
    line = " ".join(printable(str(text)[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def local_time(moment: float | None, form: str = "%Y-%m-%d %H:%M", unknown: str = "-") -> str:
    """A time, in seconds since 1970, in the local time zone.

    Args:
        form: a format for `time.strftime`.
        unknown: returned for None, and for a number that is out of range.
    """
    try:
        return unknown if moment is None else time.strftime(form, time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        return unknown


def fenced(content: str, language: str = "") -> str:
    """A block of code in Markdown; nothing in ``content`` ends it."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(content).rstrip()}\n{fence}"


def is_count(text: str) -> bool:
    """Whether ``text`` is a whole number in plain digits, without leading zeros."""
    return re.fullmatch(r"0|[1-9][0-9]{0,17}", text) is not None
