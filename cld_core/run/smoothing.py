"""The smoothed loss: an exponential mean over reports, as `progress.json` has it and as short curves are drawn."""

# The weight of the newest report. The first ten have equal weights.
NEWEST = 0.1


def smoothed(before: float | None, loss: float, number: int) -> float:
    """The mean after another finite loss.

    Args:
        before: the mean of those before; None if this is the first.
        number: of this loss, from 1.
    """
    return loss if before is None else before + max(NEWEST, 1 / number) * (loss - before)
