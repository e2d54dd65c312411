"""What changed between the attempts of a run that may change its results: code, packages, driver, GPU, data, recipe."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from cld_core.run import RunFolder
from cld_core.run import recipe as frozen
from cld_core.run.history import Attempt, History
from cld_core.run.identity import PLUGIN, are_other_data
from cld_core.sanitize import local_time

# Of a digest, people compare the first digits.
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}")


def changed_between(history: History) -> list[str]:
    """The last change of each thing, a line each, in words for a warning; what an attempt does not tell is left out."""
    lines: dict[str, str] = {}
    known: dict[str, str] = {}
    for attempt in history.attempts:
        for name, value in _told(attempt).items():
            before = known.get(name, value)
            known[name] = value
            if value != before:
                lines.pop(name, None)
                lines[name] = f"{name} {_short(value)} instead of {_short(before)}, {_since(attempt)}"
    edited = [f"recipe.yaml was edited by hand: {history.edited}"] if history.edited else []
    return [*lines.values(), *_other_data(history), *_other_code(history), *edited]


def changed_by_now(run: RunFolder, history: History) -> list[str]:
    """As `changed_between`, also what was edited since the last start, which no ledger tells of yet."""
    now = frozen.seen(run)
    return changed_between(history if now is None else replace(history, edited=now))


def _told(attempt: Attempt) -> Mapping[str, str]:
    told = {"code": attempt.code, **attempt.versions, "GPU": attempt.gpu, "driver": attempt.driver}
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _other_data(history: History) -> Iterator[str]:
    """The last attempt that began to train on other data; or whose plug-in is another file, with the same points."""
    told = [attempt for attempt in history.attempts if attempt.data]
    for before, attempt in reversed(list(pairwise(told))):
        if are_other_data(attempt.data, before.data):
            yield f"other data than before, {_since(attempt)}"
            return
        now, was = attempt.data.get(PLUGIN), before.data.get(PLUGIN)
        if now is not None and was is not None and now != was:
            text = f"plug-in {_short(now)} instead of {_short(was)}, {_since(attempt)}"
            yield f"{text}; its first points are the same"
            return


def _other_code(history: History) -> Iterator[str]:
    """A job that does not find the run's code, as in a container that hides it, runs whatever is installed there."""
    last = history.last
    if last is None or last.code is None or last.asked in (None, "live", last.code):
        return
    yield f"attempt {last.attempt} runs code {_short(last.code)}, not that of the run, {_short(last.asked or '')}"


def _since(attempt: Attempt) -> str:
    """From which attempt on, and when that began."""
    return f"since attempt {attempt.attempt} ({local_time(attempt.started)})"


def _short(value: str) -> str:
    return _DIGEST.sub(r"\1", value)
