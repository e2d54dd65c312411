"""The whole run: the Slurm tests, which mostly wait, on one worker, everything else beside them on another."""

from pathlib import Path

import pytest
import torch

# The tensors of the tests are small: a second thread costs more than it brings, and much where others compute.
torch.set_num_threads(1)

_SLURM = Path(__file__).parent / "slurm"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the Slurm tests first, so that with ``-n 2 --dist loadgroup`` one worker begins with them and keeps them."""
    slurm = [item for item in items if item.path.is_relative_to(_SLURM)]
    for item in slurm:
        item.add_marker(pytest.mark.xdist_group("slurm"))
    items[:] = slurm + [item for item in items if not item.path.is_relative_to(_SLURM)]
