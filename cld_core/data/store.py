"""Prepared images on disk. Loads no torch, and numpy only to read images and labels.

    DIR/about.json     name, size, numbers and digests of the images of each split, names of the
                       classes, the source
    DIR/images.npy     uint8 of shape (N, C, H, W): the images for training, and after them those
                       for validation; C is 1 for grey images and 3 for others
    DIR/labels.npy     if the images have classes: int64 of shape (N,), the index of each image's
                       class

LMDB files in the published form are used as they are: in DIR/train.lmdb or DIR/train, and likewise
for validation, raw bytes (H, W, 3) under the keys "0", "1", ... While a data set is being prepared
it is called DIR.partial, so a folder DIR is always complete.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from cld_core.classes import Classes
from cld_core.config.data import ArraysSpec, DataSpec, ImageDataSpec, StoredDataSpec
from cld_core.config.keys import Shape
from cld_core.errors import DataError
from cld_core.files import parse_json, read_bytes
from cld_core.records import from_plain, record
from cld_core.sanitize import one_line

from .format import GREY_LEVELS, SPLITS, Split

if TYPE_CHECKING:
    import lmdb
    import numpy as np

    from .arrays import Arrays

PUBLISHED: Final = "lmdb"
ABOUT = "about.json"
IMAGES = "images.npy"
LABELS = "labels.npy"
# The finished parts of a preparation; removed when it is complete.
PROGRESS = "progress.json"
# The channels of coloured images.
CHANNELS = 3
# LMDB may leave so many pages at the end of an intact file unwritten, if it freed them at once.
_UNWRITTEN_PAGES = 16
_AGAIN = "Copy or prepare it again."


@record
class SplitInfo:
    """The number of images of a split, and the digest of their bytes.

    For LMDB files, the digest is `LmdbReader.about`.
    """

    count: int
    digest: str


@record
class DatasetInfo:
    """The description of a prepared data set.

    Attributes:
        size: height and width in pixels.
        channels: 1 for grey images, 3 for coloured ones.
        bytes: size of the file of images, or of the LMDB file for training.
        classes: names of the classes; empty if the images have no labels.
        labels: digest of the labels.
        source: name of the folder or archive that it was made from.
        source_digest: digest of the parts of that source, see `prepare.Plan`.
    """

    name: str
    size: int
    splits: Mapping[Split, SplitInfo]
    bytes: int
    channels: int = CHANNELS
    classes: tuple[str, ...] = ()
    labels: str = ""
    source: str = ""
    source_digest: str = ""
    format: Literal["cld-arrays/1", "lmdb"] = "cld-arrays/1"

    def __post_init__(self) -> None:
        """Raises ValueError: these values cannot describe a data set."""
        if not self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError(f"its splits are not among {', '.join(SPLITS)}")
        if min(self.size, self.bytes, *(info.count for info in self.splits.values())) < 1:
            raise ValueError("a number in it is below 1")
        if self.channels not in (1, CHANNELS):
            raise ValueError(f"its images have {self.channels} channels")
        if self.classes:
            Classes(self.classes, (1.0,) * len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all images."""
        count = sum(info.count for info in self.splits.values())
        return (count, self.channels, self.size, self.size)

    @property
    def words(self) -> str:
        """The kind of the images, such as "grey images of 28x28"."""
        return f"{'grey ' if self.channels == 1 else ''}images of {self.size}x{self.size}"

    def rows(self, split: Split) -> slice:
        """The place of a split among the images."""
        earlier = SPLITS[: SPLITS.index(split)]
        first = sum(self.splits[name].count for name in earlier if name in self.splits)
        return slice(first, first + self.splits[split].count)


def blake2b(content: Any) -> str:
    """BLAKE2b-128 of an array or of bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def partial_path(root: Path) -> Path:
    """The folder of a data set until it is complete."""
    whole = root.absolute()
    return whole.parent / f"{whole.name}.partial"


def prepare_hint(name: str, root: Path | str, pixels: int | None = None) -> str:
    """The command that makes the data set, for the end of an error message."""
    size = f" --size {pixels or 'PIXELS'}" if name == "folder" else ""
    return f"cldctl data prepare {name} --source PATH --out {root}{size}"


def read_about(root: Path) -> DatasetInfo | None:
    """The description of the prepared data set in ``root``; None if there is none.

    Raises:
        DataError: the file that describes it is damaged or of another format.
    """
    path = root / ABOUT
    try:
        return from_plain(DatasetInfo, parse_json(read_bytes(path, follow=True)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} does not describe a prepared data set of this version ({one_line(error)}). "
            "Prepare the data again, into another folder."
        ) from error


def find(
    path: str | Path, name: str = "folder", pixels: int | None = None, channels: int | None = None
) -> "Prepared":
    """The prepared images in a folder, which are not read.

    Args:
        name: the data set of the recipe; "folder" accepts any.
        pixels: height and width; None accepts any.
        channels: 1 or 3; None accepts either.

    Raises:
        DataError: there are no images, or other ones; the message ends with the command that
            prepares them.
    """
    root = Path(path).expanduser()
    hint = prepare_hint(name, path, pixels)
    about = read_about(root)
    if about is None:
        about = _published(root, hint)
    elif name not in ("folder", about.name):
        raise DataError(f"{root} holds {about.name}, not {name}. To prepare it: {hint}")
    elif (size := bytes_of(root / IMAGES)) != about.bytes:
        raise DataError(
            f"{root.absolute() / IMAGES} has {size} bytes, but {ABOUT} says {about.bytes}: "
            f"it was copied incompletely or changed. Remove {root} and prepare it again: {hint}"
        )
    if pixels not in (None, about.size):
        raise DataError(
            f"{root} has images of {about.size}x{about.size}, not {pixels}x{pixels}. "
            f"To prepare it: {hint}"
        )
    if channels not in (None, about.channels):
        raise DataError(
            f"{root} has images of shape {about.shape[1:]}, and data.channels is {channels}. "
            f"Set data.channels=null, or prepare it again: {hint}"
        )
    return Prepared(root, about, hint)


def bytes_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _published(root: Path, hint: str) -> DatasetInfo:
    """The description of LMDB files in the published form; ``hint`` as in `Prepared`."""
    readers = {split: reader for split in SPLITS if (reader := published(root, split)) is not None}
    if "train" not in readers:
        if partial_path(root).is_dir():
            raise DataError(
                f"the preparation of {root.absolute()} is unfinished. To continue it: {hint}"
            )
        raise DataError(
            f"there is no prepared data set in {root.absolute()}. To prepare it: {hint}"
        )
    splits = {
        split: SplitInfo(count=reader.shape[0], digest=reader.about)
        for split, reader in readers.items()
    }
    return DatasetInfo(
        name="published",
        size=readers["train"].shape[-1],
        splits=splits,
        bytes=readers["train"].bytes,
        format=PUBLISHED,
    )


def of(spec: StoredDataSpec) -> "Prepared | Arrays":
    """The examples of a recipe. Neither images nor the numbers of arrays are read.

    Raises:
        DataError: they are missing or not those of the recipe; the message ends with the fix, for
            images with the command that prepares them.
    """
    if isinstance(spec, ArraysSpec):
        from . import arrays

        return arrays.find(spec)
    assert isinstance(spec, ImageDataSpec), "stored examples are images or arrays"
    images = find(spec.path, spec.name, spec.pixels, spec.channels)
    if spec.labels and not images.about.classes:
        raise DataError(
            f"{images.where.absolute()} has no labels, which data.labels=true needs: it was "
            "prepared from pictures that do not lie in folders of classes. "
            f"To prepare it: {images.hint}"
        )
    return images


def require(spec: DataSpec, say: Callable[[str], object] = lambda text: None) -> Shape:
    """Check stored data: the description of images, and the numbers of arrays (`Arrays.look`).

    Args:
        say: called with each warning about the data.

    Returns:
        The shape of an example, (C, ...); empty if only a plug-in knows it.

    Raises:
        DataError: the data are missing or not those of the recipe, or arrays have numbers that
            cannot be used.
    """
    if not isinstance(spec, StoredDataSpec):
        return getattr(spec, "shape", None) or ()
    examples = of(spec)
    for text in examples.look():
        say(text)
    return examples.shape


def keys_of(path: Path) -> dict[str, Any]:
    """The `data` section of a recipe for the data at a path: prepared images, or else arrays."""
    is_prepared = any(
        (path / name).is_file() for name in (ABOUT, "train/data.mdb", "train.lmdb/data.mdb")
    )
    return {"name": "folder" if is_prepared else "arrays", "path": str(path)}


@dataclass(frozen=True)
class Prepared:
    """The prepared images of a recipe. `arrays.Arrays` has the same properties and methods.

    Attributes:
        where: the folder.
        hint: the command that prepares them.
        grey_levels: the grey levels of a pixel.
    """

    where: Path
    about: DatasetInfo
    hint: str
    grey_levels: ClassVar[int | None] = GREY_LEVELS

    @property
    def shape(self) -> Shape:
        """The shape of an image, (C, H, W)."""
        return self.about.shape[1:]

    @property
    def classes(self) -> Classes | None:
        """The classes, weighted by their numbers of training images; None without labels.

        Raises:
            DataError: the labels are missing, or not those that were written.
        """
        import numpy as np

        names = self.about.classes
        if not names:
            return None
        counts = np.bincount(self.labels("train"), minlength=len(names))
        return Classes(names, tuple(map(float, counts)))

    def look(self) -> Sequence[str]:
        """Warnings about the images: none, as their preparation has checked them."""
        return ()

    def split(self, name: Split) -> SplitInfo:
        """Number and digest of the images of a split.

        Raises:
            DataError: there is no such split.
        """
        if name not in self.about.splits:
            raise DataError(
                f"{self.where.absolute()} has no {name} images. "
                f"Prepare the data again with some: {self.hint}"
            )
        return self.about.splits[name]

    def labels(self, split: Split) -> "np.ndarray":
        """The labels of a split, (n,), int64, each the index of a class.

        Raises:
            DataError: the labels are missing, or not those that were written.
        """
        labels = self._array(LABELS, "int64", self.about.shape[:1])
        if blake2b(labels.tobytes()) != self.about.labels:
            raise DataError(
                f"{self.where / LABELS} does not hold the labels that {ABOUT} describes. "
                f"Remove {self.where} and prepare it again: {self.hint}"
            )
        return labels[self.about.rows(split)].copy()

    def stored(self, split: Split) -> "tuple[np.ndarray | LmdbReader, None]":
        """The images of a split on disk, uint8 (n, C, H, W), and None, which stands for all rows.

        Raises:
            DataError: there is no such split, or they are damaged.
        """
        self.split(split)
        if self.about.format == PUBLISHED and (reader := published(self.where, split)) is not None:
            return reader, None
        return self._array(IMAGES, "uint8", self.about.shape)[self.about.rows(split)], None

    def _array(self, name: str, dtype: str, shape: Shape) -> "np.ndarray":
        """The array in a file, which is mapped."""
        import numpy as np

        path = self.where / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if (array.dtype, array.shape) != (dtype, shape):
                raise ValueError(
                    f"{array.dtype} of {array.shape}, but {ABOUT} says {dtype} of {shape}"
                )
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise DataError(
                f"{path} cannot be read ({one_line(error)}). Remove {self.where} and prepare it "
                f"again: {self.hint}"
            ) from error
        except OSError as error:
            # A file system that does not answer is no reason to remove anything.
            raise DataError(
                f"{path} cannot be read ({one_line(error)}). Try again; if the file stays "
                f"unreadable, prepare it again: {self.hint}"
            ) from error
        # A plain array: what is taken from it by index is in memory and not a map.
        return np.asarray(array)

    def verify(self, split: Split, images: "np.ndarray") -> None:
        """Raises DataError: images that were loaded are not those that were prepared."""
        if self.about.format != PUBLISHED and blake2b(images) != self.split(split).digest:
            raise DataError(
                f"the {split} images in {self.where} do not have the digest in {ABOUT}: they "
                f"were changed. To prepare it: {self.hint}"
            )


def published(root: Path, split: str) -> "LmdbReader | None":
    """The images of a split in LMDB files, in `SPLIT.lmdb` or `SPLIT`; None if there are none.

    Raises:
        DataError: they cannot be read, or are something else.
    """
    for folder in (root / f"{split}.lmdb", root / split):
        if (folder / "data.mdb").is_file():
            return LmdbReader(folder)
    return None


class LmdbReader:
    """The images of an LMDB folder, by index, for any number of threads.

    Attributes:
        shape: (n, 3, H, W) of all of them.
        bytes: size of the file.
        about: the number of images and the size of the file as a text, which tells files apart.

    Raises:
        DataError: the file is cut short, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        import lmdb

        self.path = path.resolve()
        file = (self.path / "data.mdb").stat()
        self.bytes = file.st_size
        try:
            self._env = _environment(str(self.path), file.st_dev, file.st_ino)
            stat = self._env.stat()
            count = stat["entries"]
            # Reading beyond the end of a mapped file would kill this process without a message.
            page_size = stat["psize"]
            last_page = self._env.info()["last_pgno"]
            expected = (last_page + 1 - _UNWRITTEN_PAGES) * page_size
            if self.bytes < expected:
                raise DataError(
                    f"{path} is cut short: {self.bytes} bytes of about {expected}. {_AGAIN}"
                )
            with self._env.begin(buffers=True) as transaction:
                length = len(transaction.get(b"0") or b"")
        except (lmdb.Error, OSError) as error:
            raise DataError(
                f"{path} cannot be opened as an LMDB file: {error}. {_AGAIN}"
            ) from error
        size = math.isqrt(length // CHANNELS)
        if not size or CHANNELS * size**2 != length:
            raise DataError(
                f"{path} has values of {length} bytes under '0', which are not square raw RGB "
                f"images. {_AGAIN}"
            )
        self.shape = (count, CHANNELS, size, size)
        self.about = f"{count} images, {self.bytes} bytes"
        # Raises if the last image is missing.
        self[[count - 1]]

    def __getitem__(self, indices: "Sequence[int] | np.ndarray") -> "np.ndarray":
        """Images by index, uint8 of shape (number of indices, 3, H, W).

        Raises:
            DataError: an index is missing, or its value has another length.
        """
        import lmdb
        import numpy as np

        images = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        try:
            with self._env.begin(buffers=True) as transaction:
                for image, index in zip(images, indices, strict=True):
                    value = transaction.get(str(index).encode()) or b""
                    if len(value) != image.nbytes:
                        raise DataError(
                            f"Image {index} of {self.path} has {len(value)} bytes, not "
                            f"{image.nbytes}. {_AGAIN}"
                        )
                    pixels = np.frombuffer(value, dtype=np.uint8).reshape(*self.shape[2:], CHANNELS)
                    image[:] = pixels.transpose(2, 0, 1)
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{self.path} cannot be read: {error}. {_AGAIN}") from error
        return images


@functools.cache
def _environment(path: str, device: int, inode: int) -> "lmdb.Environment":
    """An open environment. LMDB allows one for each file in a process."""
    import lmdb

    return lmdb.open(path, readonly=True, create=False, lock=False, readahead=False)
