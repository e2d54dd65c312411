"""Samples with infinite numbers, or what is not a number: found, reported, and too many of them refused.

Loads no torch.
"""

from typing import TYPE_CHECKING

from cld_core.errors import UnusableSamplesError

if TYPE_CHECKING:
    from torch import Tensor


def rows(x: "Tensor") -> "Tensor":
    """Which of the samples x (B, ...) are not finite: bool, (B,)."""
    return ~x.isfinite().flatten(1).all(1)


def remark(count: int, of: int) -> str | None:
    """In words, how many of some samples are not finite; None if all are."""
    return f"{count:,} of {of:,} samples {'is' if count == 1 else 'are'} not finite" if count else None


def remark_on(x: "Tensor") -> str | None:
    """`remark` on the samples x (B, ...)."""
    return remark(int(rows(x).sum()), len(x))


def require_few(count: int, of: int, *, samples: int, allowed: float) -> None:
    """Pass if ``count`` samples, of ``of`` that were looked at, are no more than may be.

    Args:
        samples: how many there will be in all.
        allowed: the fraction of all that may be not finite.

    Raises:
        UnusableSamplesError: there are more.
    """
    fraction = count / samples
    if fraction <= allowed:
        return
    share = f"a fraction of {fraction:.3g}" + (f" of the {samples:,} asked for" if of < samples else "")
    text = f"{remark(count, of)}, {share}, but eval.max_nonfinite allows {allowed:g}"
    causes = "sampling settings that diverge, half precision, or a network that has hardly been trained"
    fix = "Change the sampling settings, or set eval.max_nonfinite higher, which draws no sample again"
    raise UnusableSamplesError(f"{text}. Likely causes: {causes}. {fix}.")
