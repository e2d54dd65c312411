"""Which folders of a run a page reads: a page is for showing around, and a run may be somebody else's."""

from collections.abc import Iterable
from pathlib import Path

from cld_core.run import RunFolder


class Places:
    """The folders of one run.

    Args:
        follow: also read folders that links lead out of the run to, as somebody has who keeps them on another disk.
    """

    def __init__(self, run: RunFolder, *, follow: bool = False) -> None:
        self._run, self._home, self._follow = run.path, run.path.resolve(), follow
        self._folders = (run.tensorboard, run.samples, run.evals, run.logs)

    def is_inside(self, folder: Path) -> bool:
        """Whether a folder may be read."""
        try:
            return self._follow or folder.resolve().is_relative_to(self._home)
        except (OSError, RuntimeError):  # A link that leads to itself.
            return False

    def inside(self, files: Iterable[Path]) -> list[Path]:
        """Those of ``files`` whose folders may be read."""
        return [file for file in files if self.is_inside(file.parent)]

    @property
    def left_out(self) -> list[str]:
        """The folders that are not read, by their paths in the run."""
        outside = [folder for folder in self._folders if not self.is_inside(folder)]
        links = (link for folder in self._folders if folder not in outside for link in _links_in(folder))
        return [str(folder.relative_to(self._run)) for folder in (*outside, *links) if not self.is_inside(folder)]


def _links_in(folder: Path) -> list[Path]:
    """The links to folders that a folder holds, sorted; none if it cannot be listed."""
    try:
        return sorted(inner for inner in folder.iterdir() if inner.is_symlink() and inner.is_dir())
    except OSError:
        return []
