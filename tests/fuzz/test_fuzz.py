"""Every target for some seconds; a bad case is printed with the command that runs it again."""

from __future__ import annotations

import pytest

from .campaign import campaign, describe
from .targets import TARGETS

pytestmark = pytest.mark.by_hand
# The whole of it takes a minute; `make fuzz` runs for hours.
SECONDS = 60.0


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks(name: str) -> None:
    result = campaign(TARGETS[name], seed=1, seconds=SECONDS / len(TARGETS))
    assert result.cases > 0
    assert not result.bad, describe(result)
