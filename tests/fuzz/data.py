"""Files of data sets: archives and their pickles, pictures, TFRecords, LMDB files, manifests."""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import random
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import changed, damaged, json_bytes

SIZE = 16
# Numbers that sizes, offsets and counts of hostile files have.
NUMBERS = (0, 1, 2, 255, 4095, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**64 - 1)


def _numbered(rng: random.Random, data: bytearray, place: int, form: str) -> None:
    """Put an odd number of this form at a place."""
    struct.pack_into(form, data, place, rng.choice(NUMBERS) & 256 ** struct.calcsize(form) - 1)


def _prepare() -> None:
    import torch

    from cld_core.data import folder, images, prepare, presence  # noqa: F401 (forks have them)

    torch.set_num_threads(1)
    for made in (_pictures, _zip, _bomb, _shards, _batches, _lmdb, _prepared):
        made()


# --- pictures


@cache
def _pictures() -> dict[str, list[bytes]]:
    from PIL import Image

    Image.init()
    base = Image.radial_gradient("L").resize((20, 24)).convert("RGB")
    made: dict[str, list[bytes]] = {
        "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) (w) file\nshowpage\n"]
    }
    for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO", "TGA", "DDS", "PDF", "EPS", "JPEG2000"):
        for mode in ("RGB", "RGBA", "L", "P", "I;16", "F"):
            out = io.BytesIO()
            try:
                base.convert(mode).save(out, form)
            except (OSError, ValueError, KeyError, SystemError):
                continue
            made.setdefault(form, []).append(out.getvalue())
    return made


def _sized(rng: random.Random, form: str, content: bytes) -> bytes:
    """A picture that claims to be of another size."""
    data = bytearray(content)
    match form:
        case "PNG":
            _numbered(rng, data, 16, ">I"), _numbered(rng, data, 20, ">I")
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        case "GIF":
            _numbered(rng, data, 6, "<H"), _numbered(rng, data, 8, "<H")
        case "BMP":
            _numbered(rng, data, 18, "<I"), _numbered(rng, data, 22, "<I")
        case "JPEG" if (at := data.find(b"\xff\xc0")) > 0:
            _numbered(rng, data, at + 5, ">H"), _numbered(rng, data, at + 7, ">H")
        case _:
            return damaged(rng, content)
    return bytes(data)


def _picture(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data import folder as module

    form = rng.choice(list(_pictures()))
    content = rng.choice(_pictures()[form])
    content = rng.choice((_sized(rng, form, content), damaged(rng, content), content))
    picture = module._Picture(f"a.{rng.choice(('png', 'jpg', 'gif'))}", len(content), lambda: content)
    return lambda: module._make(picture, SIZE)


# --- archives


@cache
def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for form in ("PNG", "JPEG", "BMP", "GIF"):
            archive.writestr(f"more/a.{form.lower()}", _pictures()[form][0])
    return out.getvalue()


@cache
def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", _pictures()["PNG"][0] + bytes(2**27))
    return out.getvalue()


@cache
def _shards() -> dict[str, bytes]:
    from tests.cld_core.data.formats import celebahq_images, image_example, tfrecord

    images = celebahq_images(4, SIZE)
    return {
        f"celeba-tfr/{split}/{split}-r04-s-0000-of-0001.tfrecords": tfrecord([image_example(image) for image in some])
        for split, some in (("train", images[:3]), ("validation", images[3:]))
    }


@cache
def _batches() -> dict[str, bytes]:
    from tests.cld_core.data.formats import CIFAR_BATCHES, cifar_batch, cifar_rows

    return {name: cifar_batch(cifar_rows(2, seed)) for seed, name in enumerate(CIFAR_BATCHES)}


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _odd_tar(rng: random.Random, content: bytes) -> bytes:
    """A header that says something odd, with the right checksum."""
    data = bytearray(content)
    at = 512 * rng.choice([n for n in range(len(data) // 512) if data[512 * n + 257 : 512 * n + 262] == b"ustar"])
    header = data[at : at + 512]
    match rng.randrange(4):
        case 0:  # A size, in binary: negative, huge.
            size = rng.choice((-512, -1, -(2**62), *NUMBERS))
            header[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
        case 1:
            header[156:157] = rng.choice((b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"3", b"6", b"5", b"\xff"))
        case 2:
            header[0:100] = rng.choice((b"../../x", b"/etc/x", b"\xff\x1b[31m", b"a" * 100)).ljust(100, b"\0")
        case 3:
            header[rng.randrange(512)] = rng.randrange(256)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    return bytes(data)


def _odd_zip(rng: random.Random, content: bytes) -> bytes:
    """An entry that lies about itself."""
    data = bytearray(content)
    at = rng.choice([n for n in range(len(data) - 46) if data[n : n + 4] == b"PK\x01\x02"])
    offset, form = rng.choice(((20, "<I"), (24, "<I"), (42, "<I"), (8, "<H"), (10, "<H"), (28, "<H"), (30, "<H")))
    _numbered(rng, data, at + offset, form)
    return bytes(data)


def odd_pickle(rng: random.Random, content: bytes) -> bytes:
    """Opcodes at random places, also with large arguments, and tuples in tuples, which take years to hash."""
    codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    odd = (
        *(b"\x8e" + struct.pack("<Q", 2**62), b"\x96" + struct.pack("<Q", 2**40), b"r" + struct.pack("<I", 2**31)),
        *(b"\x8a\x08" + struct.pack("<q", 2**62), b"}" + b")" + b"2\x86" * 60 + b"Ns", b"(" * 10_000),
        *(b"cos\nsystem\n(S'true'\ntR", b"c__builtin__\neval\n", b"cnumpy\ndtype\n", b"I" + b"9" * 5000 + b"\n"),
    )
    data = bytearray(content)
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    for place in sorted(rng.sample(places, rng.randint(1, 3)), reverse=True):
        data[place : place + rng.randrange(2)] = rng.choice((rng.choice(codes), *odd))
    return bytes(data)


def _archive(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.build import build
    from cld_core.data.celebahq import plan_celebahq
    from cld_core.data.prepare import prepare, verify

    out, source = folder / "out", folder / "source"
    match rng.randrange(4):
        case 0:
            source = folder / "p.zip"
            source.write_bytes(rng.choice((damaged, _odd_zip, lambda *_: _bomb()))(rng, _zip()))
            return lambda: (prepare("folder", source, out, size=8, split=0.5), verify(out))
        case 1:
            source = folder / "c.tar"
            source.write_bytes(rng.choice((damaged, _odd_tar))(rng, _tar(_shards())))
            return lambda: (build(plan_celebahq(source, SIZE, {}), out), verify(out))
        case 2:
            source = folder / "a.tar.gz"
            plain = _tar({f"cifar-10-batches-py/{name}": content for name, content in _batches().items()})
            packed = gzip.compress(_odd_tar(rng, plain), 1)
            source.write_bytes(rng.choice((packed, damaged(rng, packed), packed + gzip.compress(bytes(2**26), 1))))
        case _:
            source.mkdir()
            for name, content in _batches().items():
                (source / name).write_bytes(rng.choice((damaged, odd_pickle))(rng, content))
    return lambda: (prepare("cifar10", source, out, expect={}), verify(out))


# --- TFRecords


def _records(rng: random.Random, folder: Path) -> Callable[[], Any]:
    """Damage that checksums notice, and damage below them."""
    from cld_core.data import celebahq
    from cld_core.data.tfrecord import masked_crc32c
    from tests.cld_core.data.formats import celebahq_images, example, image_example

    def framed(record: bytes) -> bytes:
        header = struct.pack("<Q", rng.choice(NUMBERS) if rng.random() < 0.2 else len(record))
        return header + struct.pack("<I", masked_crc32c(header)) + record + struct.pack("<I", masked_crc32c(record))

    sound = [image_example(celebahq_images(1, SIZE)[0]), example(shape=[1, 2], data=[b"x"] * 5, label=[1.5, 2.5])]
    odd = [b"\x0a\x80\x80\x04" + b"\x0a\x00" * 32768, b"\x0a" * 5000, b"\xff" * 100]
    records = rng.choices([*sound, *(damaged(rng, record) for record in sound), *odd], k=rng.randint(1, 3))
    content = b"".join(map(framed, records))
    content = damaged(rng, content) if rng.random() < 0.3 else content
    for split in ("train", "validation"):
        (folder / f"{split}-r04-s-0000-of-0001.tfrecords").write_bytes(content)
    return lambda: [list(unit.read()) for unit in celebahq.plan_celebahq(folder, SIZE, {}).units["train"]]


# --- LMDB


@cache
def _lmdb() -> list[tuple[int, bytes]]:
    """Small images lie in the leaves, large ones in pages of their own; some were removed again."""
    import lmdb

    made = []
    for size in (8, 32):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-lmdb-"))
        with lmdb.open(str(folder), map_size=1 << 26) as env:
            for first in range(0, 350, 50):
                with env.begin(write=True) as transaction:
                    for index in range(first, first + 50):
                        transaction.put(str(index).encode(), bytes([index % 256]) * (3 * size * size))
            with env.begin(write=True) as transaction:
                for index in range(300, 350):
                    transaction.delete(str(index).encode())
        made.append((size, (folder / "data.mdb").read_bytes()))
        shutil.rmtree(folder)
    return made


def _odd_pages(rng: random.Random, content: bytes) -> bytes:
    """Numbers in headers of pages, offsets and nodes are others."""
    data, page_size = bytearray(content), 4096
    inner = [page for page in range(len(data) // page_size) if data[page * page_size + 10] & 0x0B]
    for _ in range(rng.randint(1, 3)):
        page = rng.choice([0, 1, *inner]) * page_size
        lower = struct.unpack_from("<H", data, page + 12)[0]
        place = rng.choice((rng.randrange(160), rng.randrange(16, max(17, min(lower, 4000))), rng.randrange(4080)))
        _numbered(rng, data, page + place, rng.choice(("<H", "<I", "<Q")))
    return bytes(data)


def _images_in_lmdb(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.lmdb_store import LmdbWriter

    size, content = rng.choice(_lmdb())
    path = folder / "train.lmdb"
    path.mkdir()
    content = rng.choice((content[: rng.randrange(len(content))], damaged(rng, content), _odd_pages(rng, content)))
    (path / "data.mdb").write_bytes(content)

    def write() -> None:
        import lmdb

        from cld_core.errors import DataError

        try:
            with LmdbWriter(path) as writer:
                writer.put(200, [bytes(3 * size * size)] * 200)
                writer.cut(250)
                writer.close()
        except lmdb.Error as error:  # as `build` does
            raise DataError(str(error)) from error

    return write if rng.random() < 0.3 else lambda: _read_images(folder, size)


def _read_images(root: Path, size: int) -> None:
    import torch

    from cld_core.config.data import ImageDataSpec
    from cld_core.data import presence
    from cld_core.data.images import open_images

    spec = ImageDataSpec(path=str(root), size=size)
    presence.require(spec)
    presence.count(spec, "train"), presence.fingerprint(spec, "train")
    images = open_images(root, "train", size=size)
    images.batch(torch.arange(min(images.n, 64)))


# --- manifests


def _plan(**more: Any) -> Any:
    from cld_core.data.build import Plan, Unit

    def unit(number: int, count: int) -> Any:
        return Unit(name=f"part {number}", fingerprint=str(number), read=lambda: [bytes(3 * 8 * 8)] * count)

    units = {split: [unit(number, count) for number in range(2)] for split, count in (("train", 5), ("validation", 3))}
    return Plan(name="folder", size=8, source="tests", units=units, **more)


@cache
def _prepared() -> Path:
    """A prepared set, and beside it the same, unfinished."""
    from cld_core.data.build import build
    from cld_core.errors import DataError

    root = Path(tempfile.mkdtemp(prefix="fuzz-manifests-"))
    build(_plan(), root / "set")
    try:
        build(_plan(expect={"validation": 1}), root / "other")
    except DataError:
        assert (root / "other.partial" / "progress.json").is_file()
    return root


def _manifest(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.build import build
    from cld_core.data.prepare import verify

    which, name = rng.choice((("set", "manifest.json"), ("other.partial", "progress.json")))
    root = folder / which
    shutil.copytree(_prepared() / which, root)
    content = (root / name).read_bytes()
    content = damaged(rng, content) if rng.random() < 0.3 else json_bytes(changed(rng, json.loads(content)))
    (root / name).write_bytes(content)
    if which != "set":
        return lambda: (build(_plan(), folder / "other"), verify(folder / "other"))
    return lambda: (_read_images(root, 8), verify(root))


TARGETS = [
    Target("archives", _archive, _prepare),
    Target("images", _picture, _prepare),
    Target("lmdb", _images_in_lmdb, _prepare),
    Target("manifests", _manifest, _prepare),
    Target("tfrecord", _records, _prepare),
]
