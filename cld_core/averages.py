"""Moving averages of the weights, and averages of other lengths that are made of stored ones.

Training tracks the usual exponential average, and power-function averages whose length is a fixed
fraction of the training so far. The latter are stored at intervals, and a least-squares fit of
profiles (`average_profiles`) reconstructs averages of other lengths from them. Karras et al. 2023,
arXiv 2312.02696, section 3 and appendix C; docs/math.md, "Averages after the fact".
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cld_core.checkpoint import (
    ABOUT,
    State,
    Tensors,
    averaged_weights,
    read_tensors,
    tensors_digest,
    write_weights,
)
from cld_core.errors import CheckpointError
from cld_core.files import passes, replacing
from cld_core.records import real
from cld_core.run import RunFolder
from cld_core.run.checkpoints import REMARK_ABOVE, Stored, weights_digest, weights_file
from cld_core.sanitize import one_line

from .average_profiles import exponent, key_of, mixture, require_length

_log = logging.getLogger(__name__)

# How many tensors are changed at once if the device decides whether to update.
_PART = 64
# From the number of updates, this one included, the weight that an average keeps: a number, or
# float64 on the device.
Decay = Callable[[Any], Any]


class Averages:
    """Averages of a network's trainable parameters, each held once and updated in one sweep.

    Attributes:
        names: the names of the parameters.
        averages: for each of ``decays``, tensors in the order of ``names``.
    """

    def __init__(self, net: nn.Module, decays: Sequence[Decay]) -> None:
        named = [
            (name, parameter)
            for name, parameter in net.named_parameters()
            if parameter.requires_grad
        ]
        self.names = [name for name, _ in named]
        self._decays = decays
        self._live = [parameter for _, parameter in named]
        self.averages = [[parameter.detach().clone() for parameter in self._live] for _ in decays]
        # A tensor once the device decides which steps count.
        self._updates: int | Tensor = 0

    @property
    def updates(self) -> int:
        """The number of updates. Waits for the device if it decides which steps count."""
        return int(self._updates)

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Move each average a little towards the parameters.

        Args:
            skip: a bool scalar on the device, which decides whether to do nothing; the host does
                not wait for it.
        """
        if not self.averages:
            return
        live = [parameter.detach() for parameter in self._live]
        if skip is None:
            updates = self.updates + 1
            self._updates = updates
            for average, decay in zip(self.averages, self._decays, strict=True):
                torch._foreach_lerp_(average, live, 1.0 - decay(updates))
            return
        good = (~skip).double()
        self._updates = self._updates + good
        counted = torch.clamp(self._updates, min=1.0)
        for average, decay in zip(self.averages, self._decays, strict=True):
            weight = (1.0 - decay(counted)) * good
            # The kernels for lists take a factor of the same type.
            _move(average, live, weight.to(average[0].dtype))

    def _named(self, average: Sequence[Tensor]) -> Tensors:
        return dict(zip(self.names, average, strict=True))

    def _copy(self, average: Sequence[Tensor], tensors: Tensors) -> None:
        """Copy ``tensors``, by name, into an average of a network of the same shape."""
        for name, tensor in self._named(average).items():
            tensor.copy_(tensors[name])


class Ema(Averages):
    """The exponential moving average.

    After n updates the decay is min(``decay``, (1 + n) / (10 + n)), so that the start is forgotten
    soon.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        def ramp(updates: Any) -> Any:
            decays = (1.0 + updates) / (10.0 + updates)
            return decays.clamp(max=decay) if isinstance(decays, Tensor) else min(decay, decays)

        super().__init__(net, [ramp])
        (self.average,) = self.averages

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the averaged weights inside the block; no third copy is made."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self._live, self.average, strict=True):
            previous = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(previous)

    def state_dict(self) -> State:
        return {"updates": self.updates, "average": self._named(self.average)}

    def load_state_dict(self, state: State) -> None:
        """Continue from a `state_dict` of the same network."""
        self._copy(self.average, state["average"])
        self._updates = int(state["updates"])


def _move(average: list[Tensor], live: list[Tensor], weight: Tensor) -> None:
    """Move an average towards the parameters; ``weight`` is a scalar on the device."""
    # In parts, because all changes together take as much memory as the weights.
    for first in range(0, len(average), _PART):
        part = average[first : first + _PART]
        change = torch._foreach_sub(live[first : first + _PART], part)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(part, change)


class PowerAverages(Averages):
    """Averages with power-function profiles, one for each relative length.

    Update t multiplies the average by (1 - 1/t)^(gamma + 1) before the new parameters are added
    (arXiv 2312.02696, equation 3): the parameters after update s have the weight (s^(gamma+1) -
    (s-1)^(gamma+1)) / t^(gamma+1). Each average takes as much memory as the weights. Without
    lengths, nothing is tracked.

    Attributes:
        lengths: the relative length (`average_profiles.Profile`) of each of ``averages``.
        began: the step at which t was 0: steps before it have no weight.
    """

    def __init__(self, net: nn.Module, lengths: Sequence[float]) -> None:
        super().__init__(net, [partial(_decay, exponent(length) + 1.0) for length in lengths])
        self.lengths = tuple(lengths)
        self.began = 0

    @property
    def begins(self) -> bool:
        """Whether there are averages that have not been updated yet."""
        return bool(self.lengths) and self.updates == 0

    def state_dict(self) -> State:
        """For `load_state_dict`, and for averages of other lengths; empty without lengths."""
        if not self.lengths:
            return {}
        each = zip(self.lengths, self.averages, strict=True)
        averages = {key_of(length): self._named(average) for length, average in each}
        return {
            "lengths": list(self.lengths),
            "began": self.began,
            "updates": self.updates,
            "averages": averages,
        }

    def load_state_dict(self, state: State | None, step: int) -> None:
        """Continue from a `state_dict`; if it is missing or has other lengths, the averages begin
        at ``step``."""
        if not state or {*state["lengths"]} != {*self.lengths}:
            self.began = step
            self._updates = 0
            return
        for length, average in zip(self.lengths, self.averages, strict=True):
            self._copy(average, state["averages"][key_of(length)])
        self.began = int(state["began"])
        self._updates = int(state["updates"])


def _decay(power: float, updates: Any) -> Any:
    return (1.0 - 1.0 / updates) ** power


class Averaged(NamedTuple):
    """Averaged weights.

    Attributes:
        tensors: the network's tensors, by name.
        classes: the model's classes, as plain values; None if it has none.
        form: the form of the data, as plain values; None if the file does not contain it.
        error: the relative error of the average's profile; None if it was not reconstructed from
            others.
    """

    tensors: Tensors
    classes: Any
    form: Any = None
    error: float | None = None


def averaged(run: RunFolder, step: int, length: float | None = None) -> Averaged:
    """The averaged weights of a verified checkpoint: the usual average, or one of a relative
    length.

    The latter is made of stored averages when it is first needed, and kept beside the checkpoint.
    Two processes may make it at the same time; they write the same file.

    Raises:
        UsageError: the checkpoint has no power-function averages, or the length is invalid or out
            of reach.
        CheckpointError: the checkpoint is damaged.
        ValueError: the metadata of a file are damaged.
        OSError: a file cannot be read at this moment.
    """
    weights = averaged_weights(run, step)
    description = weights.described(ABOUT)
    usual = Averaged(weights.tensors, description.get("classes"), description.get("form"))
    if length is None:
        return usual
    require_length(run, length)
    made_of = weights_digest(run, step, length)
    # Use the file that was made before, unless it is damaged, or the stored averages have changed.
    with contextlib.suppress(CheckpointError, ValueError):
        stored = averaged_weights(run, step, length)
        about = stored.described(ABOUT)
        if about.get("made_of") == made_of and about.get("tensors") == tensors_digest(
            stored.tensors
        ):
            error = real(about.get("error")) or 0.0
            if error > REMARK_ABOVE:
                _log.warning("EMA length %g: relative error of its profile %.2g", length, error)
            return usual._replace(tensors=stored.tensors, error=error)
    tensors, error = reconstructed(run, step, length, usual.tensors)
    about = {"made_of": made_of, "error": error, "tensors": tensors_digest(tensors)}
    try:
        with replacing(weights_file(run, step, length)) as file:
            write_weights(file, tensors, {ABOUT: json.dumps(about)})
    except (OSError, RuntimeError) as problem:
        _log.info(
            "%s: the average of length %g is not kept: %s", run.name, length, one_line(problem)
        )
    return usual._replace(tensors=tensors, error=error)


def reconstructed(run: RunFolder, step: int, length: float, like: Tensors) -> tuple[Tensors, float]:
    """The average of a relative length for a checkpoint, and the relative error of its profile.

    Snapshots are read one after the other, and summed in float64 on the CPU. Damaged ones are left
    out, and the weights are fitted again without them.

    Args:
        like: the tensors of the network, by name; those that are not trained are taken from here.

    Raises:
        UsageError: the checkpoint has no power-function averages, or the length is invalid or out
            of reach.
        CheckpointError: the checkpoint is damaged, or averages belong to another network.
        OSError: a file cannot be read at this moment.
    """
    damaged: set[int] = set()
    while True:
        mixed = mixture(run, step, length, damaged)
        problems = {
            part.step: problem for part, _ in mixed.parts if (problem := _problem(part)) is not None
        }
        if not problems:
            break
        if step in problems:
            raise CheckpointError(
                f"{run.checkpoint_file(step)}: {problems[step]}. Use another step."
            )
        for number, problem in problems.items():
            _log.warning("skipped the snapshot of averages of step %d: %s", number, problem)
        damaged |= problems.keys()
    if damaged or mixed.error > REMARK_ABOVE:
        _log.warning("%s", mixed.described)
    total: dict[str, Tensor] = {}
    for part, weights in mixed.parts:
        _add(total, part, weights, like)
    averages = {name: tensor.to(like[name].dtype) for name, tensor in total.items()}
    return {**like, **averages}, mixed.error


def _problem(part: Stored) -> str | None:
    try:
        return part.sidecar.state.problem(part.path)
    except OSError as error:
        if passes(error):
            raise
        return f"it cannot be read ({error.strerror})"


def _add(
    total: dict[str, Tensor], part: Stored, weights: Mapping[str, float], like: Tensors
) -> None:
    """Add the averages of one file, by their weights, to the sum."""
    state = read_tensors(part.path)
    try:
        for key, weight in weights.items():
            for name, tensor in state["power"]["averages"][key].items():
                if tensor.shape != like[name].shape:
                    raise ValueError(f"{name} has another shape")
                if name not in total:
                    total[name] = torch.zeros(tensor.shape, dtype=torch.float64)
                total[name].add_(tensor.double(), alpha=weight)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{part.path}: its averages are not those of this network ({one_line(error)}). Remove "
            "the file."
        ) from error
