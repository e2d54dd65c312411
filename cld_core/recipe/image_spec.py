"""What a recipe may say about image data, and what of it must go with the network; free of torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .keys import key

if TYPE_CHECKING:
    from .schema import Recipe

# Image data by name, and their pixels where there is no choice.
IMAGE_DATA: dict[str, int | None] = {"cifar10": 32, "celebahq256": 256, "folder": None}


@dataclass(frozen=True, kw_only=True)
class ImageDataSpec:
    name: Literal["cifar10", "celebahq256", "folder"] = key("cifar10", "a data set that `cldctl data prepare` makes")
    path: str = key("data/cifar10", "folder of the prepared data; a run folder has it absolute")
    size: int | None = key(None, "height and width in pixels; null: cifar10 32, celebahq256 256", ge=1)
    flip: bool = key(True, "mirror training images at random, left to right")
    cache: Literal["auto", "memory", "disk"] = key("auto", "hold the images in memory; auto: up to 2 GiB")
    threads: int = key(2, "threads of a rank that read images from the disk", ge=1)

    @property
    def pixels(self) -> int:
        """Height and width of an image."""
        pixels = IMAGE_DATA[self.name] or self.size
        assert pixels is not None, "a folder of images without a size passes no check"
        return pixels


def image_problems(recipe: "Recipe") -> Iterator[tuple[str, str, str]]:
    """Pairs of keys of data and network that do not go together, as `Recipe.problems` has them."""
    data, network = recipe.data, recipe.network
    if not isinstance(data, ImageDataSpec):
        if network.name == "ncsnpp":
            text = f"cannot be ncsnpp with data.name={data.name}, which are vectors. Set network.name=mlp."
            yield "network.name", "data.name", text
        if recipe.periodic.fid_every is not None:
            text = f"compares images, but data.name={data.name} are vectors. Set it to null."
            yield "periodic.fid_every", "data.name", text
        return
    own = IMAGE_DATA[data.name]
    if own is None and data.size is None:
        text = "must say how many pixels the images of the folder have. Set data.size=64, for example."
        yield "data.size", "data.name", text
        return
    if own is not None and data.size not in (None, own):
        text = f"is {data.size}, but {data.name} has {own} pixels. Set it to null, or prepare a folder."
        yield "data.size", "data.name", text
        return
    if network.name != "ncsnpp":
        text = f"cannot be {network.name} with data.name={data.name}, which are images. Set network.name=ncsnpp."
        yield "network.name", "data.name", text
    elif network.image_size != data.pixels:
        text = f"is {network.image_size}, but the images have {data.pixels} pixels. Set it to {data.pixels}."
        yield "network.image_size", "data.size", text
    elif network.image_channels != 3:
        text = f"is {network.image_channels}, but images are prepared as RGB. Set it to 3."
        yield "network.image_channels", "data.name", text
