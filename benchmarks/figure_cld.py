"""The figure of docs/learn/cld.md: paths, densities and factors of the targets of CLD and VPSDE.

`python -m benchmarks.figure_cld` writes docs/images/cld.png.
"""

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cld_core import sde
from cld_core.config.sde import CldSpec, VpsdeSpec
from cld_core.sde.base import Diffusion

FILE = Path(__file__).parents[1] / "docs" / "images" / "cld.png"
MODES, STD = (-1.5, -0.2, 1.5), 0.08
PATHS, STEPS, SEED = 3, 2000, 5
END = 0.6
COLOURS = ("#c1272d", "#1a6faf", "#2e8b57")


def paths(diffusion: Diffusion, generator: torch.Generator) -> Tensor:
    """Forward paths from the data law, (STEPS + 1, n, PATHS), by Euler-Maruyama with steps of 1 /
    STEPS."""
    centres = torch.tensor(MODES, dtype=torch.float64).repeat_interleave(PATHS // len(MODES))
    start = torch.randn(diffusion.n, PATHS, generator=generator, dtype=torch.float64)
    spread = torch.tensor([STD, *diffusion.initial_std], dtype=torch.float64)[:, None]
    u = start * spread
    u[0] += centres
    drift = torch.tensor(diffusion.A, dtype=torch.float64)
    unscored = [0.0] * (diffusion.n - diffusion.m)
    noise = torch.tensor([*unscored, *diffusion.D], dtype=torch.float64).sqrt()[:, None]
    states = [u]
    for step in range(STEPS):
        beta = diffusion.schedule.beta((step + 0.5) / STEPS) / STEPS
        u = (
            u
            + beta * drift @ u
            + math.sqrt(beta) * noise * torch.randn(u.shape, generator=generator, dtype=u.dtype)
        )
        states.append(u)
    return torch.stack(states)


def marginal(diffusion: Diffusion, t: float, half: int, grid: Tensor) -> Tensor:
    """The density of one half at time t, on a grid (G,), if the data are a mixture of three
    Gaussians."""
    mean, root = diffusion.mean(t), diffusion.factor(t, "dsm")
    initial = torch.tensor([STD, *diffusion.initial_std], dtype=torch.float64)
    covariance = (mean * initial**2) @ mean.T + root @ root.T
    centres = mean[half, 0] * torch.tensor(MODES, dtype=torch.float64)
    std = covariance[half, half].sqrt()
    return torch.exp(-(((grid[:, None] - centres) / std) ** 2) / 2).mean(1) / (
        std * math.sqrt(2 * math.pi)
    )


def draw_half(ax: Axes, diffusion: Diffusion, states: Tensor, half: int, reach: float) -> None:
    """Paths of one half over t, on its marginal density."""
    grid = torch.linspace(-reach, reach, 300, dtype=torch.float64)
    times = torch.linspace(1e-3, END, 200, dtype=torch.float64)
    density = torch.stack([marginal(diffusion, float(t), half, grid) for t in times], dim=1)
    # At small t the peaks are high: the root leaves the rest visible.
    look = {"origin": "lower", "aspect": "auto", "cmap": "Greys", "vmin": 0, "vmax": 1.3}
    ax.imshow(density.sqrt().numpy(), extent=(0, END, -reach, reach), **look)
    along = torch.linspace(0, 1, len(states)).numpy()
    for path in range(PATHS):
        colour = COLOURS[path * len(MODES) // PATHS]
        ax.plot(along, states[:, half, path].numpy(), color=colour, linewidth=1.1)
    ax.set(xlim=(0, END), ylim=(-reach, reach), xlabel="t")


def draw_factors(ax: Axes, cld: Diffusion, vpsde: Diffusion) -> None:
    """The factor of the regression target of each objective over t."""
    times = torch.logspace(-4, 0, 200, dtype=torch.float64).tolist()
    for label, diffusion, objective, style in (
        ("VPSDE", vpsde, "hsm", {"color": "#555555", "linestyle": "--"}),
        ("CLD, velocity drawn (DSM)", cld, "dsm", {"color": COLOURS[0], "linestyle": ":"}),
        ("CLD, velocity averaged (HSM)", cld, "hsm", {"color": COLOURS[1]}),
    ):
        factors = [float(diffusion.target(t, objective)) for t in times]
        ax.loglog(times, factors, label=label, **style)
    ax.set(
        xlabel="t",
        ylabel="factor of the target",
        title="What the network has to match",
        xlim=(1e-4, 1),
    )
    ax.legend(frameon=False, fontsize=8)


def figure() -> Figure:
    """The whole figure."""
    generator = torch.Generator().manual_seed(SEED)
    cld, vpsde = sde.build(CldSpec()), sde.build(VpsdeSpec())
    result = Figure(figsize=(9, 5.6), layout="constrained")
    (left, middle), (below, right) = result.subplots(2, 2)
    states = paths(cld, generator)
    draw_half(left, cld, states, 0, 3.2)
    left.set(ylabel="x", title="CLD: data x, moved by the velocity alone")
    draw_half(middle, cld, states, 1, 1.8)
    middle.set(ylabel="v", title="CLD: velocity v, which gets the noise")
    draw_half(below, vpsde, paths(vpsde, generator), 0, 3.2)
    below.set(ylabel="x", title="VPSDE: data x, which gets the noise")
    draw_factors(right, cld, vpsde)
    return result


def main() -> None:
    figure().savefig(FILE, dpi=100, metadata={"Software": None})
    print(FILE)


if __name__ == "__main__":
    main()
