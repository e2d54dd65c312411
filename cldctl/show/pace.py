"""How fast something gets on, as somebody who watches sees it."""

import time
from dataclasses import dataclass, replace

from .view import Shown


@dataclass
class Pace:
    """Elapsed and remaining time of something that does not report them: from when it was seen first."""

    began: float | None = None
    first: int = 0

    def of(self, shown: Shown) -> Shown:
        """The same with its times; what is left to do takes as long, per step or row, as what was done meanwhile."""
        now = time.monotonic()
        if self.began is None:
            self.began, self.first = now, shown.done
        elapsed, done = now - self.began, shown.done - self.first
        left = elapsed / done * (shown.total - shown.done) if done > 0 and elapsed > 0 else None
        return replace(shown, elapsed_s=elapsed, left_s=left)
