"""Writers of the formats that preparation reads."""

import io
import pickle
import tarfile
from typing import ClassVar

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
            numbers = f"r{size.bit_length() - 1:02d}-s-{index:04d}-of-{shards[split]:04d}"
            path = root / split / f"{split}-{numbers}.tfrecords"
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


class _Python2Pickler(pickle._Pickler):
    """Writes texts as Python 2 wrote its str."""

    def _save_string(self, text):
        content = text if isinstance(text, bytes) else text.encode()
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: _save_string, str: _save_string}


def cifar_batch(rows, name="training batch 1 of 5"):
    """A batch file as Python 2 pickled it: rows (n, 3072), uint8, with labels and file names."""
    numbers = range(len(rows))
    batch = {
        "batch_label": name,
        "labels": [number % 10 for number in numbers],
        "data": rows,
        "filenames": [f"picture_{number}.png" for number in numbers],
    }
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


CIFAR_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def write_cifar_archive(path, batches):
    """Like the official archive, not in the order of the numbers of the batches."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in [("batches.meta", pickle.dumps({})), *reversed(batches.items())]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar_rows(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def images_of_rows(rows):
    """(n, 3072) planes after one another -> (n, 3, 32, 32)."""
    return rows.reshape(-1, 3, 32, 32)
