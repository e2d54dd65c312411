"""How ``--help`` shows a command."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help shows no type for flags, or for arguments whose name says what they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """As `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        is_named = param.param_type_name == "argument" and param.metavar is not None
        # Earlier versions of typer show no such types.
        if (is_named or getattr(param, "is_flag", False)) and hasattr(param, "display_type_rich"):
            param.display_type_rich = _nothing
    return params


def _nothing(ctx: Any) -> str:
    return ""
