"""The classes of pictures by the folders in which they lie."""

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from cld_core.classes import LONGEST_NAME, MOST
from cld_core.sanitize import has_control


def classes_of(names: Sequence[str], splits: Collection[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and by the name of a picture its label; nothing if pictures do not lie in classes.

    Args:
        names: paths of the pictures below their source, with slashes.
        splits: names of folders that are parts of the data, below which the classes are.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if len({path[:1] for path in folders}) == 1:
        folders = [path[1:] for path in folders]  # One folder around everything.
    if {path[0] for path in folders if path} <= set(splits):
        folders = [path[1:] for path in folders]
    if not all(folders):
        return (), {}
    own = [as_text(path[0]) for path in folders]
    classes = sorted(set(own))
    if not 2 <= len(classes) <= MOST or any(len(name) > LONGEST_NAME or has_control(name) for name in classes):
        return (), {}
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(classes), {name: labels[its] for name, its in zip(names, own, strict=True)}


def as_text(name: str) -> str:
    """The name of a file, with what is not text in it replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
