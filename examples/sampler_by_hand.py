"""A sampler of your own in twenty lines, from `model.score`: Heun's method for the flow.

The probability flow of a diffusion du = beta A u dt + sqrt(beta D) dw is du/dt = beta (A u - D s(u,
t) / 2), where only the halves of u whose score s is learned have noise D (docs/math.md, sections 2
and 6). It works for every diffusion.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import cld_core

model = cld_core.load(Path(__file__).parents[1] / "docs" / "demo.safetensors", device="cpu")
sde, shape, eps = model.sde, model.data_shape, 1e-3
A, D = torch.tensor(sde.A), torch.tensor(sde.D)


def flow(u, t):  # u: (B, halves, C, ...)
    score = model.score(u.flatten(1, 2), t).unflatten(1, (sde.m, shape[0]))
    change = torch.einsum("ij,bj...->bi...", A, u)
    change[:, -sde.m :] -= 0.5 * torch.einsum("i,bi...->bi...", D, score)
    return sde.schedule.beta(t) * change


@torch.no_grad()
def sample(n, steps):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, sde.n * shape[0], *shape[1:], generator=generator)
    u = sde.prior(noise).unflatten(1, (sde.n, shape[0]))
    times = (
        torch.linspace(1.0, eps ** (1 / 6), steps + 1, dtype=torch.float64) ** 6
    )  # dense near the data
    for t, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        first = flow(u, t)
        second = flow(u + (later - t) * first, later)
        u = u + (later - t) * 0.5 * (first + second)
    return model.form.to_data(u[:, 0])


drawn = {f"by hand, {2 * steps} evaluations": sample(2000, steps) for steps in (25, 100)}
drawn["model.sample, adaptive"] = model.sample(2000, method="ode")
figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True, layout="constrained")
for ax, (title, x) in zip(axes, drawn.items(), strict=True):
    ax.scatter(*x.numpy().T, s=1)
    ax.set(title=title, xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
figure.savefig("sampler_by_hand.png")
