"""Writers of the formats that preparation reads, from independent parts: protobuf, tensorboard's TFRecord writer."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter


@cache
def _example_class():
    """tf.train.Example, declared here because the package that ships it is TensorFlow."""
    file = descriptor_pb2.FileDescriptorProto(name="example_for_tests.proto", package="tests", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for field in fields:
            made.field.add(**field)
        return made

    def field(name, number, kind, *, of=None, label=kinds.LABEL_OPTIONAL, **more):
        return {"name": name, "number": number, "type": kind, "type_name": of, "label": label, **more}

    many = kinds.LABEL_REPEATED
    message("BytesList", field("value", 1, kinds.TYPE_BYTES, label=many))
    message("FloatList", field("value", 1, kinds.TYPE_FLOAT, label=many))
    message("Int64List", field("value", 1, kinds.TYPE_INT64, label=many))
    feature = message(
        "Feature",
        field("bytes_list", 1, kinds.TYPE_MESSAGE, of=".tests.BytesList", oneof_index=0),
        field("float_list", 2, kinds.TYPE_MESSAGE, of=".tests.FloatList", oneof_index=0),
        field("int64_list", 3, kinds.TYPE_MESSAGE, of=".tests.Int64List", oneof_index=0),
    )
    feature.oneof_decl.add(name="kind")
    features = message("Features", field("feature", 1, kinds.TYPE_MESSAGE, of=".tests.Features.Entry", label=many))
    entry = features.nested_type.add(name="Entry")
    entry.field.add(**field("key", 1, kinds.TYPE_STRING))
    entry.field.add(**field("value", 2, kinds.TYPE_MESSAGE, of=".tests.Feature"))
    message("Example", field("features", 1, kinds.TYPE_MESSAGE, of=".tests.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Example"))


def example(**features: Sequence[int] | Sequence[float] | Sequence[bytes]) -> bytes:
    """A serialised Example of features that are lists of one kind."""
    made = _example_class()()
    for key, values in features.items():
        entry = made.features.feature.add(key=key)
        kinds = {bytes: entry.value.bytes_list, float: entry.value.float_list, int: entry.value.int64_list}
        kinds[type(values[0])].value.extend(values)
    return made.SerializeToString()


def image_example(image: np.ndarray, label: int = 0) -> bytes:
    return example(shape=[int(side) for side in image.shape], data=[image.tobytes()], label=[label])


class _Kept(io.BytesIO):
    def close(self) -> None:
        """The writer closes what it wrote to; here it is still wanted."""


def tfrecord(records: Sequence[bytes]) -> bytes:
    kept = _Kept()
    writer = RecordWriter(kept)
    for record in records:
        writer.write(record)
    return kept.getvalue()


def celebahq_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """uint8 of shape (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_celebahq(root: Path, images: Mapping[str, np.ndarray], shards: Mapping[str, int], size: int) -> list[Path]:
    """GLOW's layout; the images of each split dealt out to its shards in order."""
    written = []
    for split, all_images in images.items():
        for index, some in enumerate(np.array_split(all_images, shards[split])):
            log = size.bit_length() - 1
            path = root / split / f"{split}-r{log:02d}-s-{index:04d}-of-{shards[split]:04d}.tfrecords"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tfrecord([image_example(image, label=index) for image in some]))
            written.append(path)
    return written


def _string(text: bytes) -> bytes:
    """A str of Python 2 in a pickle of protocol 2."""
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + len(text).to_bytes(4, "little") + text


def _integer(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def cifar_batch(rows: np.ndarray, name: str = "training batch 1 of 5") -> bytes:
    """A batch file as Python 2 pickled it: rows of shape (n, 3072) uint8, with labels and file names."""
    state = (
        b"(" + _integer(1) + _integer(rows.shape[0]) + _integer(rows.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + _string(b"u1") + _integer(0) + _integer(1) + b"\x87R"
        b"(" + _integer(3) + _string(b"|") + b"NNN" + _integer(-1) + _integer(-1) + _integer(0) + b"tb"
        b"\x89" + _string(rows.tobytes()) + b"t"
    )  # fmt: skip
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _integer(0) + b"\x85" + _string(b"b")
    labels = b"](" + b"".join(_integer(index % 10) for index in range(len(rows))) + b"e"
    names = b"](" + b"".join(_string(b"picture_%d.png" % index) for index in range(len(rows))) + b"e"
    return (
        b"\x80\x02}("
        + _string(b"batch_label") + _string(name.encode())
        + _string(b"labels") + labels
        + _string(b"data") + array + b"\x87R" + state + b"b"
        + _string(b"filenames") + names
        + b"u."
    )  # fmt: skip


CIFAR_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
# The official archive does not have them in the order of their numbers either.
_ARCHIVE_ORDER = ("data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1")


def write_cifar_archive(path: Path, batches: Mapping[str, bytes], order: Sequence[str] = _ARCHIVE_ORDER) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in ("batches.meta", *order):
            data = batches.get(name, b"\x80\x02}." if name == "batches.meta" else None)
            if data is not None:
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def cifar_rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def images_of_rows(rows: np.ndarray) -> np.ndarray:
    """(n, 3072) planes after one another -> (n, 3, 32, 32)."""
    return rows.reshape(-1, 3, 32, 32)
