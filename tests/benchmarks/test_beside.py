"""Images of the data on the left, samples on the right."""

import torch

from benchmarks import beside


def test_data_are_on_the_left_and_samples_on_the_right():
    data, samples = torch.ones(4, 3, 8, 8), torch.full((4, 3, 8, 8), -0.5)
    made = beside.picture(data, samples)
    width, height = made.size
    below = (height + beside.HEADING) // 2 - 8
    assert made.getpixel((width // 8, below)) == (255, 255, 255)
    assert made.getpixel((width - width // 8, below)) == (64, 64, 64)
