"""Every target for some seconds; a bad case is printed with the command that runs it again."""

import pytest

from .campaign import campaign
from .targets import TARGETS


@pytest.mark.by_hand
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks(name):
    """The whole of it takes a minute; `make fuzz` runs for hours."""
    assert campaign(TARGETS[name], seed=1, seconds=60.0 / len(TARGETS)) == []
