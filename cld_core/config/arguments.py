"""Keys of a recipe as arguments of Python functions: checked as those of a file are, with errors that name them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cld_core.errors import RecipeError

from .eval import ElboSpec
from .keys import WRONG, convert, shown
from .loader import changed_section
from .sampling import SamplingSpec
from .schema import Recipe


def sampling_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> SamplingSpec:
    """The `sampling` section of a recipe, changed by arguments of the function ``caller``. None changes nothing.

    Another method keeps the keys that both methods have.

    Raises:
        RecipeError: there is no such argument with the method, its value is wrong, or it does not go with another.
    """
    given = _given(arguments)
    if not given:
        return recipe.sampling
    with _about_arguments("sampling", caller):
        changed = changed_section(recipe, "sampling", given, caller).sampling
        changed.require_usable()
    return changed


def elbo_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> ElboSpec:
    """The `eval.elbo` section of a recipe, changed by arguments; as `sampling_spec`.

    Its ``eps`` is never before `objective.loss_eps`: the network has seen no smaller t.
    """
    with _about_arguments("eval.elbo", caller):
        spec = changed_section(recipe, "eval.elbo", _given(arguments), caller).eval.elbo
    return dataclasses.replace(spec, eps=max(spec.eps, recipe.objective.loss_eps))


def whole_number(value: Any, name: str, least: int, caller: str) -> int:
    """An argument that counts something.

    Raises:
        RecipeError: it is not a whole number, or less than ``least``.
    """
    count = convert(_plain(value), int)
    if count is WRONG or count < least:
        raise RecipeError(f"{caller}: {name}={shown(value)}: expected a whole number of at least {least}.")
    return int(count)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in arguments.items() if value is not None}


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python."""
    return value.item() if getattr(value, "shape", None) == () else value


@contextmanager
def _about_arguments(section: str, caller: str) -> Iterator[None]:
    """Messages about keys as ones about arguments: sampling.corrector=true is corrector=True."""
    try:
        yield
    except RecipeError as error:
        named = re.sub(rf"\b{re.escape(section)}\.(?=\w)", "", str(error))
        named = re.sub(r"=(true|false)\b", lambda found: f"={found[1].title()}", named)
        raise RecipeError(named if named.startswith(caller) else f"{caller}: {named}") from error
