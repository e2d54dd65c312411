"""Which machine is slow: each rank's own time of a step, compared over the ranks.

All ranks need the same time for a whole step, since they wait for each other in the exchange of gradients. So only what
comes before the exchange is measured: reading the batch and the forward pass, and with accumulation all but the last
backward pass. On the CPU that is the clock. On a GPU, where the host runs ahead, two events are recorded in the stream
and read when they have passed, so that nobody waits for the device; the time includes what the GPU waited for data.
"""

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from cld_core.ranks import Ranks

# Reports of the log (`train.log_every`) from one comparison to the next.
EVERY = 5
# A rank is a straggler if it was so many times slower than the median, and by so many seconds, so often in a row.
SLOWER, BY_S, IN_A_ROW = 1.3, 0.005, 3
# Steps whose times are kept.
_KEPT = 1000


class Pace:
    """This rank's own times of steps since the last `take`; a single rank measures nothing."""

    def __init__(self, ranks: Ranks) -> None:
        self._is_on, self._gpu = ranks.world_size > 1, ranks.device.type == "cuda"
        self._began: float | torch.cuda.Event = 0.0
        self._times: deque[float] = deque(maxlen=_KEPT)
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque(maxlen=_KEPT)

    def begin(self) -> None:
        """A step begins."""
        if self._is_on:
            self._began = self._now()

    def end(self) -> None:
        """What this rank does before it exchanges gradients is done, or on its way."""
        if not self._is_on:
            return
        now = self._now()
        if isinstance(self._began, float) and isinstance(now, float):
            self._times.append(now - self._began)
        elif not isinstance(self._began, float) and not isinstance(now, float):
            self._open.append((self._began, now))

    def take(self) -> float:
        """The median since the last call, seconds; 0 if nothing is known."""
        while self._open and self._open[0][1].query():
            began, ended = self._open.popleft()
            self._times.append(began.elapsed_time(ended) / 1000)
        times = list(self._times)
        self._times.clear()
        return statistics.median(times) if times else 0.0

    def _now(self) -> "float | torch.cuda.Event":
        if not self._gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class Stragglers:
    """Compares the ranks every now and then; on rank 0, says who is slow.

    Attributes:
        hosts: the machine of each rank, known after the first comparison on rank 0.
        in_a_row: how often in a row each rank was slow.
    """

    ranks: Ranks
    node: str
    hosts: Sequence[str] = ()
    in_a_row: dict[int, int] = field(default_factory=dict)

    def compare(self, pace: Pace) -> tuple[str | None, str | None]:
        """Called on all ranks: a line for the log and a warning, each on rank 0 alone, and None without other ranks."""
        if self.ranks.world_size == 1:
            return None, None
        if not self.hosts:
            self.hosts = self.ranks.gather(self.node) or ("-",)
        mine = torch.tensor([pace.take()], dtype=torch.float64)
        all_ = [torch.zeros_like(mine) for _ in range(self.ranks.world_size)] if self.ranks.is_first else None
        dist.gather(mine, all_, dst=0, group=self.ranks.control)
        if all_ is None:
            return None, None
        return self.judge([float(seconds) for seconds in all_])

    def judge(self, seconds: Sequence[float]) -> tuple[str | None, str | None]:
        """The line and the warning for these times of the ranks."""
        # The lower one of two, so that of two ranks the slow one is not part of the measure.
        usual = statistics.median_low(seconds)
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        if usual <= 0:
            return None, None
        for rank, own in enumerate(seconds):
            is_slow = own > SLOWER * usual and own - usual > BY_S
            self.in_a_row[rank] = self.in_a_row.get(rank, 0) + 1 if is_slow else 0
        line = f"own step time: median {_ms(usual)}, slowest {self._named(slowest)} {_ms(seconds[slowest])}"
        line += f" ({seconds[slowest] / usual:.1f}x), fastest {_ms(min(seconds))}"
        slow = [rank for rank, count in self.in_a_row.items() if count >= IN_A_ROW]
        if not slow:
            return line, None
        worst = max(slow, key=seconds.__getitem__)
        others = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
        text = f"{self._named(worst)} is slow: {seconds[worst] / usual:.1f} times the median{others}"
        return line, text

    def _named(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
