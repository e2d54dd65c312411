"""Keys of a recipe as arguments of Python functions: checked as those of a file are, with errors that name them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cld_core.errors import RecipeError, did_you_mean, nearest

from .check import problems
from .eval import ElboSpec
from .keys import WRONG, convert, expectation, inside, literals, shown, type_hints
from .registry import SECTIONS, keys_of
from .sampling import SamplingSpec
from .schema import Recipe
from .sections import all_keys


def sampling_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> SamplingSpec:
    """The `sampling` section of a recipe, changed by arguments of the function ``caller``. None changes nothing.

    Another method keeps the keys that both methods have.

    Raises:
        RecipeError: there is no such argument with the method, its value is wrong, or it does not go with another.
    """
    given = _given(arguments)
    if not given:
        return recipe.sampling
    section, before = SECTIONS["sampling"], recipe.sampling
    method = given.pop("method", before.method)
    if not isinstance(method, str) or method not in section.variants:
        guess = did_you_mean(method, section.variants) if isinstance(method, str) else ""
        _refuse(caller, f"method={shown(method)}: expected one of {', '.join(section.variants)}.{guess}")
    spec = section.variants[method].spec
    _require_names(given, spec, caller, method)
    kept = {name: getattr(before, name) for name in section.kept(type(before), spec)}
    changed: SamplingSpec = spec(**{**kept, "method": method, **_values(given, spec, caller)})
    for name, other, problem in problems(dataclasses.replace(recipe, sampling=changed)):
        if "sampling" in (name.partition(".")[0], other.partition(".")[0]):
            _refuse(caller, f"{_argument(name)} {_argument(problem)}")
    try:
        changed.require_usable()
    except RecipeError as error:
        _refuse(caller, _argument(str(error)))
    return changed


def elbo_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> ElboSpec:
    """The `eval.elbo` section of a recipe, changed by arguments; as `sampling_spec`.

    Its ``eps`` is never before `objective.loss_eps`: the network has seen no smaller t.
    """
    given, spec = _given(arguments), recipe.eval.elbo
    _require_names(given, ElboSpec, caller)
    spec = dataclasses.replace(spec, **_values(given, ElboSpec, caller))
    return dataclasses.replace(spec, eps=max(spec.eps, recipe.objective.loss_eps))


def whole_number(value: Any, name: str, least: int, caller: str) -> int:
    """An argument that counts something.

    Raises:
        RecipeError: it is not a whole number, or less than ``least``.
    """
    count = convert(_plain(value), int)
    if count is WRONG or count < least:
        _refuse(caller, f"{name}={shown(value)}: expected a whole number of at least {least}.")
    return int(count)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in arguments.items() if value is not None}


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python."""
    return value.item() if getattr(value, "shape", None) == () else value


def _require_names(given: Iterable[str], spec: type, caller: str, method: str | None = None) -> None:
    """Refuse a name that is not that of a key; one that another method has is told apart."""
    section = SECTIONS["sampling"]
    for name in given:
        if name in keys_of(spec):
            continue
        names = sorted(keys_of(spec))
        if method is not None and (others := section.having(name)):
            fix = f"{_methods(others)} has it. Those of method={method!r}: {', '.join(names)}."
            _refuse(caller, f"method={method!r} has no argument {name!r}; {fix}")
        others = [] if method is None else sorted(key.partition(".")[2] for key in all_keys("sampling"))
        _refuse(caller, f"there is no argument {name!r}.{_advice(name, [*names, *others], names)}")


def _advice(name: str, names: Sequence[str], own: Sequence[str]) -> str:
    """The nearest name, and which methods have it if it is not one of the ``own``; else all names."""
    found = nearest(name, names)
    if found is None:
        return f" There are {', '.join(dict.fromkeys(names))}."
    where = "" if found in own else f" It goes with {_methods(SECTIONS['sampling'].having(found))}."
    return f" Did you mean '{found}'?{where}"


def _methods(names: Sequence[str]) -> str:
    """In words: one of some methods."""
    *others, last = map(repr, names)
    return f"method={', '.join(others)}{' or ' if others else ''}{last}"


def _values(given: Mapping[str, Any], spec: type, caller: str) -> dict[str, Any]:
    values, hints = {}, type_hints(spec)
    about = {entry.name: entry.metadata for entry in dataclasses.fields(spec)}
    for name, value in given.items():
        bounds = about[name]["bounds"]
        values[name] = convert(value, hints[name])
        if values[name] is WRONG or not inside(values[name], bounds):
            what = expectation(hints[name], bounds).replace("true or false", "True or False")
            expected = f"{what} ({about[name]['doc']})"
            guess = did_you_mean(value, literals(hints[name])) if isinstance(value, str) and len(value) < 100 else ""
            _refuse(caller, f"{name}={shown(value)}: expected {expected}.{guess}")
    return values


def _argument(text: str) -> str:
    """A message about keys as one about arguments: sampling.corrector=true is corrector=True."""
    named = re.sub(r"\bsampling\.(?=\w)", "", text)
    return re.sub(r"=(true|false)\b", lambda found: f"={found[1].title()}", named)


def _refuse(caller: str, text: str) -> None:
    raise RecipeError(f"{caller}: {text}")
