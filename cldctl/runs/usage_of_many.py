"""What many runs have used: each, their groups, and all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.run import RunFolder
from cld_core.texts import one_line

from .usage import Usage, summed, usage_of


@dataclass(frozen=True)
class Folder:
    """Usage by name of the run, with its group; by group; and in total, by unit.

    Attributes:
        problems: which runs are left out, and why.
    """

    runs: Sequence[tuple[str, str | None, Usage]]
    groups: Mapping[str, Sequence[Usage]]
    totals: Sequence[Usage]
    problems: Sequence[str]

    @classmethod
    def of(cls, runs: Iterable[RunFolder], *, since: float = 0.0) -> "Folder":
        found: list[tuple[str, str | None, Usage]] = []
        problems = []
        for run in runs:
            try:
                problem = run.format_problem()
                if problem is None:
                    found.append((run.name, run.identity().get("group"), usage_of(run, since=since)))
            except Exception as error:  # What is wrong with one run does not hide the others.
                problem = f"{run.name} is left out: {one_line(error) or type(error).__name__}"
            if problem is not None:
                problems.append(problem)
        names = dict.fromkeys(group for _, group, _ in found if group is not None)
        groups = {name: summed(usage for _, group, usage in found if group == name) for name in names}
        return cls(found, groups, summed(usage for *_, usage in found), problems)

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [{"name": name, "group": group, **usage.to_dict()} for name, group, usage in self.runs],
            "groups": [{"name": name, **usage.to_dict()} for name, usages in self.groups.items() for usage in usages],
            "totals": [usage.to_dict() for usage in self.totals],
            "problems": list(self.problems),
        }
