"""The Python API: what people do with a model, besides training and sharded evaluation (docs/api.md)."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch
from torch import Tensor

from . import likelihood, model, numerics
from .config.arguments import ElboKeys, Method, SamplingKeys, elbo_spec, whole_number
from .config.ema import EmaSpec
from .errors import UsageError
from .evaluate.likelihood import bits_per_dim
from .guidance import Conditional
from .likelihood import Likelihood
from .model import Label
from .samplers.path import Recorder
from .sanitize import one_line
from .seeds import SampleNoise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What `repr` says of a diffusion and of a sampler, as far as they have it.
_SDE = ("beta0", "beta1", "m_inv", "gamma")
_SAMPLER = ("nfe", "rtol", "atol", "eps", "denoise")


class Trajectory(NamedTuple):
    """The paths of samples through phase space, K states each.

    Attributes:
        t: falling times (K,), float64: from 1, the prior, to `sampling.eps`, and to 0 for the denoised samples.
        x: (K, n, C, ...), the data's half; x[-1] are the samples.
        v: (K, n, (halves - 1) C, ...), the other halves (CLD: velocities); None for a diffusion of x alone.
    """

    t: Tensor
    x: Tensor
    v: Tensor | None


class Model(model.Model):
    """A trained model, as `cld_core.load` returns it: `sample`, `log_likelihood`, `trajectory`, `plot`, `export`."""

    def __repr__(self) -> str:
        recipe, weights = self.recipe, list(self.net.parameters())
        count = sum(weight.numel() for weight in weights)
        dtype = str(weights[0].dtype).removeprefix("torch.") if weights else "no weights"
        whence = "" if self.path is None else f" of {one_line(str(self.path.name))}"
        kind = "images" if self.is_image else "points"
        average = "" if self.ema_length is None else f", {EmaSpec(length=self.ema_length).words}"
        classes = "" if self.classes is None else f" in {len(self.classes)} classes"
        lines = (
            f"Model {one_line(recipe.name)}{whence}, step {self.step:,}{average}",
            f"  sde      {recipe.sde.name}: {_described(recipe.sde, _SDE)}",
            f"  network  {recipe.network.name}: {count:,} parameters, {dtype}, on {self.device}",
            f"  data     {one_line(recipe.data.name)}: {kind} of shape {self.data_shape}{classes}",
            f"  sampler  {recipe.sampling.method}: {_described(recipe.sampling, _SAMPLER)}",
        )
        return "\n".join(lines)

    def trajectory(
        self,
        n: int,
        *,
        method: Method | None = None,
        nfe: int | None = None,
        points: int = 50,
        seed: int = 0,
        first: int = 0,
        label: Label = None,
        **settings: Unpack[SamplingKeys],
    ) -> Trajectory:
        """The paths of ``n`` samples; ``x[-1]`` is, to the last bit, what `sample` returns for the same arguments.

        The states are those that the sampler passes through: after its steps, for SSCS in the middle of its steps,
        where the score acts. The last one, at t = 0, is denoised; with ``denoise=False`` it is at ``eps``.
        In the adaptive flow each sample has its own steps; its states are at equal distances in t, interpolated by
        cubic polynomials, which is meant for the eye.

        Args:
            n: how many; all states that are kept are in memory.
            points: the largest number of states, evenly spread over the steps of the method.

        The other arguments are those of `sample`, and so are the errors.
        """
        caller, keys = "Model.trajectory", {"method": method, "nfe": nfe, **settings}
        points = whole_number(points, "points", 3, caller)
        spec = self._spec(keys, caller)
        recorder = Recorder(points - 1 if spec.denoise else points)
        drawn = self._draw(n, keys, seed, first, None, caller, recorder, label=label)
        t, u = recorder.path()
        if spec.denoise:
            end = drawn.x if drawn.v is None else torch.cat([drawn.x, drawn.v], dim=1)
            t, u = torch.cat([t, t.new_zeros(1)]), torch.cat([u, end[None]])
        channels = self.data_shape[0]
        return Trajectory(t, u[:, :, :channels], u[:, :, channels:] if self.sde.n > 1 else None)

    def log_likelihood(
        self,
        x: Tensor,
        *,
        velocities: int | None = None,
        probes: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        exact_trace: bool = False,
        label: Label = None,
        **settings: Unpack[ElboKeys],
    ) -> Tensor:
        """A lower bound of log p(x), (B,), float64, nats; for a diffusion of x alone, its value (docs/math.md 8).

        It is the `elbo` of what `likelihood` returns for the same arguments.

        Images are points of a density on [-1, 1], with uniform noise in place of their grey levels, as
        ``model.source.dequantised_test_data`` has them; `bits_per_dim` converts what is returned.

        Args:
            x: (B, C, ...).
            velocities: draws of the other halves for each example; None: as the recipe's `eval.elbo` says.
            probes: probes of the trace for each draw; None: as the recipe says.
            seed: key of draws and probes. The result for an example does not depend on those beside it.
            first: number of the first example, which keys its draws.
            batch_size: examples computed at once; None for all.
            exact_trace: compute the trace without probes, by one backward pass per dimension: for low dimensions.
            label: of a class-conditional model, the class of all examples, by number or name, or one for each: the
                result is of log p(x | label). None: of log p(x), by the network without labels.
            settings: the other keys of `eval.elbo`, for example ``rtol=1e-4, atol=1e-4``. Its ``eps`` is never before
                `objective.loss_eps`.

        Raises:
            RecipeError: an argument is wrong; names it.
            UsageError: x has another shape, or there is no such class.
            SolverError: the tolerance is out of reach.
        """
        keys = {"velocities": velocities, "probes": probes, **settings}
        return self._likelihood(x, keys, seed, first, batch_size, exact_trace, "Model.log_likelihood", label).elbo

    def likelihood(
        self,
        x: Tensor,
        *,
        velocities: int | None = None,
        probes: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        exact_trace: bool = False,
        label: Label = None,
        **settings: Unpack[ElboKeys],
    ) -> Likelihood:
        """Like `log_likelihood`, but returns each draw, standard errors and numbers of network evaluations as well."""
        keys = {"velocities": velocities, "probes": probes, **settings}
        return self._likelihood(x, keys, seed, first, batch_size, exact_trace, "Model.likelihood", label)

    @numerics.using(tf32=False)
    def _likelihood(
        self,
        x: Tensor,
        keys: Mapping[str, Any],
        seed: int,
        first: int,
        batch_size: int | None,
        exact_trace: bool,
        caller: str,
        label: Label,
    ) -> Likelihood:
        spec = elbo_spec(self.recipe, keys, caller)
        seed, first = whole_number(seed, "seed", 0, caller), whole_number(first, "first", 0, caller)
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.data_shape or not len(x):
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            wanted = ", ".join(map(str, ("B", *self.data_shape)))
            raise UsageError(f"{caller}: x is {shape}: expected a tensor ({wanted}) with at least one example.")
        size = len(x) if batch_size is None else whole_number(batch_size, "batch_size", 1, caller)
        if label is None and self.classes is not None and self.recipe.objective.label_dropout == 0:
            text = "nothing was trained without labels (objective.label_dropout=0). Pass label, one for each example"
            raise UsageError(f"{caller}: {text}.")
        labels = None if label is None else self.labels(label, len(x), caller=caller)
        score = self.score_of(compiled=spec.compile)
        x = x.to(self.device, x.dtype if x.dtype == torch.float64 else torch.float32)
        parts = []
        for start in range(0, len(x), size):
            rows = x[start : start + size]
            numbers = {"first": first + start, "last": first + start + len(rows)}
            noise = SampleNoise(seed, "elbo", **numbers, device=self.device)
            given = None if labels is None else labels[start : start + size].to(self.device)
            of = score if given is None else Conditional(score, given)
            parts.append(likelihood.likelihood(of, self.sde, spec, noise, rows, exact_trace=exact_trace))
        return Likelihood.cat(parts)

    def bits_per_dim(self, log_likelihood: Tensor) -> Tensor:
        """What `log_likelihood` returned for images, in bits/dim of their grey levels; smaller is better.

        Raises:
            UsageError: the data are not images.
        """
        if not self.is_image:
            raise UsageError(f"Model.bits_per_dim: {one_line(self.recipe.data.name)} has no grey levels. Use nats.")
        unit = bits_per_dim(self)
        return -unit.scale * log_likelihood + unit.offset

    def plot(
        self,
        n: int | None = None,
        *,
        ax: "Axes | None" = None,
        method: Method | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        **settings: Unpack[SamplingKeys],
    ) -> "Figure":
        """Draw samples, and a picture of them: points over the true density beside the data, or a grid of images.

        Args:
            n: how many; None: 2,000 points, or 64 images.
            ax: axes for the samples alone; None: a new figure of pyplot.

        The other arguments are those of `sample`, and so are the errors. In a notebook, end the line with a semicolon
        to see the figure once.
        """
        from .evaluate import pictures
        from .evaluate.planes import Plane

        keys = {"method": method, "nfe": nfe, **settings}
        count = pictures.default_count(self) if n is None else n
        size = self.recipe.eval.batch_size if batch_size is None else batch_size
        drawn = self._draw(count, keys, seed, first, size, "Model.plot", label=label)
        how = f"{self._spec(keys, 'Model.plot').method}, {drawn.nfe:.0f} NFE"
        x, title = drawn.x.cpu(), how
        if ax is None:
            from matplotlib import pyplot

            size_in = (6.0, 6.4) if self.is_image else pictures.SIDE_BY_SIDE
            figure, title = pyplot.figure(figsize=size_in, layout="constrained"), pictures.title(x, self, how)
            if not self.is_image:
                pictures.beside_data(figure, x, self, title)
                return figure
            ax = figure.subplots()
        if self.is_image:
            pictures.tiled(ax, x, title)
        else:
            Plane.of(self.source).draw(ax, x, "tab:red")
            ax.set_title(title)
        root = ax.get_figure(root=True)
        assert root is not None, "axes are in a figure"
        return root


def _described(spec: object, names: Iterable[str]) -> str:
    """Those of some keys that a spec has, written as arguments."""
    values = ((name, getattr(spec, name)) for name in names if hasattr(spec, name))
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}" for name, value in values)
