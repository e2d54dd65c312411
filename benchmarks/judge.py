r"""A classifier of small grey images, which judges samples of a class-conditional run.

    # trains it, and tests it on real images
    python -m benchmarks.judge data/fashion_mnist
    # judges runs
    python -m benchmarks.judge data/fashion_mnist runs/NAME ...

It is trained on the first half of the training images; the second half is held out from it. The
weights are kept in DATA/judge.safetensors. As a plug-in, this file registers the features before
its last layer, for the FID in shards:

    cldctl submit RECIPE plugins=benchmarks/judge.py eval.fid.extractor=judge \
        eval.fid.weights=DATA/judge.safetensors
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

import cld_core
from cld_core import register, seeds
from cld_core.config.data import ImageDataSpec
from cld_core.data import store
from cld_core.data.images import StoredSource, to_pixels
from cld_core.evaluate.features import frechet
from cld_core.evaluate.stats_file import moments
from cld_core.files import replacing

FILE = "judge.safetensors"
FEATURES = 64
EPOCHS, BATCH, LR = 8, 128, 3e-3
# Images computed at once, without gradients.
_AT_ONCE = 500
# Images of each class, of one that memorises.
_FEW = 20


class Classifier(nn.Module):
    """Classes of grey images, and the features that they are read from."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (1, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, FEATURES) and scores (B, classes) of images (B, C, H, W), uint8; the first
        channel counts."""
        features = self.body(pixels[:, :1].float() / 127.5 - 1.0)
        return features, self.head(features)


class Judge(FeatureExtractorBase):
    """The classifier as torch-fidelity wants its extractors: layers "features" and "scores"."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str,
        **settings: Any,
    ) -> None:
        super().__init__(name, features_list)
        self.net = loaded(Path(feature_extractor_weights_path))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        layers = dict(zip(("features", "scores"), self.net(x), strict=True))
        return tuple(layers[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "scores")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "scores" if metric == "isc" else "features"


register("extractors", "judge", Judge)


def loaded(file: Path) -> Classifier:
    """The classifier of a file that `trained` wrote, for evaluation."""
    weights = load_file(file)
    net = Classifier(len(weights["head.bias"]))
    net.load_state_dict(weights)
    return net.eval()


@dataclass(frozen=True)
class Images:
    """A split of prepared data in memory: uint8 (n, 1, H, W), and labels (n,)."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def of(cls, data: Path, split: store.Split) -> "Images":
        """Raises DataError: there is no such split, or it has no labels."""
        source = StoredSource(ImageDataSpec(path=str(data)))
        some = source.opened(split, "memory")
        return cls(
            some.batch(torch.arange(some.n)), torch.from_numpy(source.examples.labels(split))
        )

    def __getitem__(self, rows: slice | Tensor) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def halves(self) -> "tuple[Images, Images]":
        """The one that the judge learns from, and the one that is held out from it."""
        middle = len(self) // 2
        return self[:middle], self[middle:]


def trained(
    data: Path, *, seed: int = 0, epochs: int = EPOCHS, say: Callable[[str], object] = print
) -> Classifier:
    """The judge of prepared data: the one that lies beside them, or a new one, which is stored
    there."""
    file = data / FILE
    if file.is_file():
        return loaded(file)
    images, begun = Images.of(data, "train").halves()[0], time.monotonic()
    torch.manual_seed(seed)
    net = Classifier(int(images.labels.max()) + 1)
    net(images.pixels[:2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=1e-2)
    steps = max(1, len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * steps)
    for epoch in range(epochs):
        generator = seeds.generator("judge", seed, epoch)
        order = torch.randperm(len(images), generator=generator)
        flips = torch.rand(len(images), generator=generator)
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            pixels = images.pixels[rows]
            pixels = torch.where((flips[rows] < 0.5)[:, None, None, None], pixels, pixels.flip(-1))
            loss = functional.cross_entropy(
                net(pixels)[1], images.labels[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        say(
            f"epoch {epoch + 1} of {epochs}: loss {float(loss.detach()):.3f}, "
            f"{time.monotonic() - begun:.0f} s"
        )
    with replacing(file) as out:
        out.write(save(net.state_dict()))
    return net.eval()


@torch.no_grad()
def seen(net: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, FEATURES) and classes (n,) of images, uint8 (n, C, H, W)."""
    parts = [net(some) for some in pixels.split(_AT_ONCE)]
    return torch.cat([features for features, _ in parts]), torch.cat(
        [scores.argmax(1) for _, scores in parts]
    )


@dataclass(frozen=True)
class Verdict:
    """What the judge says of images that ought to be of some classes.

    Attributes:
        accuracy: the share that is of its class.
        by_class: this share within each class that there are images of, in their order.
        fid: Fréchet distance from the test images in the judge's features.
    """

    accuracy: float
    by_class: tuple[float, ...]
    fid: float


def verdict(net: Classifier, images: Images, test: Tensor) -> Verdict:
    """Of images with the classes that they ought to have, against features (m, FEATURES) of test
    images."""
    features, found = seen(net, images.pixels)
    right = (found == images.labels).double()
    by_class = tuple(
        float(right[images.labels == it].mean()) for it in images.labels.unique().tolist()
    )
    return Verdict(
        float(right.mean()), by_class, frechet(features.numpy(), *moments([test.numpy()]))
    )


def references(net: Classifier, data: Path, n: int) -> dict[str, Verdict]:
    """Of n training images, against all test images: of each half, what a perfect model would
    reach, and of few of them again and again, one that memorises."""
    test, (own, held) = Images.of(data, "validation"), Images.of(data, "train").halves()
    features = seen(net, test.pixels)[0]
    ranks = functional.one_hot(held.labels).cumsum(0).gather(1, held.labels[:, None])[:, 0]
    few = held[ranks <= _FEW]
    again = few[torch.arange(n) % len(few)]
    some = {
        "training images, half held out": held,
        "training images, half that the judge knows": own,
        f"{_FEW} training images of each class, again and again": again,
    }
    return {name: verdict(net, images[:n], features) for name, images in some.items()}


def of_model(
    net: Classifier, model: cld_core.Model, data: Path, n: int, **sampling: Any
) -> Verdict:
    """Of n samples of a class-conditional model, with classes as frequent as in the training
    data."""
    labels = model.labels(None, n)
    assert labels is not None, "the judge wants a class-conditional model: data.labels=true"
    x = model.sample(n, batch_size=_AT_ONCE, **sampling)
    return verdict(
        net, Images(to_pixels(x), labels), seen(net, Images.of(data, "validation").pixels)[0]
    )


def line(name: str, it: Verdict) -> str:
    """A row of a table in Markdown."""
    classes = " / ".join(f"{100 * share:.0f}" for share in it.by_class)
    return f"| {name} | {100 * it.accuracy:.1f} % | {it.fid:.2f} | {classes} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of prepared grey images with labels")
    parser.add_argument("runs", nargs="*", help="class-conditional runs, or exported models")
    parser.add_argument(
        "-n", type=int, default=5000, help="samples of a run, and real images beside them"
    )
    parser.add_argument(
        "--nfe", type=int, help="evaluations of a sample (default: as the recipe says)"
    )
    parser.add_argument("--method", help="sampler (default: as the recipe says)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parsed = parser.parse_args()
    net = trained(parsed.data)
    test = Images.of(parsed.data, "validation")
    right = (seen(net, test.pixels)[1] == test.labels).double().mean()
    print(f"The judge is right about {100 * float(right):.1f} % of {len(test):,} test images.\n")
    found = references(net, parsed.data, parsed.n)
    for run in parsed.runs:
        sampling = {"method": parsed.method, "nfe": parsed.nfe, "seed": parsed.seed}
        found[run] = of_model(net, cld_core.load(run), parsed.data, parsed.n, **sampling)
    names = ", ".join(
        store.find(parsed.data).classes or map(str, range(int(test.labels.max()) + 1))
    )
    print(
        f"| {parsed.n:,} images | of their class | FID | of each class, in %: {names} |\n"
        "| -- | -- | -- | -- |"
    )
    print("\n".join(line(name, it) for name, it in found.items()))
    if parsed.json is not None:
        parsed.json.write_text(
            json.dumps({name: asdict(it) for name, it in found.items()}, indent=1)
        )


if __name__ == "__main__":
    main()
