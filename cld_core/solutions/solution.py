"""A solution, its file in a run, and what makes it a valid one."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cld_core.codec import from_plain, to_plain
from cld_core.digests import digest
from cld_core.files import read_object
from cld_core.run import RunFolder

FORMAT = 1
FILE = "solution.json"
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A sampler of ``nfe`` evaluations, and where it comes from.

    Step i evaluates alpha_i at ``times[i]`` and replaces u by transitions[i] u + sum over j of weights[i][j]
    alpha_(i-j). The last step includes denoising and results in the sample.

    Attributes:
        times: (nfe,), decreasing from 1.
        transitions: (nfe, n, n).
        weights: for each step, matrices (n, m) for the newest alphas, the newest first.
        eps: time at which the flow that it was fitted to ends.
        denoise: whether the end of that flow is denoised.
        labels: whether that flow is conditional on labels.
        guidance, guidance_from, guidance_to: of that flow, as in `sampling`; the defaults if it has no labels.
        step: the optimiser step of the network.
        checkpoint: checksum of the checkpoint; empty if it was tuned to no checkpoint.
        ema_length: which average of the weights, as `ema.length`.
        kept: "untuned", "grid" or "coefficients": the stage that was closest on held-out noise.
        rms: root-mean-square distance from the flow, per coordinate, on held-out noise, by stage.
        about: how it was found: initial settings, points, seed, evaluations, seconds, and date.
    """

    nfe: int
    times: tuple[float, ...]
    transitions: tuple[Matrix, ...]
    weights: tuple[tuple[Matrix, ...], ...]
    eps: float
    denoise: bool
    labels: bool = False
    guidance: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    step: int = 0
    checkpoint: str = ""
    ema_length: float | None = None
    kept: str = "untuned"
    rms: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Digest of everything that samples depend on: solutions with equal digests draw equal samples."""
        return digest([self.nfe, self.times, self.transitions, self.weights, self.eps, self.denoise])[:16]

    def content(self) -> dict[str, Any]:
        """The content of its file: floats with all their digits."""
        return {"format": FORMAT, "digest": self.digest, **to_plain(self)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """A solution from the content of its file.

        Raises:
            ValueError: it is damaged, or of another version of cldctl.
        """
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, this cldctl reads {FORMAT}")
        solution = from_plain(cls, content)
        if solution.digest != content.get("digest"):
            raise ValueError("its numbers are not those that were written")
        if (problem := solution.problem) is not None:
            raise ValueError(f"it is not that of a sampler: {problem}")
        return solution

    @property
    def problem(self) -> str | None:
        """A description of what is wrong with it; None if it is valid."""
        counts = len(self.times), len(self.transitions), len(self.weights)
        if self.nfe < 1 or counts != (self.nfe,) * 3:
            return f"it has {counts[0]} times, {counts[1]} transitions and {counts[2]} weights for nfe={self.nfe}"
        if not 0 < self.eps < 1 or not _fall((1.0 + 1e-9, *self.times, 0.0)):
            return "its times do not fall from 1 or less to above 0"
        return _problem_of_matrices(self.transitions, self.weights)


def _fall(numbers: Sequence[float]) -> bool:
    return all(later < earlier for earlier, later in itertools.pairwise(numbers))


def _problem_of_matrices(transitions: Sequence[Matrix], weights: Sequence[Sequence[Matrix]]) -> str | None:
    """As `Solution.problem`: matrices are (n, n) and (n, m) with 1 <= m <= n, and step i has 1 to i + 1 weights."""
    n = len(transitions[0])
    m = len(weights[0][0][0]) if weights[0] and weights[0][0] else 0
    if not 1 <= m <= n:
        return f"its matrices are for {n} halves, {m} of them scored"
    if any(_shape(matrix) != (n, {n}) for matrix in transitions):
        return f"a transition is not a matrix ({n}, {n})"
    if any(_shape(matrix) != (n, {m}) for step in weights for matrix in step):
        return f"a weight is not a matrix ({n}, {m})"
    if not all(1 <= len(step) <= number for number, step in enumerate(weights, 1)):
        return "a step has no weights, or more than there are evaluations so far"
    return None


def _shape(matrix: Matrix) -> tuple[int, set[int]]:
    """The number of rows, and all the lengths that they have."""
    return len(matrix), set(map(len, matrix))


def read(file: Path) -> Solution | None:
    """The solution in a file; None if there is none, or a damaged one."""
    with contextlib.suppress(ValueError):
        return Solution.of_content(read_object(file))
    return None


def in_run(run: RunFolder) -> list[Solution]:
    """The solutions in a run's folder; damaged ones are left out."""
    found = (read(run.tuned / name / FILE) for name in run.tuning_names())
    return [solution for solution in found if solution is not None]
