"""Zip files of pictures, and the records of prepared sets."""

import io
import json
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cld_core.config.data import ImageDataSpec
from cld_core.data import store
from cld_core.data.images import StoredSource
from cld_core.data.prepare import prepare, verify
from tests.support.images import store_images

from .campaign import Target
from .mutations import changed, damaged, json_bytes


def _prepare():
    from cld_core.data import folder  # noqa: F401 (forks have it)

    torch.set_num_threads(1)
    _pictures()
    _prepared()


# --- archives of pictures


@cache
def _pictures():
    Image.init()
    base = Image.radial_gradient("L").resize((20, 24)).convert("RGB")
    made = [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) (w) file\nshowpage\n"]
    for form in (
        "PNG",
        "JPEG",
        "WEBP",
        "BMP",
        "GIF",
        "TIFF",
        "PPM",
        "ICO",
        "TGA",
        "DDS",
        "PDF",
        "EPS",
        "JPEG2000",
    ):
        for mode in ("RGB", "L"):
            base.convert(mode).save(out := io.BytesIO(), form)
            made.append(out.getvalue())
    return made


def _archive(rng, folder):
    """A few pictures, of which some, or the archive, are damaged."""
    out = folder / "out"
    source = folder / "p.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            content = rng.choice(_pictures())
            if rng.random() < 0.2:
                content = damaged(rng, content)
            archive.writestr(f"{number}.png", content)
    if rng.random() < 0.5:
        source.write_bytes(damaged(rng, source.read_bytes()))
    return lambda: (prepare("folder", source, out, size=8, split=0.5), verify(out))


# --- prepared sets


def _read_images(root, size):
    spec = ImageDataSpec(path=str(root), size=size)
    store.require(spec)
    images = StoredSource(spec).train
    images.batch(torch.arange(min(images.n, 64)))


@cache
def _prepared():
    root = Path(tempfile.mkdtemp(prefix="fuzz-prepared-")) / "set"
    counts = {"train": 10, "validation": 6}
    return store_images(
        root, {split: np.zeros((n, 3, 8, 8), np.uint8) for split, n in counts.items()}
    )


def _record(rng, folder):
    root = Path(shutil.copytree(_prepared(), folder / "set"))
    content = (root / "about.json").read_bytes()
    if rng.random() < 0.3:
        content = damaged(rng, content)
    else:
        content = json_bytes(changed(rng, json.loads(content)))
    (root / "about.json").write_bytes(content)
    return lambda: (_read_images(root, 8), verify(root))


TARGETS = [Target("archives", _archive, _prepare), Target("prepared", _record, _prepare)]
