"""From an array to samples: about two minutes on one core."""

import matplotlib.pyplot as plt
import numpy as np

import cld_core

rng = np.random.default_rng(0)
angle, lower = np.pi * rng.random(10_000), rng.random(10_000) < 0.5
x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
x[lower] = [1.0, 0.5] - x[lower]
x += 0.08 * rng.standard_normal(x.shape)

model = cld_core.fit(x, steps=8000)
plt.scatter(*model.sample(2000).numpy().T, s=2)
plt.savefig("two_moons.png")
