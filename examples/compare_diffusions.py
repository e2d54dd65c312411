"""CLD, PSLD, HOLD and VPSDE on the same data, with the same network and as many steps.

It takes about ten minutes on one core. It prints the bound of the negative log-likelihood in nats,
and how far samples are from test data (sliced Wasserstein distance) by the number of network
evaluations. The last line is the distance between two sets of data.
"""

import matplotlib.pyplot as plt
import torch

import cld_core
from cld_core.data.toy import get

density = get("diamond")
x, test, more = (density.sample(5000, torch.Generator().manual_seed(seed)) for seed in range(3))
counts = (5, 10, 20, 50)


def sliced_w2(x, y, directions=64):
    angle = torch.arange(directions) * torch.pi / directions
    towards = torch.stack([angle.cos(), angle.sin()], dim=1)
    return float(
        ((towards @ x.T).sort().values - (towards @ y.T).sort().values).square().mean().sqrt()
    )


figure, ax = plt.subplots(layout="constrained")
for name in ("cld", "psld", "hold", "vpsde"):
    model = cld_core.fit(x, steps=4000, sde=name)
    nll = -float(model.log_likelihood(test[:1000]).mean())
    distances = [sliced_w2(model.sample(5000, nfe=nfe), test) for nfe in counts]
    print(
        f"{name:<6} bound {nll:.3f}",
        *(f" W2({nfe}) {it:.4f}" for nfe, it in zip(counts, distances, strict=True)),
    )
    ax.loglog(counts, distances, marker="o", label=f"{name}: {nll:.2f} nats")
print(f"data   entropy {density.entropy():.3f}  W2 {sliced_w2(more, test):.4f}")
ax.axhline(sliced_w2(more, test), color="grey", label=f"data: {density.entropy():.2f} nats")
ax.set(xlabel="network evaluations", ylabel="sliced Wasserstein distance")
ax.legend()
figure.savefig("compare_diffusions.png")
