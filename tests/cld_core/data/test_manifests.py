"""Manifests of other types, numbers and files than ours."""

import json
import os

import pytest

from cld_core.data import presence
from cld_core.data.build import Plan, Unit, build
from cld_core.data.images import open_images
from cld_core.data.prepare import verify
from cld_core.data.store import read_manifest
from cld_core.errors import DataError
from cld_core.recipe.data import ImageDataSpec

SIZE = 4


@pytest.fixture
def made(tmp_path):
    unit = Unit(name="all", fingerprint="1", read=lambda: [bytes(48)] * 3)
    build(Plan(name="folder", size=SIZE, source="t\x1b[31m", units={"train": [unit]}), tmp_path / "set")
    return tmp_path / "set"


def readers(root):
    spec = ImageDataSpec(path=str(root), size=SIZE)
    return (
        lambda: read_manifest(root),
        lambda: presence.require(spec),
        lambda: presence.count(spec, "train"),
        lambda: open_images(root, "train", size=SIZE),
        lambda: verify(root),
    )


def test_the_manifest_is_otherwise_sound(made):
    for read in readers(made):
        read()
    assert read_manifest(made).source == "t"


INFO = {"count": 3, "file_bytes": 8192, "checksum": "0" * 32}


@pytest.mark.parametrize(
    "changes",
    [
        *({"size": value} for value in (0, -4, "4", 4.0, True, None, 10**400, 2**40)),
        *({"name": value} for value in (3, "", "x" * 10**5, "a\nb", None)),
        *({"channels": value} for value in (1, "3", None)),
        *({"splits": value} for value in (None, [], {}, {"other": INFO}, {"train": 3}, {"train": {}})),
        *({"splits": {"train": {**INFO, "count": value}}} for value in (0, -1, "3", 10**30, True, None)),
        *({"splits": {"train": {**INFO, "file_bytes": value}}} for value in (0, "1", 1e9, 10**30)),
        *({"splits": {"train": {**INFO, "checksum": value}}} for value in ("", "x" * 32, 3, None)),
        {"source_digest": [1]},
        {"format": ["\x1b[31m"]},
        {"format": None},
    ],
    ids=range(39),
)
def test_wrong_values(made, changes):
    path = made / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for read in readers(made):
        with pytest.raises(DataError, match=r"Remove|repare") as caught:
            read()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", "[" * 100_000, '{"format":', "\udcff", "NaN", " " * 2**21])
def test_other_files(made, text):
    (made / "manifest.json").write_text(text, errors="surrogateescape")
    for read in readers(made):
        with pytest.raises(DataError, match="manifest"):
            read()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(made, kind):
    path = made / "manifest.json"
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    for read in readers(made):
        with pytest.raises(DataError, match="cannot be read as a manifest"):
            read()
