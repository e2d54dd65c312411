"""Typer's errors about wrong usage, in the style of our other errors."""

import re
from typing import Any

from cld_core.texts import one_line

from . import whole

_NO_OPTION = "No such option: "
_KEY = re.compile(r"--([a-z]\w*(?:\.\w+)+)")
# What a value should be, by the type of what typer's validation finds. Earlier versions of typer say it themselves.
_EXPECTED = {
    "int_parsing": "a whole number is expected",
    "int_parsing_size": "a smaller number is expected",
    "int_from_float": "a whole number is expected",
    "float_parsing": "a number is expected",
    "finite_number": "a finite number is expected",
    "greater_than_equal": "at least {ge} is expected",
    "less_than_equal": "at most {le} is expected",
}


def in_words(error: Any) -> str:
    """The message for an error of typer: names the option, its value and what is expected.

    Args:
        error: one with a ``format_message``, and perhaps the context of a command.
    """
    message, context = str(error.format_message()), getattr(error, "ctx", None)
    message = _about_value(error) or message
    if message.startswith(_NO_OPTION):
        option = message.removeprefix(_NO_OPTION).split()[0].rstrip(".")
        if whole.is_one(option):
            command = context.command_path.removeprefix("cldctl ") if context is not None else "status"
            message = f"{_NO_OPTION}{option}: it goes before the command, as in `cldctl {option} {command}`"
        elif (key := _KEY.fullmatch(option.partition("=")[0])) is not None:
            message = f"{_NO_OPTION}{option}: keys of a recipe have no dashes. Write {key[1]}=VALUE"
    if message and context is not None:
        end = "" if message.endswith(("?", ".")) else "."
        message = f"{message.rstrip()}{end} See `{context.command_path} --help`."
    return message


def _about_value(error: Any) -> str | None:
    """What is wrong with the value of an option; None to use typer's own message."""
    found, names = getattr(error.__cause__, "errors", None), getattr(getattr(error, "param", None), "opts", ())
    problem = found()[0] if callable(found) and names else {}
    expected = _EXPECTED.get(problem.get("type", ""))
    if expected is None:
        return None
    numbers = {name: f"{bound:,}" for name, bound in problem.get("ctx", {}).items() if isinstance(bound, int | float)}
    return f"{' / '.join(names)} {one_line(str(problem['input']), 40)}: {expected.format(**numbers)}"
