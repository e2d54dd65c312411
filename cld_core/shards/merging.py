"""Putting complete shards together: of one origin, without a gap or an overlap, in the order of their rows."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cld_core.errors import MergeError

from . import state as states
from .files import Arrays, Sealed

if TYPE_CHECKING:
    from .sequence import WorkOfRun

Contents = Mapping[int, Mapping[str, Any]]


class Merged:
    """The shards of some work, checked against each other.

    Attributes:
        made_of: what all of them come from.

    Raises:
        MergeError: a gap, an overlap, or shards of different origins or of another request.
    """

    def __init__(self, work: "WorkOfRun") -> None:
        self._work = work
        numbers = sorted(states.begun(work.shards))
        contents = {number: states.read_state(work.shards, number) for number in numbers}
        self.made_of = self._one_origin(contents)
        self._order = {kind: self._in_order(kind, size, contents) for kind, size in work.request.sizes.items()}

    def parts(self, kind: str) -> Iterator[Arrays]:
        """What the shards kept of a kind of rows, one shard after another in the order of the rows.

        Raises:
            MergeError: a file is damaged.
        """
        for sealed in self._order[kind]:
            arrays = sealed.load()
            if arrays is None:
                file = states.sealed_file(sealed.folder, sealed.shard, kind)
                raise self._error(f"shard {sealed.shard} is damaged ({file})", "compute it again")
            yield arrays

    def _one_origin(self, contents: Contents) -> dict[str, str]:
        for number, state in contents.items():
            if state.get("request") != self._work.request.id:
                text = f"shard {number} belongs to another request, {state.get('request')}"
                raise self._error(text, "compute it again")
        origins = [{name: value for name, value in state.items() if name != "work"} for state in contents.values()]
        for origin in origins[1:]:
            for name, value in origin.items():
                if origins[0].get(name) != value:
                    raise self._error(f"its shards were made with different {name}s", "replace the stale ones")
        return dict(origins[0]) if origins else {}

    def _in_order(self, kind: str, size: int, contents: Contents) -> list[Sealed]:
        """The shards of a kind by their ranges, which together cover ``size`` rows without a seam."""
        parts = {number: state["work"][kind] for number, state in contents.items() if kind in state.get("work", {})}
        expected, order = 0, []
        for number in sorted(parts, key=lambda number: int(parts[number]["first"])):
            first, last, done = (int(parts[number][name]) for name in ("first", "last", "done"))
            if first != expected:
                seam = "a gap" if first > expected else "an overlap"
                text = f"{seam} between {min(first, expected)} and {max(first, expected)} of the {kind}"
                fix = f"Remove {self._work.shards} and re-run the same `{self._work.command}`."
                raise MergeError(f"{self._work.folder}: the shards have {text}. {fix}")
            if done != last - first:
                raise self._missing(kind, first + done, last)
            order.append(Sealed(self._work.shards, number, kind, first, last))
            expected = last
        if expected != size:
            raise self._missing(kind, expected, size)
        return order

    def _missing(self, kind: str, first: int, last: int) -> MergeError:
        return self._error(f"{first} to {last} of the {kind} are missing", "compute them")

    def _error(self, problem: str, effect: str) -> MergeError:
        fix = f"Re-run the same `{self._work.command}` to {effect}."
        return MergeError(f"{self._work.folder}: {problem}. {fix}")
