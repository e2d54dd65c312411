"""Which runs have losses that mean the same: those of the same data, diffusion and objective."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cld_core.errors import CldError
from cld_core.recipe import Recipe
from cld_core.recipe.reading import to_yaml_line
from cld_core.run import RunFolder
from cld_core.run.same_data import are_other, known_data
from cld_core.texts import one_line
from cldctl.runs.status import RunStatus

# Where data lie, which a ledger knows better; and how they are read, which changes nothing.
_PLACES, _READING = ("path", "plugin"), ("cache", "threads")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What the losses of a run are of.

    Attributes:
        content: what identifies its data, as its ledger notes; empty if it does not.
    """

    recipe: Recipe
    content: Mapping[str, str]

    def is_like(self, other: "_Subject") -> bool:
        return self._settings == other._settings and self._has_data_of(other)

    @property
    def _settings(self) -> list[dict[str, Any]]:
        data = {key: value for key, value in asdict(self.recipe.data).items() if key not in (*_PLACES, *_READING)}
        return [data, asdict(self.recipe.sde), asdict(self.recipe.objective)]

    def _has_data_of(self, other: "_Subject") -> bool:
        if self.content.keys() & other.content.keys():
            return not are_other(self.content, other.content)
        return all(getattr(self.recipe.data, it, None) == getattr(other.recipe.data, it, None) for it in _PLACES)

    def title(self, *, whole_path: bool = False) -> str:
        """Data, diffusion and objective, and their settings that are not defaults."""
        recipe = self.recipe
        unusual = [text for spec in (recipe.data, recipe.sde, recipe.objective) for text in _unusual(spec)]
        return ", ".join([self._data(whole_path), recipe.sde.name, recipe.objective.name, *unusual])

    def _data(self, whole_path: bool) -> str:
        """What the data are called. Of a set that has one content, the place is not part of the name."""
        data = self.recipe.data
        place = next((value for it in _PLACES if (value := getattr(data, it, None)) is not None), None)
        if place is None or (data.name != "folder" and hasattr(data, "path") and not whole_path):
            return data.name
        return f"{data.name} ({one_line(place if whole_path else Path(place).name)})"


def groups(rows: Sequence[RunStatus]) -> dict[str, list[RunStatus]]:
    """The runs whose losses can be compared, by what these are of, in words; both in the order of ``rows``.

    A run whose recipe cannot be read is alone, and comes last.
    """
    found: list[list[tuple[_Subject, RunStatus]]] = []
    alone: list[RunStatus] = []
    for row in rows:
        subject = _subject(RunFolder(row.path))
        if subject is None:
            alone.append(row)
            continue
        # Of all members: two that differ may each be like a third one, whose ledger tells nothing of its data.
        alike = (group for group in found if all(subject.is_like(other) for other, _ in group))
        group = next(alike, None)
        if group is None:
            found.append(group := [])
        group.append((subject, row))
    named: dict[str, list[RunStatus]] = {}
    for group in found:
        others = [other[0][0] for other in found if other is not group]
        subject, newest = group[0]
        named[_title(subject, newest.name, others)] = [row for _, row in group]
    return named | {f"{row.name}, whose recipe cannot be read": [row] for row in alone}


def _title(subject: _Subject, name: str, others: Sequence[_Subject]) -> str:
    """A title that no other group has, as short as it can be; ``name`` is that of the newest run of the group."""
    for whole_path in (False, True):
        title = subject.title(whole_path=whole_path)
        if all(title != other.title(whole_path=whole_path) for other in others):
            return title
    return f"{title}, data as in {name}"


def _subject(run: RunFolder) -> _Subject | None:
    try:
        return _Subject(recipe=run.recipe(), content=known_data(run.ledger.history()))
    except (CldError, OSError):
        return None


def _unusual(spec: Any) -> Iterator[str]:
    for entry in fields(spec):
        value = getattr(spec, entry.name)
        if entry.name not in ("name", *_PLACES, *_READING) and value != entry.default:
            yield f"{entry.name}={to_yaml_line(value)}"
