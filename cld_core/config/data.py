"""The `data` section: toy densities, prepared sets of images, and arrays."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from cld_core.plugins import is_shipped

from .keys import Problem, Shape, key, spec_class

_PATH = "folder of the prepared data; absolute in a run folder"
# Among the shipped toy densities; a plug-in declares whether its own have labels.
TOYS_WITHOUT_LABELS = ("gaussian",)
_LABELS = "condition the network on the class of each example; the data say which classes there are"


@spec_class
class ToyDataSpec:
    """A toy density on the plane."""

    name: str = key("multimodal_swissroll", "a registered toy density")
    labels: bool = key(False, _LABELS)

    @property
    def shape(self) -> Shape | None:
        """The shape of an example; None if only the data determine it."""
        return (2,) if is_shipped("data", self.name) else None

    @property
    def has_labels(self) -> bool:
        """Whether its examples may have labels."""
        return self.name not in TOYS_WITHOUT_LABELS


@spec_class
class StoredDataSpec:
    """Examples in files, each with its number, in a training set and a test set."""

    name: str
    path: str | None
    flip: bool = key(True, "mirror training images at random, left to right")
    cache: Literal["auto", "memory", "disk"] = key(
        "auto", "hold the examples in memory; auto: up to 2 GiB"
    )
    threads: int = key(2, "threads of a rank that read examples from the disk", ge=1, le=1024)
    labels: bool = key(False, _LABELS)

    @property
    def shape(self) -> Shape | None:
        """The shape of an example; None if only the data determine it."""
        return None


@spec_class
class ArraysSpec(StoredDataSpec):
    """Arrays of numbers: vectors (d), curves (C, L) or pictures and fields (C, H, W)."""

    name: str = key("arrays", "examples in a .npy, .npz or .safetensors file, or a folder of them")
    path: str | None = key(
        None,
        "file of the examples, or folder with train and test; null: data given in Python",
        is_path=True,
    )
    test: str | None = key(
        None, "file of the test examples; null: in `path`, or else a share of it", is_path=True
    )
    test_share: float = key(
        0.1, "share of the examples kept for tests where there is no test set", gt=0, lt=1
    )
    scaling: Literal["standard", "range", "none"] = key(
        "standard",
        "how the model sees each feature or channel: mean 0 and standard deviation 1; "
        "from -1 to 1; or as it is",
    )
    flip: bool = key(False, "mirror training examples (C, H, W) at random, left to right")


@spec_class
class ImageDataSpec(StoredDataSpec):
    """A prepared set of images. A set of fixed size derives from it and sets ``own_pixels``.

    Attributes:
        own_pixels: height and width of the images, which have colours; None: `size`, or as they
            were prepared.
        preparation: the function that plans `cldctl data prepare`, as "module:attribute".
        has_labels: whether its examples may have labels.
    """

    own_pixels: ClassVar[int | None] = None
    preparation: ClassVar[str] = "cld_core.data.folder:plan_folder"
    has_labels: ClassVar[bool] = True

    name: str = key("folder", "a data set that `cldctl data prepare` makes")
    path: str = key("data/folder", _PATH, is_path=True)
    size: int | None = key(
        None, "height and width in pixels; null: as the images were prepared", ge=1, le=4096
    )
    channels: Literal[1, 3] | None = key(
        None, "of grey (1) or coloured (3) images; null: as they were prepared"
    )

    @property
    def shape(self) -> Shape | None:
        """The shape of an image; None if only the prepared images determine it."""
        channels = self.channels or (None if self.own_pixels is None else 3)
        if channels is None or self.pixels is None:
            return None
        return (channels, self.pixels, self.pixels)

    @property
    def pixels(self) -> int | None:
        """Height and width of an image; None: the size with which the images were prepared."""
        return self.own_pixels or self.size

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.own_pixels is not None and self.size not in (None, self.own_pixels):
            yield (
                "size",
                "name",
                f"is {self.size}, but {self.name} has {self.own_pixels} pixels. "
                "Set it to null, or prepare a folder.",
            )


@spec_class
class Cifar10Spec(ImageDataSpec):
    own_pixels = 32
    preparation = "cld_core.data.cifar10:plan_cifar10"

    name: str = key("cifar10", "CIFAR-10")
    path: str = key("data/cifar10", _PATH, is_path=True)


@spec_class
class CelebaHq256Spec(ImageDataSpec):
    own_pixels = 256
    preparation = "cld_core.data.celebahq:plan_celebahq"
    has_labels = False

    name: str = key("celebahq256", "CelebA-HQ at 256 x 256 pixels")
    path: str = key("data/celebahq256", _PATH, is_path=True)


@spec_class
class IdxSpec(ImageDataSpec):
    preparation = "cld_core.data.idx:plan_idx"

    name: str = key("idx", "MNIST, Fashion-MNIST and others in idx files")
    path: str = key("data/idx", _PATH, is_path=True)


DataSpec = ToyDataSpec | StoredDataSpec
