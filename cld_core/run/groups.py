"""Runs that were submitted together, as a sweep of trainings, and the folder beside them that they share.

RUNS/.groups/NAME/group.json    the runs, and what each has of its own: value by key
RUNS/.groups/NAME/code/         the code that its runs share; other code of a later sweep: code-DIGEST
RUNS/.groups/NAME/logs/         output of the jobs that trained several of them
"""

from collections.abc import Mapping
from pathlib import Path

from cld_core.small_files import read_object, text

from . import code
from .atomic import write_json
from .folder import RunFolder, find_runs, is_name

GROUPS = code.GROUPS


class Group:
    """The runs of a group under ``root``, and its files. A run belongs to it if it says so itself, too."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root.absolute(), name

    @classmethod
    def of(cls, run: RunFolder) -> "Group | None":
        """The group that a run belongs to."""
        name = run.identity().get("group")
        return cls(run.path.parent, name) if name is not None and is_name(name) else None

    @property
    def path(self) -> Path:
        return self.root / GROUPS / self.name

    @property
    def file(self) -> Path:
        return self.path / "group.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def members(self) -> dict[str, dict[str, str]]:
        """What each run of the group has of its own, by its name; of removed runs, too. Empty if the file is lost."""
        listed = read_object(self.file).get("runs")
        entries = listed.items() if isinstance(listed, dict) else ()
        return {name: values for name, entry in entries if is_name(name) and (values := _values(entry)) is not None}

    def add(self, members: Mapping[str, Mapping[str, str]]) -> None:
        """List further runs.

        Raises:
            OSError: the file cannot be written.
        """
        runs = {**self.members(), **{name: dict(values) for name, values in members.items()}}
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {"name": self.name, "runs": runs})

    def runs(self) -> list[RunFolder]:
        """The runs that exist, in the order in which they were submitted."""
        listed = [RunFolder(self.root / name) for name in self.members()]
        found = listed or find_runs(self.root)
        return [run for run in found if run.exists and run.identity().get("group") == self.name]


def values_of(run: RunFolder) -> dict[str, str]:
    """What a run of a group has of its own, value by key; empty for other runs."""
    return _values(run.identity().get("sweep")) or {}


def find_group(root: Path, name: str) -> Group | None:
    """The group of this name, if it has a run."""
    if not is_name(name):
        return None
    group = Group(root, name)
    return group if group.file.exists() and group.runs() else None


def _values(entry: object) -> dict[str, str] | None:
    if not isinstance(entry, dict) or not all(text(part) is not None for pair in entry.items() for part in pair):
        return None
    return dict(entry)
