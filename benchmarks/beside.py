"""Images of the data beside samples of a run, as one picture: docs/images/cifar10_smoke.png.

    python -m benchmarks.beside runs/smoke -o docs/images/cifar10_smoke.png

The data are test images at equal distances, because files are in the order of their classes; the samples are those of
seed 0: nothing is chosen.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import cld_core
from cld_core.data.images import to_pixels
from cld_core.pictures import tile

# A pixel of the data is so many pixels of the picture; heights of the headings and of the gap between the halves.
ZOOM, HEADING, GAP = 2, 24, 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("-n", type=int, default=36, help="images on each side (default: 36)")
    parser.add_argument("--nfe", type=int, default=50, help="network evaluations of a sample (default: 50)")
    parsed = parser.parse_args()
    run = cld_core.load(parsed.run)
    samples = run.sample(parsed.n, method="exponential", grid="auto", nfe=parsed.nfe)
    distance = run.source.test.n // parsed.n
    data = torch.cat([run.source.test_data(0, i * distance, i * distance + 1) for i in range(parsed.n)])
    picture(data, samples).save(parsed.output)
    print(f"{parsed.output}: {parsed.n} samples of step {run.step}, {parsed.nfe} network evaluations each")


def picture(data: Tensor, samples: Tensor) -> Image.Image:
    """Two grids side by side, of images (n, C, H, W) in [-1, 1] each."""
    grids = [_enlarged(tile(to_pixels(images)).numpy()) for images in (data, samples)]
    width, height = grids[0].size
    canvas = Image.new("RGB", (2 * width + GAP, height + HEADING), "white")
    for number, (grid, heading) in enumerate(zip(grids, ("data", "samples"), strict=True)):
        left = number * (width + GAP)
        canvas.paste(grid, (left, HEADING))
        ImageDraw.Draw(canvas).text((left + 4, 4), heading, fill="black", font_size=15)
    return canvas


def _enlarged(pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
