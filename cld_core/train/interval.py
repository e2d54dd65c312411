"""What training reports about the steps of a log interval, accumulated on the device: the host waits for it once."""

import statistics
import time
from collections import deque

import torch
from torch import Tensor

from cld_core.ranks import Ranks

# Upper ends of ranges of t, the same for all runs, so that their curves can be compared. The first range begins at 0.
ENDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# Steps whose losses are kept before they are summed up: sums of a few numbers at each step would cost more.
_KEPT = 64
# Steps whose own times are kept.
_TIMED = 1000


def range_names() -> list[str]:
    """What the losses in ranges of t are called: from and to."""
    starts = (0.0, *ENDS[:-1])
    return [f"loss_at_t/{start:g}_to_{end:g}" for start, end in zip(starts, ENDS, strict=True)]


class Interval:
    """Losses over all ranks, skipped steps, and this rank's waits for data and own times, since each was last taken.

    Losses of skipped steps do not count: one that overflows in the forward pass has a loss that is not finite on some
    rank. No step depends on what is kept here.

    A rank's own time of a step is what comes before the ranks exchange gradients, in which they wait for each other:
    reading the batch and the forward pass, and with accumulation all but the last backward pass. On the CPU that is the
    clock. On a GPU, where the host runs ahead, two events are recorded in the stream and read when they have passed:
    that includes what the GPU waited for data. A rank without peers has no use for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._is_timed, self._on_gpu = ranks, ranks.world_size > 1, ranks.device.type == "cuda"
        self._ends = torch.tensor(ENDS[:-1], dtype=torch.float64, device=ranks.device)
        self._ranges = torch.arange(len(ENDS), device=ranks.device)
        # Sums and numbers of losses: in the first column those of steps, in the others those of examples in a range.
        self._sums = torch.zeros(2, 1 + len(ENDS), dtype=torch.float64, device=ranks.device)
        self._seen: tuple[Tensor, list[Tensor], float] | None = None
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._steps, self._wait_s = 0, 0.0
        self._began: float | torch.cuda.Event = 0.0
        self._times: deque[float] = deque(maxlen=_TIMED)
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque(maxlen=_TIMED)

    def begin(self) -> None:
        """A step begins."""
        if self._is_timed:
            self._began = self._now()

    def exchange(self) -> None:
        """What this rank does before it exchanges gradients is done, or on its way."""
        if not self._is_timed:
            return
        now = self._now()
        if isinstance(self._began, float) and isinstance(now, float):
            self._times.append(now - self._began)
        elif not isinstance(self._began, float) and not isinstance(now, float):
            self._open.append((self._began, now))

    def see(self, t: Tensor, losses: list[Tensor], wait_s: float = 0.0) -> None:
        """See a step, about which `count` decides.

        Args:
            t: this rank's times (B,); B is the same in every step.
            losses: without weights, at these times, in parts.
            wait_s: seconds that the step waited for data.
        """
        self._seen = t, losses, wait_s

    def count(self, loss: Tensor, skip: Tensor) -> None:
        """Count the step that was seen last, with this rank's ``loss``, a scalar.

        Args:
            skip: a bool scalar on the device, the same on all ranks: the losses do not count.
        """
        assert self._seen is not None, "see the losses of a step before you count them"
        t, losses, wait_s = self._seen
        self._steps, self._wait_s = self._steps + 1, self._wait_s + wait_s
        self._kept.append((loss, t, torch.cat(losses), skip))
        if len(self._kept) == _KEPT:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._kept:
            return
        loss, t, losses, skips = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        good = ~skips
        counted = (torch.bucketize(t, self._ends)[..., None] == self._ranges) & good[:, None, None]
        # A skipped loss may be infinite, and infinity times 0 is not a number.
        values = losses.double()[..., None].masked_fill(~counted, 0.0)
        self._sums[:, 0] += torch.stack([loss.double().masked_fill(skips, 0.0).sum(), good.double().sum()])
        self._sums[:, 1:] += torch.stack([values.sum((0, 1)), counted.double().sum((0, 1))])

    def take(self) -> dict[str, float]:
        """The mean loss and those in ranges of t, the seconds a step waited for data, and the number of skipped steps.

        Without the loss if all steps were skipped, and without ranges where no t was drawn. Waits for the device and
        all ranks.
        """
        self._sum_up()
        totals, counts = self._ranks.sums(self._sums)
        named = zip(("loss", *range_names()), totals.tolist(), counts.tolist(), strict=True)
        found = {name: total / count for name, total, count in named if count}
        found["data_wait_s"] = self._wait_s / max(self._steps, 1)
        found["skipped_steps"] = self._steps - float(counts[0]) / self._ranks.world_size
        self._sums.zero_()
        self._steps, self._wait_s = 0, 0.0
        return found

    def take_own_time(self) -> float:
        """The median of this rank's own times of steps, seconds; 0 if nothing is known."""
        while self._open and self._open[0][1].query():
            began, ended = self._open.popleft()
            self._times.append(began.elapsed_time(ended) / 1000)
        times = list(self._times)
        self._times.clear()
        return statistics.median(times) if times else 0.0

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
