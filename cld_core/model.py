"""A trained model, ready to sample and to be evaluated (docs/api.md)."""

import contextlib
import copy
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from cld_core.checkpoint import FORMAT, Tensors, Weights, exported_weights, write_weights
from cld_core.run.checkpoints import pick_checkpoint, weights_digest

from . import likelihood, nets, pictures, samplers, sde
from .averages import averaged
from .classes import Classes
from .config import Recipe, from_dict, registry
from .config.loader import elbo_spec, path_of, sampling_spec, whole_number
from .config.network import ModuleSpec
from .config.train import EmaSpec
from .data.arrays import array
from .data.format import DataFormat
from .data.source import DescribedSource, Source, classes_of, form_of, source
from .errors import CheckpointError, DataError, RecipeError, SaveError, UsageError
from .files import replacing
from .likelihood import Likelihood
from .nets import execution
from .nets.execution import Compiled, Device
from .plugins import resolve
from .records import from_plain, to_plain
from .run.folder import named
from .run.recipe import trusted_recipe
from .run.tunings import Network, Solutions
from .samplers import Recorder, Watcher
from .sanitize import one_line
from .score import Conditional, Score, labelled
from .seeds import SampleNoise
from .version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .conditioning import Observation, Way

_log = logging.getLogger(__name__)

# A class by number or name, one for each example, or None.
Label = int | str | Sequence[int | str] | Tensor | None
# A function of two numbers that describe the progress; None: it is not reported.
Progress = Callable[[int, int], object] | None
# An array or a tensor, or nested lists.
Numbers = Tensor | np.ndarray | Sequence[Any]
# The keys of diffusions and samplers that `repr` shows.
_SDE = ("beta0", "beta1", "m_inv", "gamma")
_SAMPLER = ("nfe", "rtol", "atol", "eps", "denoise")


class Trajectory(NamedTuple):
    """The paths of samples through phase space, K states each.

    Attributes:
        t: decreasing times (K,), float64: from 1, the prior, to `sampling.eps`, and 0 for the
            denoised samples.
        x: (K, n, C, ...), the data's half; x[-1] are the samples.
        v: (K, n, (halves - 1) C, ...), the other halves (CLD: velocities); None for a diffusion of
            x alone.
    """

    t: Tensor
    x: Tensor
    v: Tensor | None


class Model:
    """A trained model, as `cld_core.load` returns it: `sample`, `log_likelihood`, `trajectory`,
    `plot`, `export`.

    Attributes:
        recipe: the model's recipe.
        path: the run folder or file that it was loaded from; None for any other model.
        step: the optimiser step of the weights.
        checkpoint: digest of the averaged weights of the checkpoint; empty if it is unknown.
        ema_length: the relative length of the average of the weights; None for the average of
            `train.ema`.
        ema_error: the error of that average (`average_profiles.Mixture`); None if it was not
            reconstructed from others.
        score: maps (u, t) to the score of the scored half of u.
        data_shape: shape of one example, (C, ...).
        form: the form of the data, and how the model sees them.
        classes: the classes of a class-conditional model, which takes labels; None for others.
        solutions: samplers that were tuned to the network.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: Device = "cpu",
        *,
        net: nn.Module | None = None,
        data: Source | None = None,
        classes: Classes | None = None,
        step: int = 0,
    ) -> None:
        """A model with an untrained network in evaluation mode, unless ``net`` is given.

        Args:
            device: None for a GPU if one is available.
            data: the recipe's data; None to load them.
            classes: the classes of the data; None to take them from the data if the recipe has
                labels.

        Raises:
            RecipeError: an argument is wrong, or the recipe cannot be used.
        """
        if not isinstance(recipe, Recipe):
            raise RecipeError("Model: recipe is not a Recipe. To load a model: cld_core.load(RUN).")
        self.recipe = recipe
        self.step = step
        self.device = execution.usable(device)
        self.path: Path | None = None
        self.checkpoint = ""
        self.ema_length: float | None = None
        self.ema_error: float | None = None
        self.solutions = Solutions()
        self.source = data or source(recipe.data)
        self.form = form_of(self.source)
        self.data_shape = self.source.shape
        self.sde = sde.build(recipe.sde)
        self.classes = classes
        if classes is None and recipe.data.labels:
            self.classes = classes_of(self.source)
        if net is None:
            net = nets.of_recipe(recipe, self.data_shape, self.classes).to(self.device).eval()
            if execution.prefers_channels_last(self.device):
                execution.store(net, channels_last=True)
        self.net = net
        self._scores: dict[tuple[bool, str], Score] = {}
        self.score = self.score_of(compiled=False)

    def __repr__(self) -> str:
        recipe = self.recipe
        weights = list(self.net.parameters())
        count = sum(weight.numel() for weight in weights)
        dtype = str(weights[0].dtype).removeprefix("torch.") if weights else "no weights"
        origin = "" if self.path is None else f" of {one_line(str(self.path.name))}"
        average = "" if self.ema_length is None else f", {EmaSpec(length=self.ema_length).words}"
        classes = "" if self.classes is None else f" in {len(self.classes)} classes"
        lines = (
            f"Model {one_line(recipe.name)}{origin}, step {self.step:,}{average}",
            f"  sde      {recipe.sde.name}: {_described(recipe.sde, _SDE)}",
            f"  network  {recipe.network.name}: {count:,} parameters, {dtype}, on {self.device}",
            f"  data     {one_line(recipe.data.name)}: {self.form.kind} of shape "
            f"{self.data_shape}{classes}",
            f"  sampler  {recipe.sampling.method}: {_described(recipe.sampling, _SAMPLER)}",
        )
        return "\n".join(lines)

    def score_of(self, *, compiled: bool, precision: str = "fp32") -> Score:
        """`score`, or the same with the network in another precision of `sampling.precision`.

        Args:
            compiled: through `torch.compile`; the first calls compile and take a while.
        """
        score = self._scores.get((compiled, precision))
        if score is None:
            net = execution.prepared(self.net, self.device, precision)
            score = Score(self.sde, self.recipe.objective, Compiled(net) if compiled else net)
            self._scores[compiled, precision] = score
        return score

    @property
    def network(self) -> Network:
        """The description of the network by which a tuned sampler is chosen."""
        labels = self.classes is not None
        return Network(
            step=self.step, checkpoint=self.checkpoint, ema_length=self.ema_length, labels=labels
        )

    @property
    def is_image(self) -> bool:
        """Whether samples are images in [-1, 1]."""
        return self.source.grey_levels is not None

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        checkpoint: int | str = "last",
        device: Device = None,
        *,
        allow_plugin: bool = False,
        ema_length: float | None = None,
    ) -> Self:
        """Load the averaged weights of a checkpoint; see `cld_core.load`."""
        folder = named(run)
        recipe = trusted_recipe(folder, allow_plugin=allow_plugin)
        step = pick_checkpoint(folder, recipe.model_digest(), checkpoint)
        try:
            weights = averaged(folder, step, ema_length)
            form = None if weights.form is None else from_plain(DataFormat, weights.form)
            data = source(recipe.data, form=form)
            model = cls._of_tensors(recipe, weights.tensors, data, weights.classes, step, device)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(
                f"{folder.checkpoint_file(step)}: does not fit the recipe: "
                f"{one_line(error, 400).rstrip('.')}. Use the recipe that wrote it."
            ) from error
        model.path = folder.path
        model.solutions = Solutions.of_run(folder)
        model.ema_length = ema_length
        model.ema_error = weights.error
        model.checkpoint = weights_digest(folder, step) or ""
        return model

    @classmethod
    def from_file(
        cls,
        file: str | Path,
        device: Device = None,
        *,
        allow_plugin: bool = False,
        network: nn.Module | None = None,
    ) -> Self:
        """Load a file that `export` wrote; see `cld_core.load`."""
        path = path_of(file, "file", "Model.from_file")
        device = execution.usable(device)
        weights = exported_weights(path)
        try:
            recipe = _recipe_of(path, weights, allow_plugin)
            is_module = isinstance(recipe.network, ModuleSpec)
            if is_module and network is None:
                raise UsageError(
                    f"{path}: its network was passed to cld_core.fit as a module, of which the "
                    "file has no code. Pass one like it: cld_core.load(FILE, network=Net())."
                )
            if network is not None and not is_module:
                name = one_line(recipe.network.name)
                raise UsageError(f"{path}: its network is network.name={name}. Leave out network.")
            data = _data_of(path, recipe, weights, allow_plugin)
            classes = weights.described("classes") if "classes" in weights.about else None
            step = int(weights.about["step"])
            model = cls._of_tensors(recipe, weights.tensors, data, classes, step, device, network)
            if "ema_length" in weights.about:
                model.ema_length = float(weights.about["ema_length"])
        except (
            KeyError,
            ValueError,
            TypeError,
            RuntimeError,
            ArithmeticError,
            RecipeError,
        ) as error:
            reason = one_line(error, 400).rstrip(".")
            raise CheckpointError(
                f"{path}: recipe and tensors do not match: {reason}. "
                f"{'Export it again' if network is None else 'Pass a module like the trained one'}."
            ) from error
        model.path = path.absolute()
        model.solutions = Solutions.of_file(weights.about)
        return model

    @classmethod
    def _of_tensors(
        cls,
        recipe: Recipe,
        tensors: Tensors,
        data: Source,
        classes: Any,
        step: int,
        device: Device,
        network: nn.Module | None = None,
    ) -> Self:
        """A model of a recipe with these weights: all tensors of its network, by name.

        Args:
            classes: the model's classes, as plain values; None if it has none.
            network: a module whose copy gets the weights; None: the network of the recipe.

        Raises:
            ValueError, TypeError, RuntimeError, ArithmeticError: the tensors or classes do not fit
                the network.
        """
        own = from_plain(Classes, classes) if recipe.data.labels else None
        net = None
        if network is None:
            # Compares names, shapes and types before any memory is allocated.
            described = nets.outline(recipe, data.shape, own)
            described.load_state_dict(dict(tensors), strict=True, assign=True)
        else:
            nets.require_usable(recipe, data.shape, network, own)
            net = copy.deepcopy(network).to(device).eval()
        model = cls(recipe, device, net=net, data=data, classes=own, step=step)
        model.net.load_state_dict(dict(tensors), strict=True)
        model.net.requires_grad_(False)
        return model

    def export(self, file: str | Path) -> None:
        """Write all that sampling needs to one file.

        It has the weights, the recipe, the tuned samplers and the form of the data.

        Raises:
            UsageError: the name does not end in .safetensors.
            SaveError: the file cannot be written.
        """
        path = path_of(file, "file", "Model.export").absolute()
        if path.suffix != ".safetensors":
            raise UsageError(f"{file}: weights are written as .safetensors. Name such a file.")
        described = {"recipe": self.recipe.to_share(), "data": to_plain(self.form)}
        if self.classes is not None:
            described["classes"] = to_plain(self.classes)
        about = {name: json.dumps(content) for name, content in described.items()}
        about |= {"format": FORMAT, "version": __version__, "weights": "ema"}
        about["step"] = str(self.step)
        if self.ema_length is not None:
            about["ema_length"] = repr(self.ema_length)
        about |= self.solutions.carried(self.network)
        try:
            with replacing(path) as out:
                write_weights(out, self.net.state_dict(), about)
        except OSError as error:
            raise SaveError(
                f"{file}: cannot be written ({one_line(error.strerror or error)}). Pass another "
                "path.",
                self.step,
            ) from error

    save = export

    def fit_sampler(
        self,
        nfe: int,
        *,
        points: int | None = None,
        budget_min: float | None = None,
        seed: int = 0,
        progress: Progress = None,
    ) -> None:
        """Fit a sampler of ``nfe`` evaluations to the network, as `cldctl tune` does.

        ``method="tuned"`` then uses it. It approaches the network's probability flow more closely
        than other samplers of as few evaluations. `save` writes it with the weights. It belongs to
        these weights: after more training, fit it again.

        Args:
            nfe: network evaluations, denoising included.
            points: draws of the prior to fit to, and as many held-out ones; None: 4,000, or 16 for
                networks of images and curves.
            budget_min: minutes after which the fit stops with its best result; None for no limit.
            seed: key of the noise.
            progress: called after each step of the fit with the number of steps so far, and the
                largest number of steps.

        Raises:
            UsageError: a number is out of bounds; names it.
        """
        caller = "Model.fit_sampler"
        nfe = whole_number(nfe, "nfe", 1, caller)
        seed = whole_number(seed, "seed", 0, caller)
        points = None if points is None else whole_number(points, "points", 1, caller)
        before = self.solutions
        fitted = resolve("cld_core.tune:fitted")
        try:
            solution = fitted(self, nfe, points, budget_min, seed, progress)
        except UsageError as error:
            # The message names options of `cldctl tune`.
            options = str(error).replace("--budget ", "--budget_min ")
            raise UsageError(
                re.sub(r"^--(\w+) (\S+):", r"Model.fit_sampler: \1=\2:", options)
            ) from error
        self.solutions = replace(before, read=lambda: [*before.read(), solution])

    def sample(
        self,
        n: int,
        *,
        method: str | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        observation: "Observation | None" = None,
        by: "Way | None" = None,
        **settings: Any,
    ) -> Tensor:
        """Draw ``n`` samples, (n, C, ...), float32; images are in [-1, 1].

        Sample i of a seed depends neither on the number of samples nor on the size of batches.

        Args:
            n: how many.
            method: the sampler, for example "ode" or "exponential"; None: that of the recipe.
            nfe: evaluations of the network for each sample, by a method with fixed steps; None:
                those of the recipe.
            seed: key of the noise.
            first: number of the first sample.
            batch_size: samples computed at once; None for all.
            label: for a class-conditional model, the class of all samples, by number or name, or
                one for each; None: classes are as frequent as in the training data, and the class
                of sample i depends only on i.
            observation: an observation of x on which samples are conditioned; None for
                unconditional samples.
            by: the way of conditioning, a `conditioning.GradientGuidance` or
                `conditioning.Replacement`; None: ``GradientGuidance()``.
            settings: the other keys of the recipe's `sampling` section, for example ``eps=1e-3,
                denoise=False``. An ``eps`` below `objective.loss_eps` causes a warning, because the
                network was not trained on such t.

        Raises:
            RecipeError: an argument is wrong; names it.
            UsageError: there is no such class; the observation is of other data, or cannot be used
                with ``by`` or ``method``.
            SolverError: the adaptive solver cannot reach its tolerance.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        return self._draw(
            "Model.sample", n, keys, seed, first, batch_size, label, observation, by
        ).x

    def draw(
        self,
        n: int,
        *,
        method: str | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        progress: Progress = None,
        observation: "Observation | None" = None,
        by: "Way | None" = None,
        **settings: Any,
    ) -> samplers.Samples:
        """Like `sample`, but returns velocities and numbers of network evaluations, too.

        With guidance, an evaluation of the score takes two evaluations of the network at the times
        at which guidance acts; both count.

        Args:
            progress: called after each network evaluation with the number of complete samples, and
                the number of evaluations so far of those in progress.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        return self._draw(
            "Model.draw", n, keys, seed, first, batch_size, label, observation, by, progress
        )

    def _draw(
        self,
        caller: str,
        n: int,
        keys: Mapping[str, Any],
        seed: int,
        first: int,
        batch_size: int | None,
        label: Label = None,
        observation: "Observation | None" = None,
        by: "Way | None" = None,
        progress: Progress = None,
        watcher: Watcher | None = None,
    ) -> samplers.Samples:
        """Draw samples.

        Args:
            caller: the public function, for messages.
            watcher: for a single batch.
        """
        n = whole_number(n, "n", 1, caller)
        seed = whole_number(seed, "seed", 0, caller)
        first = whole_number(first, "first", 0, caller)
        spec = sampling_spec(self.recipe, keys, caller)
        labels = self.labels(label, n, first, caller)
        least = self.recipe.objective.loss_eps
        if keys.get("eps") is not None and spec.eps < least:
            _log.warning(
                "%s: eps=%g: the network has seen no t below %g. Use that or more.",
                caller,
                spec.eps,
                least,
            )
        conditioned = None
        if observation is not None or by is not None:
            from . import conditioning

            conditioned = conditioning.checked(
                observation, by, spec, self.form, is_image=self.is_image, caller=caller
            )
        solution = self.solutions.followed(spec, self.network)
        network = self.score_of(compiled=spec.compile, precision=spec.precision)
        parts = []
        complete = 0
        evaluations = 0

        def report(*_: object) -> None:
            nonlocal evaluations
            evaluations += 1
            if progress is not None:
                progress(complete, evaluations)

        reporting: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if progress is not None:
            reporting = network.net.register_forward_hook(report)
        with execution.using(tf32=spec.precision == "tf32"), reporting:
            for rows, span, batch_labels in self._batches(caller, n, first, batch_size, labels):
                complete = rows.start
                evaluations = 0
                noise = SampleNoise(seed, "sample", **span)
                score = of_labels = labelled(
                    network, spec, batch_labels, none=len(self.classes or ())
                )
                if conditioned is not None:
                    other_noise = SampleNoise(seed, "observation", **span)
                    score = conditioned(of_labels, self.sde, noise=other_noise)
                batch = samplers.sample(
                    score, self.sde, spec, noise, self.data_shape, watcher, solution
                )
                batch = replace(batch, x=self.form.to_data(batch.x))
                parts.append(samplers.counted(batch, of_labels))
        return samplers.concatenated(parts)

    def _batches(
        self, caller: str, n: int, first: int, size: int | None, labels: Tensor | None
    ) -> Iterator[tuple[slice, dict[str, Any], Tensor | None]]:
        """Batches of n examples: their rows, the keys of their noise, and their labels.

        Args:
            first: number of the first example.
            size: the size of a batch; None for all examples.
        """
        size = n if size is None else whole_number(size, "batch_size", 1, caller)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            span = {"first": first + rows.start, "last": first + rows.stop, "device": self.device}
            yield rows, span, None if labels is None else labels[rows].to(self.device)

    def labels(
        self, label: Label, n: int, first: int = 0, caller: str = "Model.labels"
    ) -> Tensor | None:
        """The labels of the samples ``first <= i < first + n``, (n,), int64, for `sample`.

        None for a model without classes.

        Raises:
            UsageError: the model has no classes, there is no such class, or the number of labels is
                not n.
        """
        if self.classes is None:
            if label is not None:
                raise UsageError(
                    f"{caller}: label: {one_line(self.recipe.name)} was trained without labels "
                    "(data.labels=false). Leave it out."
                )
            return None
        if label is None:
            return torch.tensor(self.classes.drawn(first, first + n))
        # Tensors and arrays have `tolist`.
        plain = label.tolist() if hasattr(label, "tolist") else label
        try:
            return torch.tensor(self.classes.each(plain, n))
        except UsageError as error:
            raise UsageError(f"{caller}: {error}") from error

    def trajectory(
        self,
        n: int,
        *,
        method: str | None = None,
        nfe: int | None = None,
        points: int = 50,
        seed: int = 0,
        first: int = 0,
        label: Label = None,
        **settings: Any,
    ) -> Trajectory:
        """The paths of ``n`` samples.

        ``x[-1]`` is, to the last bit, what `sample` returns for the same arguments. The states are
        those of the sampler after its steps or, for SSCS, in the middle of its steps, where the
        score acts. The last one, at t = 0, is denoised; with ``denoise=False`` it is at ``eps``. In
        the adaptive flow, each sample has its own steps; its states are at equal distances in t,
        interpolated by cubic polynomials, which is precise enough for pictures.

        Args:
            n: how many; all their states are in memory.
            points: the largest number of states, evenly spread over the steps of the method.

        The other arguments, and the errors, are those of `sample`.
        """
        caller = "Model.trajectory"
        keys = {"method": method, "nfe": nfe, **settings}
        points = whole_number(points, "points", 3, caller)
        spec = sampling_spec(self.recipe, keys, caller)
        recorder = Recorder(points - 1 if spec.denoise else points)
        samples = self._draw(caller, n, keys, seed, first, None, label, watcher=recorder)
        t, u = recorder.path()
        channels = self.data_shape[0]
        z = u[:, :, :channels]
        v = u[:, :, channels:]
        x = self.form.to_data(z.flatten(0, 1)).view_as(z)
        if spec.denoise:
            t = torch.cat([t, t.new_zeros(1)])
            x = torch.cat([x, samples.x[None]])
            if samples.v is not None:
                v = torch.cat([v, samples.v[None]])
        return Trajectory(t, x, v if self.sde.n > 1 else None)

    def log_likelihood(
        self,
        x: Numbers,
        *,
        velocities: int | None = None,
        probes: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        exact_trace: bool = False,
        label: Label = None,
        **settings: Any,
    ) -> Tensor:
        """A lower bound of log p(x), (B,), float64, nats; for a diffusion of x alone, its value
        (docs/math.md 8).

        It is `Likelihood.elbo` of the result of `likelihood` for the same arguments.

        Images are points of a density on [-1, 1], with uniform noise added to their grey levels, as
        in ``model.source.dequantised_test_data``; `bits_per_dim` converts the result.

        Args:
            x: (B, C, ...), a tensor, an array or nested lists.
            velocities: draws of the other halves for each example; None: those of the recipe's
                `eval.elbo`.
            probes: probes of the trace for each draw; None: those of the recipe.
            seed: key of draws and probes. The result for an example does not depend on the other
                examples.
            first: number of the first example, which is part of the key of its draws.
            batch_size: examples computed at once; None for all.
            exact_trace: compute the trace without probes, by one backward pass per dimension: for
                low dimensions.
            label: for a class-conditional model, the class of all examples, by number or name, or
                one for each; the bound is then one of log p(x | label). None: it is one of
                log p(x), by the network without labels.
            settings: the other keys of `eval.elbo`, for example ``rtol=1e-4, atol=1e-4``. Its
                ``eps`` is never before `objective.loss_eps`.

        Raises:
            RecipeError: an argument is wrong; names it.
            UsageError: x has another shape, or there is no such class.
            DataError: x has values that are not real, finite numbers.
            SolverError: the tolerance is out of reach.
        """
        keys = {"velocities": velocities, "probes": probes, **settings}
        return self._likelihood(
            x, keys, seed, first, batch_size, exact_trace, "Model.log_likelihood", label
        ).elbo

    def likelihood(
        self,
        x: Numbers,
        *,
        velocities: int | None = None,
        probes: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        exact_trace: bool = False,
        label: Label = None,
        **settings: Any,
    ) -> Likelihood:
        """Like `log_likelihood`, but returns each draw, standard errors and numbers of network
        evaluations as well."""
        keys = {"velocities": velocities, "probes": probes, **settings}
        return self._likelihood(
            x, keys, seed, first, batch_size, exact_trace, "Model.likelihood", label
        )

    @execution.using(tf32=False)
    def _likelihood(
        self,
        x: Numbers,
        keys: Mapping[str, Any],
        seed: int,
        first: int,
        batch_size: int | None,
        exact_trace: bool,
        caller: str,
        label: Label,
    ) -> Likelihood:
        spec = elbo_spec(self.recipe, keys, caller)
        seed = whole_number(seed, "seed", 0, caller)
        first = whole_number(first, "first", 0, caller)
        x = _tensor(x, caller)
        if tuple(x.shape[1:]) != self.data_shape or not len(x):
            shape = ", ".join(map(str, ("B", *self.data_shape)))
            raise UsageError(f"{caller}: x is {tuple(x.shape)}. Pass ({shape}), with B above 0.")
        if label is None and self.classes is not None and self.recipe.objective.label_dropout == 0:
            raise UsageError(
                f"{caller}: nothing was trained without labels (objective.label_dropout=0). Pass "
                "label, one for each example."
            )
        labels = None if label is None else self.labels(label, len(x), caller=caller)
        score = self.score_of(compiled=spec.compile)
        x = x.to(self.device, x.dtype if x.dtype == torch.float64 else torch.float32)
        if not x.isfinite().all():
            raise DataError(f"{caller}: x has numbers that are not finite. Remove those rows.")
        parts = []
        for rows, span, batch_labels in self._batches(caller, len(x), first, batch_size, labels):
            noise = SampleNoise(seed, "elbo", **span)
            bound = score if batch_labels is None else Conditional(score, batch_labels)
            z = self.form.to_model(x[rows])
            batch = likelihood.likelihood(bound, self.sde, spec, noise, z, exact_trace=exact_trace)
            parts.append(batch.rescaled(self.form.log_det))
        return samplers.concatenated(parts)

    def bits_per_dim(self, log_likelihood: Tensor) -> Tensor:
        """Convert a `log_likelihood` of images to bits/dim of their grey levels; smaller is better.

        Raises:
            UsageError: the data are not images.
            DataError: the argument is not numeric.
        """
        if not self.is_image:
            raise UsageError(
                f"Model.bits_per_dim: {one_line(self.recipe.data.name)} has no grey levels. Use "
                "nats."
            )
        scale, offset = self.bits_of_nats
        try:
            return -scale * log_likelihood + offset
        except TypeError as error:
            raise DataError(
                f"Model.bits_per_dim: {type(log_likelihood).__name__} has no arithmetic. "
                "Pass what log_likelihood returned."
            ) from error

    @property
    def bits_of_nats(self) -> tuple[float, float]:
        """(scale, offset) of bits/dim = scale NLL + offset, for images.

        With a = 2/levels, the distance of grey levels on [-1, 1], bits/dim are NLL/(D ln 2) -
        log2 a (docs/math.md 8).
        """
        levels = self.source.grey_levels
        assert levels is not None, "only data with grey levels have bits"
        return 1.0 / (math.prod(self.data_shape) * math.log(2.0)), math.log2(levels / 2.0)

    def plot(
        self,
        n: int | None = None,
        *,
        ax: "Axes | None" = None,
        method: str | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        **settings: Any,
    ) -> "Figure":
        """Draw samples and plot them: vectors or curves beside the data, or a grid of images.

        Args:
            n: how many; None: 2,000 points, 16 curves, or 64 images.
            ax: axes for the samples alone; None: a new figure of pyplot.

        The other arguments, and the errors, are those of `sample`. In a notebook, end the line with
        a semicolon to see the figure once.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        count = pictures.default_count(self) if n is None else n
        size = self.recipe.eval.batch_size if batch_size is None else batch_size
        samples = self._draw("Model.plot", count, keys, seed, first, size, label)
        x = samples.x.cpu()
        title = f"{method or self.recipe.sampling.method}, {samples.nfe:.0f} NFE"
        if ax is None:
            from matplotlib import pyplot

            is_grid = pictures.is_grid(self.form)
            size_in = (6.0, 6.4) if is_grid else pictures.SIDE_BY_SIDE
            figure = pyplot.figure(figsize=size_in, layout="constrained")
            title = pictures.title(x, self, title)
            if not is_grid:
                figure.suptitle(title)
                pictures.beside_data(figure, x, self)
                return figure
            ax = figure.subplots()
        pictures.on_axes(ax, x, self, title)
        root = ax.get_figure(root=True)
        assert root is not None, "axes are in a figure"
        return root


def _tensor(x: Numbers, caller: str) -> Tensor:
    """Examples as a tensor. Arrays and lists become float64, unless they are float32."""
    if isinstance(x, Tensor):
        return x
    rows = array(caller, "examples", x)
    return torch.from_numpy(rows.astype(np.float32 if rows.dtype == np.float32 else np.float64))


def _recipe_of(path: Path, weights: Weights, allow_plugin: bool) -> Recipe:
    """The recipe of an exported model. Its plug-ins are looked up by `_plugin_of` and imported.

    Raises:
        CheckpointError: the network needs a plug-in that is not allowed, is missing or cannot be
            imported.
    """
    tree = weights.described("recipe")
    recipe = from_dict(tree, str(path))
    if recipe.plugins and allow_plugin:
        plugins = [_plugin_of(path, plugin) for plugin in recipe.plugins]
        try:
            return from_dict({**tree, "plugins": plugins}, str(path), with_plugins=True)
        except RecipeError as error:
            raise CheckpointError(str(error)) from error
    for section in ("network", "sde", "objective") if recipe.plugins else ():
        if (name := getattr(recipe, section).name) not in registry.SECTIONS[section].variants:
            raise CheckpointError(
                _not_allowed(path, recipe, f"{section}.name={one_line(name)} is of")
            )
    return recipe


def _plugin_of(path: Path, plugin: str) -> str:
    """The plug-in of the exported model in ``path``: its module, or its file.

    The file is at the path where it was, or beside the model.
    """
    if not plugin.endswith(".py"):
        return plugin
    beside = path.absolute().parent / Path(plugin).name
    # A relative path is not looked up in the working directory, which may have any file.
    if Path(plugin).is_absolute() and Path(plugin).is_file():
        return plugin
    if beside.is_file():
        return str(beside)
    raise CheckpointError(
        f"{path}: its plug-in is neither {one_line(plugin)}, where it was, nor {beside}. Put the "
        "file there."
    )


def _not_allowed(path: Path, recipe: Recipe, what: str) -> str:
    plugins = one_line(", ".join(recipe.plugins))
    return (
        f"{path}: {what} the plug-in {plugins}, which is code and does not run unasked. If you "
        f'trust it: cld_core.load("{path}", allow_plugin=True).'
    )


def _data_of(path: Path, recipe: Recipe, weights: Weights, allow_plugin: bool) -> Source:
    """The data of an exported model; without its plug-in, a source that only has their form.

    Raises:
        CheckpointError: the plug-in is needed and not allowed.
    """
    form = from_plain(DataFormat, weights.described("data")) if "data" in weights.about else None
    if not recipe.plugins or allow_plugin:
        return source(recipe.data, form=form)
    why = _not_allowed(path, recipe, "its recipe names")
    if form is None:
        raise CheckpointError(why)
    return DescribedSource(form, why)


def _described(spec: object, names: Iterable[str]) -> str:
    """The keys of a spec that are among ``names``, written as arguments."""
    texts = []
    for name in names:
        if hasattr(spec, name):
            value = getattr(spec, name)
            texts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}")
    return ", ".join(texts)
