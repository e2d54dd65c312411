"""The `ema` section: which average of the weights is used."""

from dataclasses import dataclass

from .keys import key

# That of the uniform average is 1/sqrt(12); no power function that grows is longer.
LONGEST = 0.288


@dataclass(frozen=True, kw_only=True)
class EmaSpec:
    length: float | None = key(
        None,
        "relative length of the average of weights, made of those of train.ema_lengths; null: that of train.ema",
        gt=0,
        lt=LONGEST,
        added=True,
    )

    @property
    def words(self) -> str:
        """In words, for what is made with the average; empty for the usual one."""
        return "" if self.length is None else f"EMA length {self.length:g}"
