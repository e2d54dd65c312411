"""The options of `cldctl sample` for observations of x, and how samples are conditioned on them."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import UsageError
from cld_core.recipe.variants import require_fixed_steps

if TYPE_CHECKING:
    from cld_core.conditioning import Observation, Way
    from cld_core.model import Model
    from cld_core.recipe.sampling import SamplingSpec

HOW = ("gradient", "replacement")
_COORDINATES = {"x": 0, "y": 1}

Observe = Annotated[
    str | None,
    typer.Option(
        metavar="x=NUMBER|FILE.npz", help="Draw samples given an observation: a coordinate of toy data, or arrays."
    ),
]
Inpaint = Annotated[
    Path | None, typer.Option(metavar="IMAGE", help="Draw samples given a part of this picture; needs --mask.")
]
Mask = Annotated[
    Path | None, typer.Option(metavar="MASK.png", help="White where IMAGE is to be painted, black where known.")
]
Sigma = Annotated[
    float | None, typer.Option(metavar="S", min=0, help="Standard deviation of the noise in the observation.")
]
How = Annotated[
    str | None,
    typer.Option(metavar="|".join(HOW), help="How samples are made to agree with the observation; default: gradient."),
]
GradientScale = Annotated[
    float | None, typer.Option(metavar="W", min=0, help="Factor of the gradient; default: 1, which is Bayes' rule.")
]


@dataclass(frozen=True)
class Observed:
    """The options, checked as far as possible without a model.

    Attributes:
        observe: "x=0.3", "y=0.3" or the name of a file of arrays.
    """

    observe: str | None = None
    inpaint: Path | None = None
    mask: Path | None = None
    sigma: float | None = None
    how: str | None = None
    gradient_scale: float | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: the options do not go together, a value is wrong, or there is no such file.
        """
        if self.observe is not None and self.inpaint is not None:
            raise UsageError("--observe and --inpaint both say what is known. Pass one of them.")
        if (self.inpaint is None) != (self.mask is None):
            raise UsageError("--inpaint needs --mask, and --mask needs --inpaint. Pass both.")
        if not self.given:
            for name in ("sigma", "how", "gradient_scale"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise UsageError(f"--{option} is about an observation. Pass --observe or --inpaint, too.")
        if self.how is not None and self.how not in HOW:
            raise UsageError(f"--how {self.how}: expected gradient or replacement.")
        if self.how == "replacement" and self.gradient_scale is not None:
            raise UsageError("--gradient-scale is the factor of a gradient. Leave out --how replacement.")
        for path in (self.inpaint, self.mask, self._file):
            if path is not None and not path.is_file():
                hint = ", or a coordinate of toy data as x=0.3" if path == self._file else ""
                raise UsageError(f"{path} is not a file. Pass the path of one{hint}.")

    @property
    def given(self) -> bool:
        """Whether anything is observed."""
        return self.observe is not None or self.inpaint is not None

    @property
    def _coordinate(self) -> tuple[str, float] | None:
        found = re.fullmatch(r"\s*(\w+)\s*=\s*([^=]+)", self.observe or "")
        if found is None:
            return None
        try:
            value = float(found[2])
        except ValueError:
            value = math.nan
        if found[1] not in _COORDINATES or not math.isfinite(value):
            raise UsageError(f"--observe {self.observe}: expected a number for x or y, as in --observe x=0.3.")
        return found[1], value

    @property
    def _file(self) -> Path | None:
        return None if self.observe is None or self._coordinate is not None else Path(self.observe)

    def require_usable(self, spec: "SamplingSpec") -> None:
        """
        Raises:
            UsageError: the sampler cannot be conditioned like that.
        """
        if self.how == "replacement":
            require_fixed_steps(spec)

    def observation(self, model: "Model") -> "Observation":
        """The observation of an example of ``model``.

        Raises:
            UsageError, DataError: it does not fit the data.
        """
        from cld_core.conditioning import files

        shape = model.data_shape
        if self.inpaint is not None and self.mask is not None:
            return files.from_pictures(self.inpaint, self.mask, shape, self.sigma)
        if self._file is not None:
            return files.from_arrays(self._file, shape, self.sigma)
        assert self._coordinate is not None, "one of the three is given"
        name, value = self._coordinate
        if shape != (2,):
            raise UsageError(f"--observe {name}={value:g} is for points on the plane. Pass --inpaint, or a file.")
        return files.coordinate(_COORDINATES[name], value, self.sigma)

    def way(self) -> "Way":
        """How samples are conditioned."""
        from cld_core.conditioning import GradientGuidance, Replacement

        if self.how == "replacement":
            return Replacement()
        return GradientGuidance() if self.gradient_scale is None else GradientGuidance(scale=self.gradient_scale)

    @property
    def told(self) -> str:
        """How, in words."""
        scale = "" if self.gradient_scale is None else f" of scale {self.gradient_scale:g}"
        return f"given the observation, by {self.how or HOW[0]}{scale}"
