"""The page of all commands, from the typer app."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from cldctl.app import command_line

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
    lines = [line for path, command in walk() for line in _section(path, command)]
    return _HEAD + "\n".join(lines) + "\n"


def walk() -> Iterator[tuple[str, Any]]:
    """Each command with its whole name, for example `cldctl data prepare`."""
    yield from _walk("cldctl", typer.main.get_command(command_line()))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield path, command
        return
    for name, child in subcommands.items():
        if not child.hidden:
            yield from _walk(f"{path} {name}", child)


def _section(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = re.sub(r"[{}]", "", " ".join([path, *command.collect_usage_pieces(context)]))
    yield from ("", f"## {path.removeprefix('cldctl ')}", "", "```text", usage, "```", "")
    for paragraph in (command.help or "").split("\n\n"):
        text, _, example = paragraph.strip().partition("Example: ")
        if example:
            yield from ("```sh", " ".join(example.split()), "```", "")
        else:
            yield from (text, "")
    rows = []
    for parameter in command.params:
        record = None if parameter.hidden else parameter.get_help_record(context)
        if record is not None:
            names, meaning = record
            rows.append(f"| `{_names(names)}` | {_cell(meaning)} |")
    if rows:
        yield from ("| argument or option | meaning |", "| -- | -- |", *rows, "")


def _names(text: str) -> str:
    """The names of an argument or option, with the usual word for the type of its value."""
    if not text.startswith("-"):
        return text.partition(" <")[0]
    return re.sub(r" <([^>]+)>$", lambda match: f" {_TYPES.get(match[1], match[1].upper())}", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
