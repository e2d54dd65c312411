"""Images of the data beside samples of a run, as one picture: docs/images/cifar10_smoke.png.

    python -m benchmarks.beside runs/smoke -o docs/images/cifar10_smoke.png

The data are test images at equal distances, because files are in the order of their classes; the samples are those of
seed 0: nothing is chosen.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import cld_core
from cld_core import pictures


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
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    for axes, x, title in zip(figure.subplots(1, 2), (data, samples), ("data", "samples"), strict=True):
        pictures.on_axes(axes, x, run, title)
    figure.savefig(parsed.output)
    print(f"{parsed.output}: {parsed.n} samples of step {run.step}, {parsed.nfe} network evaluations each")


if __name__ == "__main__":
    main()
