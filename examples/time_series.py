"""A model of curves (C, L), and forecasts of the second half, given the first.

It takes about ten minutes on two cores.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import cld_core
from cld_core.conditioning import Observation

rng = np.random.default_rng(0)
n = 4000
length = 128
t = np.linspace(0, 4 * np.pi, length)
phase = 2 * np.pi * rng.random((n, 1))
frequency = rng.uniform(0.7, 1.5, (n, 1))
damping = rng.uniform(0, 0.1, (n, 1))
envelope = np.exp(-damping * t)
# Two channels: a damped oscillation and its derivative, both with noise.
x = np.stack(
    [envelope * np.sin(frequency * t + phase), envelope * np.cos(frequency * t + phase)], axis=1
)
x += 0.03 * rng.standard_normal(x.shape)

model = cld_core.fit(x, steps=2000)

# Any model can be conditioned on a part of an example, without further training.
curve = torch.tensor(x[0]).float()
known = torch.arange(length) < length // 2
futures = model.sample(
    20, nfe=50, observation=Observation.masked(curve, known.expand(2, -1), sigma=0.03)
).numpy()

figure, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
for row in model.sample(5).numpy():
    axes[0].plot(t, row[0])
axes[0].set_title("samples, first channel")
axes[1].plot(t, futures[:, 0].T, color="tab:blue", alpha=0.3)
axes[1].plot(t, x[0, 0], color="black")
axes[1].axvline(t[length // 2], color="grey")
axes[1].set_title("futures of one curve (black), given its first half")
figure.savefig("time_series.png")
