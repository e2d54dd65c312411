"""Whether a recipe's images are there, checked without torch and before a job is submitted."""

from pathlib import Path

from cld_core.config.data import DataSpec, ImageDataSpec
from cld_core.errors import DataError

from .store import PROGRESS, Manifest, Split, lmdb_path, prepare_hint, published_paths, read_manifest


def require(spec: DataSpec) -> None:
    """Check that the images of a recipe are there and look right, without reading them; toy data always pass.

    Raises:
        DataError: they are missing or not those of the recipe; the message ends with the command that prepares them.
    """
    if not isinstance(spec, ImageDataSpec):
        return
    root = Path(spec.path).expanduser()
    manifest = read_manifest(root)
    problem = None
    if manifest is None and (root / PROGRESS).is_file():
        problem = f"{root.absolute()} is an unfinished preparation"
    elif manifest is None:
        problem = _unlike_published(root, spec.pixels)
    elif spec.name not in ("folder", manifest.name):
        problem = f"{root} holds {manifest.name}, not {spec.name}"
    elif manifest.size != spec.pixels:
        problem = f"{root} has images of {manifest.size}x{manifest.size}, not {spec.pixels}x{spec.pixels}"
    else:
        problem = cut(root, manifest)
    if problem is None and spec.labels and (manifest is None or not manifest.classes):
        why = "it was prepared from pictures that do not lie in folders of classes"
        problem = f"{root.absolute()} has no labels, which data.labels=true needs: {why}"
    if problem is not None:
        hint = prepare_hint(spec.name, spec.path.removesuffix(".partial"), spec.pixels)
        raise DataError(f"{problem}. To prepare it: {hint}")


def _unlike_published(root: Path, pixels: int) -> str | None:
    """The problem with a folder without a manifest; None if it has LMDB files in the published form and this size."""
    folder = next((path for path in published_paths(root, "train") if (path / "data.mdb").is_file()), None)
    if folder is None:
        return f"there is no prepared data set in {root.absolute()}"
    from .lmdb_store import LmdbReader

    try:
        size = LmdbReader(folder).published_size()
    except DataError as error:
        return str(error).rstrip(".")
    return None if size == pixels else f"{root} has images of {size}x{size}, not {pixels}x{pixels}"


def cut(root: Path, manifest: Manifest) -> str | None:
    """The first file that lacks bytes which the manifest promises; None if all have their sizes."""
    for split, info in manifest.splits.items():
        file = lmdb_path(root, split) / "data.mdb"
        try:
            there = file.stat().st_size
        except OSError:
            there = 0
        if there != info.file_bytes:
            return f"{file.absolute()} has {there} bytes, but its manifest says {info.file_bytes}"
    return None


def class_names(spec: ImageDataSpec) -> tuple[str, ...]:
    """The classes of prepared images; empty if they have no labels."""
    manifest = read_manifest(Path(spec.path).expanduser())
    return () if manifest is None else manifest.classes


def count(spec: ImageDataSpec, split: Split) -> int:
    """How many images a split has.

    Raises:
        DataError: the data or the split are missing.
    """
    return _count_and_fingerprint(spec, split)[0]


def fingerprint(spec: ImageDataSpec, split: Split) -> str:
    """A fingerprint of the images of a split: their checksum, or without a manifest the size of their file."""
    return _count_and_fingerprint(spec, split)[1]


def _count_and_fingerprint(spec: ImageDataSpec, split: Split) -> tuple[int, str]:
    require(spec)
    root = Path(spec.path).expanduser()
    manifest = read_manifest(root)
    if manifest is not None and split in manifest.splits:
        info = manifest.splits[split]
        return info.count, info.checksum
    for folder in published_paths(root, split) if manifest is None else ():
        if (folder / "data.mdb").is_file():
            from .lmdb_store import LmdbReader

            reader = LmdbReader(folder)
            return reader.entries, f"{reader.entries} images, {reader.file_bytes} bytes"
    hint = prepare_hint(spec.name, spec.path, spec.pixels)
    raise DataError(f"{root.absolute()} has no {split} images. Prepare the data again with some: {hint}")
