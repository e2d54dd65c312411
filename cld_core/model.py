"""A trained model, ready to sample and to be evaluated."""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from . import nets, numerics, sampling, sde, seeds
from .checkpoint import contents, safetensors_file
from .checkpoint.load import load, newest_good
from .data.described import DescribedSource, describe
from .data.source import Source, source
from .errors import CheckpointError, NotFoundError, RecipeError
from .nets import fit
from .nets import precision as precisions
from .nets.compiled import Compiled
from .recipe import Recipe, from_dict
from .recipe.arguments import Method, SamplingKeys, sampling_spec, whole_number
from .recipe.sampling import SamplingSpec
from .run import RunFolder, lookup
from .run.trust import plugin_of, require_own_plugin
from .sampling.path import Watcher
from .score import Counted, Score, ScoreFunction
from .solutions import Solutions
from .texts import is_count, one_line

_log = logging.getLogger(__name__)


class Model:
    """Recipe, SDE, data source and score of a trained network. What people use is `cld_core.Model`, which adds to it.

    Attributes:
        recipe: the recipe in force.
        path: the run folder or file that it was loaded from; None for any other model.
        step: the optimiser step of the weights.
        score: maps (u, t) to the score of the scored half of u.
        data_shape: shape of one example, (C, ...).
        solutions: samplers that were tuned to the network.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        net: nn.Module | None = None,
        data: Source | None = None,
        step: int = 0,
    ) -> None:
        """A model with an untrained network in evaluation mode, unless ``net`` and ``data`` of the recipe are given."""
        self.recipe, self.step, self.device = recipe, step, torch.device(device)
        self.path: Path | None = None
        self.solutions = Solutions()
        self.source = data or source(recipe.data)
        self.data_shape = self.source.shape
        self.sde = sde.build(recipe.sde)
        if net is None:
            net = nets.build(recipe.network, data_shape=self.data_shape, halves_in=self.sde.n, halves_out=self.sde.m)
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
    ) -> Self:
        """Load the averaged weights of a checkpoint; see `cld_core.load`."""
        folder = lookup.named(run)
        recipe = folder.recipe()
        if not allow_plugin:
            require_own_plugin(folder, recipe)
        step = pick_checkpoint(folder, recipe, checkpoint)
        # Mapped, not read: the weights as they are trained and the optimiser's moments stay on the disk.
        state = load(folder, step, model_digest=recipe.model_digest())
        try:
            data = source(recipe.data)
            weights, averages = contents.weights(state), contents.averages(state)
            _require_fit(recipe, data.shape, {name: tuple(tensor.shape) for name, tensor in weights.items()})
            model = cls(recipe, device or _default_device(), data=data, step=step)
            trained = {name for name, parameter in model.net.named_parameters() if parameter.requires_grad}
            fixed = {name: tensor for name, tensor in weights.items() if name not in trained}
            model.net.load_state_dict({**averages, **fixed}, strict=True)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            path = folder.checkpoint_file(step)
            text = f"does not fit the recipe: {_in_one_line(error)}. Use the recipe that wrote it."
            raise CheckpointError(f"{path}: {text}") from error
        model.net.requires_grad_(False)
        model.path, model.solutions = folder.path, Solutions.of_run(folder)
        return model

    @classmethod
    def of_tensors(
        cls, recipe: Recipe, tensors: Mapping[str, Tensor], *, step: int, device: torch.device | str | None = None
    ) -> Self:
        """A model of a recipe with these weights: all tensors of its network, by name.

        Raises:
            ValueError, TypeError, RuntimeError, ArithmeticError: they are not those of its network.
        """
        data = source(recipe.data)
        _require_fit(recipe, data.shape, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        model = cls(recipe, device or _default_device(), data=data, step=step)
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
                step = contents.step(weights.about)
                data = _data_of(path, recipe, weights.about, allow_plugin)
                _require_fit(recipe, data.shape, weights.shapes)
                model = cls(recipe, device or _default_device(), data=data, step=step)
                model.net.load_state_dict(weights.tensors(), strict=True)
            except (KeyError, ValueError, TypeError, RuntimeError, ArithmeticError, RecipeError) as error:
                text = f"recipe and tensors do not match: {_in_one_line(error)}. Export it again."
                raise CheckpointError(f"{path}: {text}") from error
        model.net.requires_grad_(False)
        model.path, model.solutions = path.absolute(), Solutions.of_file(weights.about, path.name)
        return model

    def export(self, file: Path) -> None:
        """Write weights, recipe, tuned samplers and the form of the data, all that sampling needs, to one file."""
        recipe = json.dumps(self.recipe.to_share())
        about = {"step": str(self.step), "weights": "ema", "recipe": recipe, "data": describe(self.source)}
        about |= self.solutions.carried(self.step)
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
        **settings: Unpack[SamplingKeys],
    ) -> Tensor:
        """Draw ``n`` samples, (n, C, ...), float32; images are in [-1, 1].

        Sample i of a seed is the same however many are drawn with it, in whatever batches.

        Args:
            n: how many.
            method: how they are drawn: "ode", "em", "sscs", "exponential" or "tuned"; None: as the recipe says.
            nfe: evaluations of the network for each sample, by a method with fixed steps; None: as the recipe says.
            seed: key of the noise.
            first: number of the first sample.
            batch_size: samples computed at once; None for all.
            settings: the other keys of the recipe's `sampling` section, for example ``eps=1e-3, denoise=False``. An
                ``eps`` below `objective.loss_eps` is warned of: the network has seen no such t.

        Raises:
            RecipeError: an argument is wrong; names it.
            SolverError: the adaptive solver cannot reach its tolerance.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        return self._draw(n, keys, seed, first, batch_size, "Model.sample").x

    def draw(
        self,
        n: int,
        *,
        method: Method | None = None,
        nfe: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        **settings: Unpack[SamplingKeys],
    ) -> sampling.Samples:
        """Like `sample`, but returns velocities and numbers of network evaluations, too.

        Args:
            progress: called after each network evaluation with the number of samples that are done, and how many
                evaluations those had that are being computed.
        """
        keys = {"method": method, "nfe": nfe, **settings}
        return self._draw(n, keys, seed, first, batch_size, "Model.draw", progress=progress)

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
    ) -> sampling.Samples:
        """Draw samples for the function ``caller``, which messages name; a ``watcher`` sees one batch alone."""
        n, seed = whole_number(n, "n", 1, caller), whole_number(seed, "seed", 0, caller)
        first = whole_number(first, "first", 0, caller)
        size = n if batch_size is None else whole_number(batch_size, "batch_size", 1, caller)
        spec = self._spec(keys, caller)
        if keys.get("eps") is not None and spec.eps < (seen := self.recipe.objective.loss_eps):
            _log.warning("%s: eps=%g: the network has seen no t below %g. Use that or more.", caller, spec.eps, seen)
        score = self.score_of(compiled=spec.compile, precision=spec.precision)
        solution = self.solutions.followed(spec, self.step)
        parts = []
        with numerics.using(tf32=spec.precision == "tf32"):
            for start in range(first, first + n, size):
                last = min(start + size, first + n)
                noise = seeds.SampleNoise(seed, "sample", first=start, last=last, device=self.device)
                counted: ScoreFunction = score
                if progress is not None:
                    counted = Counted(score, functools.partial(progress, start - first))
                where = self.data_shape, self.device
                parts.append(sampling.sample(counted, self.sde, spec, noise, *where, watcher, solution))
        return sampling.Samples.cat(parts)

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


def _require_fit(recipe: Recipe, data_shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not those of the recipe's network, before one is made; raises as `nets.fit.require`."""
    diffusion = sde.build(recipe.sde)
    fit.require(recipe.network, shapes, data_shape=data_shape, halves_in=diffusion.n, halves_out=diffusion.m)


def _in_one_line(error: Exception) -> str:
    """torch lists what does not fit on lines of their own."""
    return one_line(error, 400).rstrip(".")


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_checkpoint(folder: RunFolder, recipe: Recipe, checkpoint: int | str) -> int:
    """The step that ``checkpoint`` (a step or "last") means.

    Raises:
        NotFoundError: the run has no such checkpoint, or none at all.
    """
    if str(checkpoint) != "last":
        if is_count(str(checkpoint)):
            return int(checkpoint)
        steps = ", ".join(map(str, folder.checkpoint_steps())) or "none"
        text = f"'{one_line(str(checkpoint))}' is not a checkpoint of {folder.name}"
        raise NotFoundError(f"{text}. Use 'last' or a step; existing ones: {steps}.")
    step, damaged = newest_good(folder, recipe.model_digest())
    for entry in damaged:
        if entry.finished:
            _log.warning("%s", entry.skipped)
    if step is None:
        why = f": {damaged[0].reason}" if damaged else ""
        train = f"`cldctl resume {folder.name}`"
        fix = f"Train it again: {train}" if damaged else f"Wait for the first one, or if the run has stopped: {train}"
        raise NotFoundError(f"{folder.path} has no usable checkpoint yet{why}. {fix}.")
    return step
