"""A model of a table: correlated columns of very different units, one with a heavy tail.

The model gives new rows, and the likelihood of any row, which finds rows that are not like the
others. About two minutes on one core.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import cld_core

names = ["age", "income", "rent", "rooms", "distance"]


def table(n, rng):
    age = rng.normal(45, 12, n)
    income = np.exp(rng.normal(10 + 0.01 * age, 0.6))  # a heavy tail
    rooms = 2 + 0.00002 * income + rng.normal(0, 0.5, n)
    rent = 300 + 200 * rooms + rng.normal(0, 80, n)
    return np.stack([age, income, rent, rooms, rng.gamma(2, 4, n)], axis=1)


x, new = table(20_000, np.random.default_rng(0)), table(500, np.random.default_rng(1))

# Columns are scaled by themselves; samples and likelihoods are those of the table as it is.
model = cld_core.fit(x, steps=8000)
model.save("table.safetensors")

drawn = model.sample(5000).numpy()
print("correlations of the samples minus those of the table, at most:")
print(np.abs(np.corrcoef(drawn.T) - np.corrcoef(x.T)).max().round(3))

# Each column of a mixed-up row is usual. The row is not.
mixed = np.random.default_rng(2).permuted(new, axis=0)
usual, odd = (
    model.log_likelihood(torch.tensor(rows), velocities=4).numpy() for rows in (new, mixed)
)
print(f"mean log-likelihood in nats: rows {usual.mean():.2f}, mixed-up rows {odd.mean():.2f}")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
for ax, rows, title in ((axes[0], x[:2000], "table"), (axes[1], drawn[:2000], "samples")):
    ax.scatter(rows[:, 1], rows[:, 2], s=2)
    ax.set(
        xscale="log", xlabel=names[1], ylabel=names[2], xlim=(2e3, 1e6), ylim=(0, 2500), title=title
    )
axes[2].hist([usual, odd], bins=np.linspace(-45, -20, 40), label=["rows", "mixed-up rows"])
axes[2].set(xlabel="log-likelihood, nats")
axes[2].legend()
figure.savefig("table.png")
