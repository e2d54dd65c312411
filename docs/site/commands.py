"""The page of all commands, from the typer app."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from cldctl.app import app

_HEAD = """# Commands

Generated from `cldctl COMMAND --help`. [The command line](../cli.md) has exit codes, JSON fields,
and what goes on behind the commands.
"""

_TYPES = {
    "str": "TEXT",
    "list[str]": "TEXT",
    "int": "N",
    "int range": "N",
    "float range": "X",
    "float": "X",
}


def page() -> str:
    """The Markdown of the page."""
    return (
        _HEAD
        + "\n".join(line for path, command in walk() for line in _section(path, command))
        + "\n"
    )


def walk() -> Iterator[tuple[str, Any]]:
    """Each command with its whole name, for example `cldctl data prepare`."""
    yield from _walk("cldctl", typer.main.get_command(app))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, child in below.items():
        if not child.hidden:
            yield from _walk(f"{path} {name}", child)


def _section(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = re.sub(r"[{}]", "", " ".join([path, *command.collect_usage_pieces(context)]))
    yield from ("", f"## {path.removeprefix('cldctl ')}", "", "```text", usage, "```", "")
    for paragraph in (command.help or "").split("\n\n"):
        name, _, example = paragraph.strip().partition("Example: ")
        yield from ([name, ""] if not example else ["```sh", " ".join(example.split()), "```", ""])
    records = [
        parameter.get_help_record(context) for parameter in command.params if not parameter.hidden
    ]
    rows = [f"| `{_names(names)}` | {_cell(meaning)} |" for names, meaning in filter(None, records)]
    if rows:
        yield from ("| argument or option | meaning |", "| -- | -- |", *rows, "")


def _names(text: str) -> str:
    """The names of an argument or option, with the usual words for the types of its value; a code
    span."""
    if not text.startswith("-"):
        return text.partition(" <")[0]
    return re.sub(r" <([^>]+)>$", lambda match: f" {_TYPES.get(match[1], match[1].upper())}", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
