"""Manifests of prepared data, and the lists of finished units of unfinished ones."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import changed, damaged

_SIZE = 8


def _plan(counts: tuple[int, int] = (5, 3)) -> Any:
    from cld_core.data.build import Plan, Unit

    image = bytes(3 * _SIZE * _SIZE)
    units = {
        split: [
            Unit(name=f"part {number}", fingerprint=str(number), read=lambda count=count: [image] * count)
            for number in range(2)
        ]
        for split, count in zip(("train", "validation"), counts, strict=True)
    }
    return Plan(name="folder", size=_SIZE, source="tests", units=units)


@cache
def _made() -> Path:
    """A prepared set, and beside it the same, unfinished."""
    from cld_core.data import build as build_module
    from cld_core.data.build import build
    from cld_core.errors import DataError

    root = Path(tempfile.mkdtemp(prefix="fuzz-manifests-"))
    build(_plan(), root / "set")
    plan = _plan()
    try:
        build(build_module.Plan(**{**vars(plan), "expect": {"validation": 1}}), root / "other")
    except DataError:
        assert (root / "other.partial" / "progress.json").is_file()
    return root


def json_bytes(tree: Any) -> bytes:
    """A tree of odd values as JSON; one that is too deep for the writer, as JSON that is as deep."""
    try:
        return json.dumps(tree).encode()
    except (RecursionError, TypeError):
        return b"[" * 3000 + b"]" * 3000


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    import torch

    from cld_core.data import presence
    from cld_core.data.build import build
    from cld_core.data.images import open_images
    from cld_core.data.prepare import verify
    from cld_core.recipe.data import ImageDataSpec

    which, name = rng.choice((("set", "manifest.json"), ("other.partial", "progress.json")))
    root = folder / which
    shutil.copytree(_made() / which, root)
    content = (root / name).read_bytes()
    content = damaged(rng, content) if rng.random() < 0.3 else json_bytes(changed(rng, json.loads(content)))
    (root / name).write_bytes(content)
    if which != "set":
        return lambda: (build(_plan(), folder / "other"), verify(folder / "other"))

    def read() -> None:
        spec = ImageDataSpec(path=str(root), size=_SIZE)
        presence.require(spec)
        count, _ = presence.count(spec, "train"), presence.fingerprint(spec, "train")
        images = open_images(root, "train", size=_SIZE)
        images.batch(torch.arange(count))
        verify(root)

    return read


def _prepare() -> None:
    import torch

    from cld_core.data import images, prepare  # noqa: F401 (forks have them)

    torch.set_num_threads(1)
    _made()


TARGET = Target("manifests", _make, _prepare)
