"""Groups: runs that were submitted together, as a sweep of trainings, and their common folder.

RUNS/.groups/NAME/group.json    the runs, and their own values by key
RUNS/.groups/NAME/logs/         output of the jobs that trained several of them
RUNS/.groups/NAME/code/         the code that these jobs import: hard links to that of the runs
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cld_core.files import write_json
from cld_core.records import find_record, to_plain

from .folder import RunFolder, find_runs, is_name

# The folder of the groups, beside the runs.
GROUPS = ".groups"


@dataclass(frozen=True)
class _Listed:
    """The content of `group.json`."""

    name: str
    runs: Mapping[str, Mapping[str, str]]


class Group:
    """The runs of a group under ``root``, and its files. `run.json` of its runs names it, too."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root.absolute()
        self.name = name
        self.path = self.root / GROUPS / name
        self.file = self.path / "group.json"
        # Output of the jobs that trained several of its runs.
        self.logs = self.path / "logs"

    @classmethod
    def of(cls, run: RunFolder) -> "Group | None":
        """The group that a run belongs to."""
        name = run.identity().get("group")
        return cls(run.path.parent, name) if name is not None and is_name(name) else None

    def members(self) -> dict[str, dict[str, str]]:
        """The values of each run of the group, also of removed ones, by its name.

        Empty if the file is lost.
        """
        listed = find_record(_Listed, self.file)
        if listed is None:
            return {}
        return {name: dict(values) for name, values in listed.runs.items() if is_name(name)}

    def add(self, members: Mapping[str, Mapping[str, str]]) -> None:
        """List further runs.

        Raises:
            OSError: the file cannot be written.
        """
        # If the file is damaged, the runs themselves have the values.
        listed = self.members() or {run.name: values_of(run) for run in self.runs()}
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.file, to_plain(_Listed(self.name, {**listed, **members})))

    def runs(self) -> list[RunFolder]:
        """The runs that exist, in the order in which they were submitted."""
        names = self.members()
        listed = [RunFolder(self.root / name) for name in names]
        members = []
        for run in listed or find_runs(self.root):
            is_member = run.identity().get("group") == self.name
            # A listed run with a damaged `run.json` is shown, too.
            if run.exists and (is_member or (names and run.is_damaged)):
                members.append(run)
        return members


def values_of(run: RunFolder) -> dict[str, str]:
    """The values of a run of a group by key; empty for other runs."""
    return dict(run.identity().get("sweep", {}))


def find_group(root: Path, name: str) -> Group | None:
    """The group of this name, if it has a run."""
    if not is_name(name):
        return None
    group = Group(root, name)
    return group if group.file.exists() and group.runs() else None
