"""A set of images that is added in one file: its spec, how it is prepared, and its registration."""

from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cld_core.config import load
from cld_core.config.data import ImageDataSpec
from cld_core.config.keys import key
from cld_core.config.registry import SECTIONS
from cld_core.data import store
from cld_core.data.prepare import Part, Plan, names, prepare
from cld_core.data.source import source
from cld_core.errors import DataError
from cld_core.registration import register
from tests.support.paths import RECIPES

SIZE = 8


@dataclass(frozen=True, kw_only=True)
class GreysSpec(ImageDataSpec):
    own_pixels: ClassVar[int | None] = SIZE
    preparation: ClassVar[str] = f"{__name__}:plan_greys"

    name: str = key("greys", "images of one grey level each")


def plan_greys(source, expect=None):
    def part(split, levels):
        images = np.concatenate([np.full((1, 3, SIZE, SIZE), level, np.uint8) for level in levels])
        return Part(split=split, name=split, fingerprint="1", read=lambda: images)

    parts = [part("train", range(0, 240, 10)), part("validation", range(5, 245, 30))]
    return Plan(name="greys", size=SIZE, source=source.name, parts=parts, expect=expect or {})


@pytest.fixture
def greys(tmp_path):
    register("data", "greys", "cld_core.data.images:ImageSource", GreysSpec)
    yield tmp_path / "greys"
    del SECTIONS["data"].variants["greys"]


def small(path):
    overrides = ["data.name=greys", f"data.path={path}", "network.image_size=8", "network.attention=[4]"]
    return load(RECIPES / "cifar10_smoke.yaml", [*overrides, "data.size=null"])


def test_a_set_of_images_is_added_in_one_file(greys):
    with pytest.raises(DataError, match="cldctl data prepare greys --source PATH"):
        store.require(small(greys).data)
    assert "greys" in names()
    about = prepare("greys", "nothing", greys)
    assert (about.name, about.splits["train"].count) == ("greys", 24)
    recipe = small(greys)
    store.require(recipe.data)
    assert recipe.data == GreysSpec(path=str(greys))
    with closing(source(recipe.data)) as images:
        assert float(images.batch(0, 0, 0, 6, slice(0, 6)).std((1, 2, 3)).max()) == 0.0
