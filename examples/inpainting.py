"""A model of small grey pictures (1, H, W), and a part of one painted again.

It takes about ten minutes on two cores.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import cld_core
from cld_core.conditioning import Observation, Replacement

rng = np.random.default_rng(0)
n = 4000
side = 16
row, column = np.mgrid[:side, :side]
top = rng.uniform(4, 12, (n, 1, 1))
left = rng.uniform(4, 12, (n, 1, 1))
radius = rng.uniform(2, 5, (n, 1, 1))
# Rings of any size, anywhere. Bytes are pictures with 256 grey levels.
distance = np.hypot(row - top, column - left)
pictures = (255 * np.exp(-((distance - radius) ** 2))).astype(np.uint8)[:, None]

model = cld_core.fit(pictures, steps=2000)

# The upper half of a picture is known. Pictures of a model are in [-1, 1].
picture = torch.tensor(pictures[0]) / 127.5 - 1.0
known = torch.tensor(row < side // 2)
painted = model.sample(9, nfe=50, observation=Observation.masked(picture, known), by=Replacement())

shown = [picture, torch.where(known, picture, 0.0), *painted, *model.sample(11)]
figure, axes = plt.subplots(2, 11, figsize=(11, 2.2), layout="constrained")
for ax, one in zip(axes.flat, shown, strict=True):
    ax.imshow(one[0].numpy(), cmap="gray", vmin=-1, vmax=1)
    ax.set_axis_off()
figure.suptitle("a picture, its known half, nine ways to go on; below: samples")
figure.savefig("inpainting.png")
