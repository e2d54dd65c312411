"""Prepared images on disk, and whether those of a recipe are there. Loads no torch, and numpy for labels only.

    DIR/about.json     name, size, numbers and digests of the images of each split, names of the classes, the source
    DIR/images.npy     uint8 of shape (N, 3, H, W): the images for training, and after them those for validation
    DIR/labels.npy     if the images have classes: int64 of shape (N,), the index of each image's class

LMDB files in the published form are used as they are (`cld_core.data.lmdb_images`). While a data set is being
prepared it is called DIR.partial, so a folder DIR is always complete.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cld_core.classes import Classes
from cld_core.codec import from_plain
from cld_core.config.data import DataSpec, ImageDataSpec
from cld_core.errors import DataError
from cld_core.files import parse_json, read_bytes
from cld_core.sanitize import one_line

if TYPE_CHECKING:
    import numpy as np

FORMAT, PUBLISHED = "cld-arrays/1", "lmdb"
ABOUT, IMAGES, LABELS = "about.json", "images.npy", "labels.npy"
# The finished parts of a preparation; removed when it is complete.
PROGRESS = "progress.json"
CHANNELS = 3

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """The number of images of a split, and the digest of their bytes; of LMDB files, the size of the file in words."""

    count: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class About:
    """What a prepared data set is.

    Attributes:
        size: height and width in pixels.
        bytes: size of the file of images; of LMDB files in the published form, of that for training.
        classes: names of the classes; empty if the images have no labels.
        labels: digest of the labels.
        source: name of what it was made from.
        source_digest: of that source's files and of how they were read.
    """

    name: str
    size: int
    splits: Mapping[Split, SplitInfo]
    bytes: int
    classes: tuple[str, ...] = ()
    labels: str = ""
    source: str = ""
    source_digest: str = ""
    format: str = FORMAT

    def __post_init__(self) -> None:
        """Raises ValueError: it cannot be that of a data set."""
        if not self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError(f"its splits are not among {', '.join(SPLITS)}")
        if min(self.size, self.bytes, *(info.count for info in self.splits.values())) < 1:
            raise ValueError("a number in it is below 1")
        if self.classes:
            Classes(self.classes, (1.0,) * len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array of all images."""
        return (sum(info.count for info in self.splits.values()), CHANNELS, self.size, self.size)

    def rows(self, split: str) -> slice:
        """The place of a split among the images.

        Raises:
            DataError: there is no such split.
        """
        first = 0
        for name in SPLITS:
            count = self.splits[name].count if name in self.splits else 0
            if name == split and count:
                return slice(first, first + count)
            first += count
        raise DataError(f"there is no {split} split, only {', '.join(self.splits)}.")


def blake2b(content: Any) -> str:
    """BLAKE2b-128 of an array or of bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def partial_path(root: Path) -> Path:
    """The folder of a data set until it is complete."""
    whole = root.absolute()
    return whole.parent / f"{whole.name}.partial"


def prepare_hint(name: str, root: Path | str, pixels: int | None = None) -> str:
    """The command that makes the data set, for the end of an error message; ``pixels`` of a side, if they are known."""
    size = f" --size {pixels or 'PIXELS'}" if name == "folder" else ""
    return f"cldctl data prepare {name} --source PATH --out {root}{size}"


def read_about(root: Path) -> About | None:
    """What the prepared data set in ``root`` is; None if there is none.

    Raises:
        DataError: the file that describes it is damaged or of another format.
    """
    path = root / ABOUT
    try:
        content = parse_json(read_bytes(path, follow=True))
        form = content.get("format") if isinstance(content, dict) else FORMAT
        if form == FORMAT:
            return from_plain(About, content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        text = f"{path} does not describe a prepared data set ({one_line(error)})"
        raise DataError(f"{text}. Remove {root} and prepare the data again.") from error
    text = f"{path} has the format {one_line(repr(form), 40)}; this version reads {FORMAT!r}"
    raise DataError(f"{text}. Prepare the data again, into another folder.")


def find(path: str | Path, name: str = "folder", pixels: int | None = None) -> About:
    """What is known of the images in a folder, which are not read.

    Args:
        name: the data set of the recipe; "folder" accepts any.
        pixels: height and width; None accepts any.

    Raises:
        DataError: there are no images, or other ones; the message ends with the command that prepares them.
    """
    root, fix = Path(path).expanduser(), "To prepare it"
    try:
        about = read_about(root)
        if about is None:
            about = _published(root)
        elif name not in ("folder", about.name):
            raise DataError(f"{root} holds {about.name}, not {name}.")
        elif (there := bytes_of(root / IMAGES)) != about.bytes:
            fix = f"Remove {root} and prepare it again"
            text = f"has {there} bytes, but {ABOUT} says {about.bytes}: it was copied incompletely or changed"
            raise DataError(f"{root.absolute() / IMAGES} {text}.")
        if pixels not in (None, about.size):
            raise DataError(f"{root} has images of {about.size}x{about.size}, not {pixels}x{pixels}.")
    except DataError as error:
        raise DataError(f"{error} {fix}: {prepare_hint(name, path, pixels)}") from error
    return about


def bytes_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _published(root: Path) -> About:
    """What LMDB files in the published form hold."""
    from .lmdb_images import published

    readers = {split: reader for split in SPLITS if (reader := published(root, split)) is not None}
    if "train" not in readers:
        if partial_path(root).is_dir():
            raise DataError(f"the preparation of {root.absolute()} is unfinished: the same command continues it.")
        raise DataError(f"there is no prepared data set in {root.absolute()}.")
    return About(
        name="published",
        size=readers["train"].shape[-1],
        splits={split: SplitInfo(count=it.shape[0], digest=it.about) for split, it in readers.items()},
        bytes=readers["train"].bytes,
        format=PUBLISHED,
    )


def require(spec: DataSpec) -> None:
    """Check that the images of a recipe are there and look right, without reading them; toy data always pass.

    Raises:
        DataError: they are missing or not those of the recipe; the message ends with the command that prepares them.
    """
    if isinstance(spec, ImageDataSpec):
        about_of(spec)


def about_of(spec: ImageDataSpec) -> About:
    """What is known of the images of a recipe; raises as `require` does."""
    about = find(spec.path, spec.name, spec.pixels)
    if spec.labels and not about.classes:
        why = "it was prepared from pictures that do not lie in folders of classes"
        text = f"{Path(spec.path).absolute()} has no labels, which data.labels=true needs: {why}"
        raise DataError(f"{text}. To prepare it: {prepare_hint(spec.name, spec.path, spec.pixels)}")
    return about


def split_of(spec: ImageDataSpec, split: Split) -> SplitInfo:
    """How many images a split of a recipe's data has, and their digest.

    Raises:
        DataError: the data or the split are missing.
    """
    splits = about_of(spec).splits
    if split not in splits:
        hint = prepare_hint(spec.name, spec.path, spec.pixels)
        raise DataError(f"{Path(spec.path).absolute()} has no {split} images. Prepare the data again with some: {hint}")
    return splits[split]


def read_labels(root: Path, about: About, split: str) -> "np.ndarray":
    """The labels of a split, int64 of shape (count,), each an index of ``about.classes``.

    Raises:
        DataError: they are missing, or not those that were written.
    """
    import numpy as np

    path = root / LABELS
    try:
        labels: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}). Remove {root} and prepare it again.") from error
    if blake2b(labels.tobytes()) != about.labels:
        raise DataError(f"{path} does not hold the labels that {ABOUT} describes. Remove {root} and prepare it again.")
    return labels[about.rows(split)]
