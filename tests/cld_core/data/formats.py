"""Writers of the formats that preparation reads."""

import io
import tarfile

import lmdb
import numpy as np
from tfrecord.writer import TFRecordWriter


def write_records(path, records):
    """A TFRecord file; a record has values, and "int", "byte" or "float", for each feature."""
    writer = TFRecordWriter(str(path))
    for record in records:
        writer.write(dict(record))
    writer.close()


def image_record(image, label=0):
    return {
        "shape": (list(image.shape), "int"),
        "data": (image.tobytes(), "byte"),
        "label": (label, "int"),
    }


def celebahq_images(count, size, seed=0):
    """uint8 of shape (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_celebahq(root, images, shards, size):
    """GLOW's layout; the images of each split dealt out to its shards in order."""
    written = []
    for split, all_images in images.items():
        for index, some in enumerate(np.array_split(all_images, shards[split])):
            log = size.bit_length() - 1
            path = (
                root / split / f"{split}-r{log:02d}-s-{index:04d}-of-{shards[split]:04d}.tfrecords"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, [image_record(image, label=index) for image in some])
            written.append(path)
    return written


def write_lmdb(folder, images):
    """The published form: raw bytes under the numbers of the images."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for index, image in enumerate(images):
            transaction.put(str(index).encode(), image.tobytes())
    return folder


def _string(text):
    """A str of Python 2 in a pickle of protocol 2."""
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + len(text).to_bytes(4, "little") + text


def _integer(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def cifar_batch(rows, name="training batch 1 of 5"):
    """A batch file as Python 2 pickled it: rows of shape (n, 3072) uint8, with labels and file
    names."""
    state = (
        b"(" + _integer(1) + _integer(rows.shape[0]) + _integer(rows.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + _string(b"u1") + _integer(0) + _integer(1) + b"\x87R"
        b"("
        + _integer(3)
        + _string(b"|")
        + b"NNN"
        + _integer(-1)
        + _integer(-1)
        + _integer(0)
        + b"tb"
        b"\x89" + _string(rows.tobytes()) + b"t"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + _integer(0)
        + b"\x85"
        + _string(b"b")
    )
    labels = b"](" + b"".join(_integer(index % 10) for index in range(len(rows))) + b"e"
    names = (
        b"](" + b"".join(_string(b"picture_%d.png" % index) for index in range(len(rows))) + b"e"
    )
    return (
        b"\x80\x02}("
        + _string(b"batch_label")
        + _string(name.encode())
        + _string(b"labels")
        + labels
        + _string(b"data")
        + array
        + b"\x87R"
        + state
        + b"b"
        + _string(b"filenames")
        + names
        + b"u."
    )


CIFAR_BATCHES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
)
# The official archive does not have them in the order of their numbers either.
_ARCHIVE_ORDER = (
    "data_batch_4",
    "test_batch",
    "data_batch_3",
    "data_batch_2",
    "data_batch_5",
    "data_batch_1",
)


def write_cifar_archive(path, batches, order=_ARCHIVE_ORDER):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in ("batches.meta", *order):
            data = batches.get(name, b"\x80\x02}." if name == "batches.meta" else None)
            if data is not None:
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def cifar_rows(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def images_of_rows(rows):
    """(n, 3072) planes after one another -> (n, 3, 32, 32)."""
    return rows.reshape(-1, 3, 32, 32)
