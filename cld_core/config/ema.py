"""The `ema` section: which average of the weights is used."""

import math
from dataclasses import dataclass

from .keys import key

# Of the uniform average; no power function that grows is longer.
UNIFORM_LENGTH = 1.0 / math.sqrt(12.0)
# In three digits, for keys.
LONGEST = math.floor(1000.0 * UNIFORM_LENGTH) / 1000.0


@dataclass(frozen=True, kw_only=True)
class EmaSpec:
    length: float | None = key(
        None,
        "relative length of the weight average, reconstructed from those of train.ema_lengths; null: use train.ema",
        gt=0,
        lt=LONGEST,
    )

    @property
    def words(self) -> str:
        """In words, for what is made with the average; empty for the usual one."""
        return "" if self.length is None else f"EMA length {self.length:g}"
