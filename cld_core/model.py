"""A trained model, ready to sample and to be evaluated."""

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from . import guidance, nets, numerics, samplers, sde, seeds
from .averages import reconstruct
from .checkpoint import contents, safetensors_file
from .checkpoint.load import load, pick_checkpoint
from .checkpoint.verify import sidecar_of
from .classes import Classes
from .conditioning import GradientGuidance, Observation, Way
from .config import Recipe, from_dict
from .config.arguments import Method, SamplingKeys, sampling_spec, whole_number
from .config.sampling import SamplingSpec
from .data.described import DescribedSource, describe
from .data.source import Source, classes_of, source
from .errors import CheckpointError, RecipeError, UsageError
from .nets import fit
from .nets import precision as precisions
from .nets.compiled import Compiled
from .run import lookup
from .run.trust import plugin_of, require_own_plugin
from .samplers.path import Watcher
from .sanitize import one_line
from .score import Counted, Score
from .solutions import Network, Solutions

_log = logging.getLogger(__name__)

# A class by number or name, one for each example, or None.
Label = int | str | Sequence[int | str] | Tensor | None


class Model:
    """Recipe, SDE, data source and score of a trained network. What people use is `cld_core.Model`, which adds to it.

    Attributes:
        recipe: the recipe in force.
        path: the run folder or file that it was loaded from; None for any other model.
        step: the optimiser step of the weights.
        checkpoint: checksum of the checkpoint that they are from; empty if it is not known.
        ema_length: the relative length of their average; None for that of `train.ema`.
        ema_error: how well that average could be made (`averages.profiles.Fit`); None if nothing had to be.
        score: maps (u, t) to the score of the scored half of u.
        data_shape: shape of one example, (C, ...).
        classes: those of a class-conditional model, which takes labels; None for any other.
        solutions: samplers that were tuned to the network.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        net: nn.Module | None = None,
        data: Source | None = None,
        classes: Classes | None = None,
        step: int = 0,
    ) -> None:
        """A model with an untrained network in evaluation mode, unless ``net`` and ``data`` of the recipe are given.

        Args:
            classes: of the data, which are asked for them if it is None and the recipe wants labels.
        """
        self.recipe, self.step, self.device = recipe, step, torch.device(device)
        self.path: Path | None = None
        self.checkpoint = ""
        self.ema_length: float | None = None
        self.ema_error: float | None = None
        self.solutions = Solutions()
        self.source = data or source(recipe.data)
        self.data_shape = self.source.shape
        self.sde = sde.build(recipe.sde)
        self.classes = classes if classes is not None or not recipe.data.labels else classes_of(self.source)
        if net is None:
            sizes = {"halves_in": self.sde.n, "halves_out": self.sde.m, "classes": len(self.classes or ())}
            net = nets.build(recipe.network, data_shape=self.data_shape, **sizes)
            net.to(self.device).eval()
            if precisions.prefers_channels_last(self.device):
                precisions.store(net, channels_last=True)
        self.net = net
        self._scores: dict[tuple[bool, str], Score] = {}
        self.score = self.score_of(compiled=False)

    def score_of(self, *, compiled: bool, precision: str = "fp32") -> Score:
        """`score`, or the same with the network in another precision of `sampling.precision`.

        Args:
            compiled: through `torch.compile`; the first calls compile and take a while.
        """
        known = self._scores.get((compiled, precision))
        if known is None:
            net = precisions.prepared(self.net, self.device, precision)
            known = Score(self.sde, self.recipe.objective, Compiled(net) if compiled else net)
            self._scores[compiled, precision] = known
        return known

    @property
    def network(self) -> Network:
        """What a tuned sampler is chosen for."""
        return Network(
            step=self.step,
            checkpoint=self.checkpoint,
            ema_length=self.ema_length,
            labels=self.classes is not None,
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
        device: str | None = None,
        *,
        allow_plugin: bool = False,
        ema_length: float | None = None,
    ) -> Self:
        """Load the averaged weights of a checkpoint; see `cld_core.load`."""
        folder = lookup.named(run)
        recipe = folder.recipe()
        if not allow_plugin:
            require_own_plugin(folder, recipe)
        step = pick_checkpoint(folder, recipe.model_digest(), checkpoint)
        sidecar = sidecar_of(folder, step)
        # Mapped, not read: the weights as they are trained and the optimiser's moments stay on the disk.
        state = load(folder, step, model_digest=recipe.model_digest())
        try:
            data, classes = source(recipe.data), _classes(recipe, state.get("classes"))
            weights, averages, fit_error = contents.weights(state), contents.averages(state), None
            _require_fit(recipe, data.shape, {name: tuple(tensor.shape) for name, tensor in weights.items()}, classes)
            model = cls(recipe, device or _default_device(), data=data, classes=classes, step=step)
            trained = {name: it for name, it in model.net.named_parameters() if it.requires_grad}
            if ema_length is not None:
                averages, fit_error = reconstruct.average(folder, step, ema_length, trained, recipe.model_digest())
            fixed = {name: tensor for name, tensor in weights.items() if name not in trained}
            model.net.load_state_dict({**averages, **fixed}, strict=True)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            path = folder.checkpoint_file(step)
            text = f"does not fit the recipe: {_in_one_line(error)}. Use the recipe that wrote it."
            raise CheckpointError(f"{path}: {text}") from error
        model.net.requires_grad_(False)
        model.path, model.solutions = folder.path, Solutions.of_run(folder)
        model.ema_length, model.ema_error = ema_length, fit_error
        model.checkpoint = "" if sidecar is None else sidecar.sha256
        return model

    @classmethod
    def of_tensors(
        cls,
        recipe: Recipe,
        tensors: Mapping[str, Tensor],
        *,
        step: int,
        device: torch.device | str | None = None,
        classes: Any = None,
    ) -> Self:
        """A model of a recipe with these weights: all tensors of its network, by name.

        Args:
            classes: what `Classes.to_dict` said of those of the model; None if it has none.

        Raises:
            ValueError, TypeError, RuntimeError, ArithmeticError: they are not those of its network.
        """
        data, known = source(recipe.data), _classes(recipe, classes)
        _require_fit(recipe, data.shape, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, known)
        model = cls(recipe, device or _default_device(), data=data, classes=known, step=step)
        model.net.load_state_dict(dict(tensors), strict=True)
        model.net.requires_grad_(False)
        return model

    @classmethod
    def from_file(cls, file: str | Path, device: str | None = None, *, allow_plugin: bool = False) -> Self:
        """Load a file that `export` wrote; see `cld_core.load`."""
        path = Path(file)
        with safetensors_file.opened(path) as weights:
            try:
                recipe = from_dict(contents.described(weights.about, "recipe"), str(path))
                step, ema_length = contents.step(weights.about), contents.ema_length(weights.about)
                data = _data_of(path, recipe, weights.about, allow_plugin)
                known = contents.described(weights.about, "classes") if "classes" in weights.about else None
                classes = _classes(recipe, known)
                _require_fit(recipe, data.shape, weights.shapes, classes)
                model = cls(recipe, device or _default_device(), data=data, classes=classes, step=step)
                model.net.load_state_dict(weights.tensors(), strict=True)
            except (KeyError, ValueError, TypeError, RuntimeError, ArithmeticError, RecipeError) as error:
                text = f"recipe and tensors do not match: {_in_one_line(error)}. Export it again."
                raise CheckpointError(f"{path}: {text}") from error
        model.net.requires_grad_(False)
        model.path, model.solutions = path.absolute(), Solutions.of_file(weights.about, path.name)
        model.ema_length = ema_length
        return model

    def export(self, file: Path) -> None:
        """Write weights, recipe, tuned samplers and the form of the data, all that sampling needs, to one file."""
        recipe = json.dumps(self.recipe.to_share())
        about = {"step": str(self.step), "weights": "ema", "recipe": recipe, "data": describe(self.source)}
        if self.ema_length is not None:
            about["ema_length"] = repr(self.ema_length)
        if self.classes is not None:
            about["classes"] = json.dumps(self.classes.to_dict())
        about |= self.solutions.carried(self.network)
        safetensors_file.write(file, self.net.state_dict(), about)

    def sample(
        self,
        n: int,
        *,
        method: Method | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        observation: Observation | None = None,
        by: Way | None = None,
        **settings: Unpack[SamplingKeys],
    ) -> Tensor:
        """Draw ``n`` samples, (n, C, ...), float32; images are in [-1, 1].

        Sample i of a seed is the same however many are drawn with it, in whatever batches.

        Args:
            n: how many.
            method: how they are drawn, for example "ode" or "exponential"; None: as the recipe says.
            nfe: evaluations of the network for each sample, by a method with fixed steps; None: as the recipe says.
            seed: key of the noise.
            first: number of the first sample.
            batch_size: samples computed at once; None for all.
            label: for a class-conditional model, the class of all samples, by number or name, or one for each; None:
                classes are as frequent as in the training data, and that of sample i depends only on i.
            observation: an observation of x on which samples are conditioned; None for unconditional samples.
            by: how they are conditioned on it, a `conditioning.GradientGuidance` or `conditioning.Replacement`; None:
                by gradient, ``GradientGuidance()``.
            settings: the other keys of the recipe's `sampling` section, for example ``eps=1e-3, denoise=False``. An
                ``eps`` below `objective.loss_eps` causes a warning, because the network was not trained on such t.

        Raises:
            RecipeError: an argument is wrong; names it.
            UsageError: there is no such class; the observation is of other data, or does not go with the way or the
                method.
            SolverError: the adaptive solver cannot reach its tolerance.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        caller = "Model.sample"
        return self._draw(n, keys, seed, first, batch_size, caller, label=label, observation=observation, by=by).x

    def draw(
        self,
        n: int,
        *,
        method: Method | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: Label = None,
        progress: Callable[[int, int], object] | None = None,
        observation: Observation | None = None,
        by: Way | None = None,
        **settings: Unpack[SamplingKeys],
    ) -> samplers.Samples:
        """Like `sample`, but returns velocities and numbers of network evaluations, too.

        With guidance, an evaluation of the score takes two evaluations of the network where guidance acts; both count.

        Args:
            progress: called after each network evaluation with the number of samples that are done, and the number of
                evaluations so far of those in progress.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        given: dict[str, Any] = {"label": label, "observation": observation, "by": by}
        return self._draw(n, keys, seed, first, batch_size, "Model.draw", progress=progress, **given)

    def _draw(
        self,
        n: int,
        keys: Mapping[str, Any],
        seed: int,
        first: int,
        batch_size: int | None,
        caller: str,
        watcher: Watcher | None = None,
        progress: Callable[[int, int], object] | None = None,
        *,
        label: Label = None,
        observation: Observation | None = None,
        by: Way | None = None,
    ) -> samplers.Samples:
        """Draw samples for the function ``caller``, which messages name; a ``watcher`` sees one batch alone."""
        n, seed = whole_number(n, "n", 1, caller), whole_number(seed, "seed", 0, caller)
        first = whole_number(first, "first", 0, caller)
        size = n if batch_size is None else whole_number(batch_size, "batch_size", 1, caller)
        spec, labels = self._spec(keys, caller), self.labels(label, n, first, caller)
        if keys.get("eps") is not None and spec.eps < (seen := self.recipe.objective.loss_eps):
            _log.warning("%s: eps=%g: the network has seen no t below %g. Use that or more.", caller, spec.eps, seen)
        way = by or GradientGuidance()
        if observation is not None:
            observation.require_fit(self.data_shape, is_image=self.is_image)
            way.require_usable(observation, spec)
        score = self.score_of(compiled=spec.compile, precision=spec.precision)
        solution = self.solutions.followed(spec, self.network)
        parts = []
        with numerics.using(tf32=spec.precision == "tf32"):
            for start in range(first, first + n, size):
                last = min(start + size, first + n)
                noise = seeds.SampleNoise(seed, "sample", first=start, last=last, device=self.device)
                counted: Score | Counted = score
                if progress is not None:
                    counted = Counted(score, functools.partial(progress, start - first))
                given = None if labels is None else labels[start - first : last - first].to(self.device)
                bound = guidance.bound(counted, spec, given, none=len(self.classes or ()))
                where = self.data_shape, self.device
                if observation is None:
                    drawn = samplers.sample(bound, self.sde, spec, noise, *where, watcher, solution)
                else:
                    apart = seeds.SampleNoise(seed, "observation", first=start, last=last, device=self.device)
                    conditioned = way.conditioned(bound, self.sde, observation, apart)
                    drawn = samplers.sample(conditioned, self.sde, spec, noise, *where, watcher, solution)
                    drawn = replace(drawn, x=conditioned.finished(drawn.x))
                parts.append(guidance.counted(drawn, bound))
        return samplers.Samples.cat(parts)

    def labels(self, label: Label, n: int, first: int = 0, caller: str = "Model.labels") -> Tensor | None:
        """The labels of the samples ``first <= i < first + n``, (n,), int64, as `sample` understands ``label``.

        None for a model without classes.

        Raises:
            UsageError: the model has no classes, there is no such class, or not one for each sample.
        """
        if self.classes is None and label is not None:
            text = f"{caller}: label: {one_line(self.recipe.name)} was trained without labels (data.labels=false)"
            raise UsageError(f"{text}. Leave it out.")
        if self.classes is None:
            return None
        if label is None:
            return torch.tensor(self.classes.drawn(first, first + n))
        try:
            # Of torch or numpy.
            return torch.tensor(self.classes.each(label.tolist() if hasattr(label, "tolist") else label, n))
        except UsageError as error:
            raise UsageError(f"{caller}: {error}") from error

    def _spec(self, keys: Mapping[str, Any], caller: str) -> SamplingSpec:
        return sampling_spec(self.recipe, keys, caller)


def _data_of(path: Path, recipe: Recipe, about: Mapping[str, str], allow_plugin: bool) -> Source:
    """The data of an exported model: without its plug-in, only their form is known.

    Raises:
        CheckpointError: the plug-in is needed and not allowed.
    """
    plugin = plugin_of(recipe)
    if plugin is None or allow_plugin:
        return source(recipe.data)
    text = f"{path}: its recipe names the plug-in {one_line(plugin)}, which is code and does not run unasked"
    why = f'{text}. If you trust it: cld_core.load("{path}", allow_plugin=True).'
    if "data" not in about:
        raise CheckpointError(why)
    return DescribedSource(contents.described(about, "data"), why)


def _classes(recipe: Recipe, content: Any) -> Classes | None:
    """Those that a file says its model has; raises ValueError if a class-conditional one does not say."""
    return Classes.parsed(content) if recipe.data.labels else None


def _require_fit(
    recipe: Recipe, data_shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], classes: Classes | None
) -> None:
    """Refuse tensors that are not those of the recipe's network, before one is made; raises as `nets.fit.require`."""
    diffusion = sde.build(recipe.sde)
    sizes = {"halves_in": diffusion.n, "halves_out": diffusion.m, "classes": len(classes or ())}
    fit.require(recipe.network, shapes, data_shape=data_shape, **sizes)


def _in_one_line(error: Exception) -> str:
    """torch lists what does not fit on lines of their own."""
    return one_line(error, 400).rstrip(".")


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
