"""Pictures that start programs, fill the memory, or are something else; archives that lie about what is in them."""

import io
import os
import struct
import zipfile
import zlib

import pytest
from PIL import EpsImagePlugin, Image

from cld_core.data import folder as folder_module
from cld_core.data.folder import MOST_PIXELS, plan_folder
from cld_core.data.prepare import prepare
from cld_core.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def encoded(form="PNG", size=(20, 20), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, 100 if mode == "L" else None).save(out, form)
    return out.getvalue()


def make(content, name="a.png"):
    return folder_module._make(folder_module._Picture(name, len(content), lambda: content), 8)


def refused(content, name="a.png"):
    with pytest.raises(DataError) as caught:
        make(content, name)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_picture_that_is_a_program_is_not_run(monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **_: started.append(arguments))
    message = refused(EPS)
    assert started == []
    assert "its format is unknown, or not one of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM" in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_usual_formats(form):
    assert len(make(encoded(form))) == 8 * 8 * 3


@pytest.mark.parametrize("form", ["ICO", "PCX", "SGI", "TGA", "IM", "DDS"])
def test_formats_that_are_little_used(form):
    assert "its format is unknown" in refused(encoded(form))


def test_a_size_is_checked_before_anything_is_decoded(monkeypatch):
    """A hundred bytes that claim 40 million pixels and one more column."""
    data = bytearray(encoded())
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    struct.pack_into(">II", data, 16, MOST_PIXELS // 1000 + 1, 1000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    assert "it has 40001 x 1000 pixels, more than 40,000,000" in refused(bytes(data))


def test_a_large_picture_is_decoded(monkeypatch):
    monkeypatch.setattr(folder_module, "_LARGE_PIXELS", 100)
    monkeypatch.setattr(folder_module, "_LARGE_BYTES", 100)
    assert len(make(encoded())) == 192


def test_a_file_that_is_too_long_is_not_read():
    picture = folder_module._Picture("a.png", 2**40, lambda: pytest.fail("it was read"))
    with pytest.raises(DataError, match="more than"):
        folder_module._make(picture, 8)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", encoded()[:-30], b"GIF89a" + b"\xff" * 50, b"BM"])
def test_cut_pictures(content):
    assert "cannot be used as a picture" in refused(content)


def test_a_name_that_steers_the_terminal():
    assert "evil" in refused(b"x", "\x1b[31mevil\n.png")


def test_names_that_are_not_text(tmp_path):
    source = tmp_path / "p"
    source.mkdir()
    for number in range(6):
        (source / os.fsdecode(b"\xff%d.png" % number)).write_bytes(encoded())
    manifest = prepare("folder", source, tmp_path / "out", size=8, split=0.5)
    assert sum(info.count for info in manifest.splits.values()) == 6


def test_pipes_and_devices_are_no_pictures(tmp_path):
    source = tmp_path / "p"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.png").write_bytes(encoded())
    os.mkfifo(source / "pipe.png")
    (source / "zero.png").symlink_to("/dev/zero")
    assert sum(plan_folder(source, 8, 0.5).expect.values()) == 4


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb(tmp_path, monkeypatch):
    """A few thousand bytes that unpack to a million are read as far as they say, and no further than the bound."""
    monkeypatch.setattr(folder_module, "MOST_BYTES", 100_000)
    source = zipped(tmp_path / "p.zip", {"a.png": encoded(), "b.png": bytes(10**6)})
    with pytest.raises(DataError, match=r"b\.png cannot be used as a picture: it has 1000000 bytes, more than"):
        prepare("folder", source, tmp_path / "out", size=8, split=0)


def patched(path, offset, raw):
    """The first entry of the archive's list, changed."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + offset : at + offset + len(raw)] = raw
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "raw"),
    [
        (8, b"\x01\x00"),  # encrypted
        (10, b"\x63\x00"),  # an unknown compression
        (16, b"\0\0\0\0"),  # checksum
        (24, b"\x05\0\0\0"),  # bytes when unpacked
        (28, b"\xff\xff"),  # length of the name
        (42, b"\xff\xff\xff\x7f"),  # where it begins
    ],
)
def test_entries_that_lie(tmp_path, offset, raw):
    source = patched(zipped(tmp_path / "p.zip", {f"{number}.png": encoded() for number in range(4)}), offset, raw)
    with pytest.raises(DataError) as caught:
        prepare("folder", source, tmp_path / "out", size=8, split=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_cut_zips(tmp_path, share):
    source = zipped(tmp_path / "p.zip", {f"{number}.png": encoded() for number in range(4)})
    os.truncate(source, int(share * source.stat().st_size))
    with pytest.raises(DataError, match="complete zip file"):
        prepare("folder", source, tmp_path / "out", size=8, split=0)


def test_names_in_an_archive_lead_nowhere(tmp_path):
    """Nothing is unpacked to the disk, so a name is only a name; those that begin with a dot are hidden files."""
    source = zipped(tmp_path / "p.zip", {"../../a.png": encoded(), "/etc/b.png": encoded(), "c/d.png": encoded()})
    before = sorted(path.name for path in tmp_path.iterdir())
    assert prepare("folder", source, tmp_path / "out", size=8, split=0).splits["train"].count == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])
