"""What fails on rank 0 alone fails on all."""

import pytest

from cld_core.errors import LeaseLostError
from cld_core.train.jointly import RankError, on_first


class Pair:
    """One of two ranks, the first of which speaks before the second listens."""

    said: list[str | None]

    def __init__(self, is_first, said):
        self.is_first, self.said = is_first, said

    def from_first(self, value):
        if self.is_first:
            self.said.append(value)
        return self.said[-1]


@pytest.mark.parametrize("error", [LeaseLostError("job 7 has it"), OSError("the disk is full")])
def test_an_error_on_rank_0_is_met_by_the_others(error):
    said = []

    def work():
        raise error

    with pytest.raises(type(error)):
        on_first(Pair(True, said), work)
    with pytest.raises(RankError, match=f"rank 0 could not continue: {error}"):
        on_first(Pair(False, said), lambda: pytest.fail("only rank 0 works"))


def test_work_that_succeeds_is_done_once():
    done, said = [], []
    on_first(Pair(True, said), lambda: done.append("work"))
    on_first(Pair(False, said), lambda: done.append("twice"))
    assert done == ["work"]
