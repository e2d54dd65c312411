"""Training in Python, without a run folder: `fit` returns a model, `fit_steps` yields it meanwhile.

The same seed, data and recipe give the same numbers as a run on one rank
(`cld_core.train.step.Trainer`).
"""

import copy
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import nn
from tqdm import tqdm

from . import nets
from .config.data import ArraysSpec, StoredDataSpec
from .config.keys import Values
from .config.loader import from_arguments, path_of, whole_number
from .config.network import ModuleSpec
from .config.registry import SECTIONS
from .config.suggest import SIZES, suggested
from .data import arrays, store
from .data.images import StoredSource
from .data.source import Source, classes_of, data_std, source
from .errors import DataError, RecipeError, did_you_mean
from .model import Model
from .nets import execution
from .ranks import Ranks
from .train.step import Trainer

if TYPE_CHECKING:
    import numpy

Data: TypeAlias = "numpy.ndarray | torch.Tensor | str | Path | Mapping[str, Any]"
# The name of a variant, or a section of a recipe.
Keys: TypeAlias = str | Values

# The most updates of the progress bar.
_UPDATES = 200
_CALLER = "cld_core.fit"


class Step(NamedTuple):
    """The progress of a training.

    Attributes:
        step: the number of optimiser steps so far.
        loss: the mean loss of the steps since the last `Step`.
        model: the model with the averaged weights of this moment; the same object each time.
    """

    step: int
    loss: float
    model: Model


def fit(
    data: Data,
    steps: int = 2000,
    sde: Keys = "cld",
    network: Keys | nn.Module | None = None,
    *,
    progress: bool | None = None,
    **more: Any,
) -> Model:
    """Train a model on data, with settings that suit their shape.

    Args:
        data: examples (N, d), (N, C, L) or (N, C, H, W); or a file of them, or a folder, as
            `data.path` of `data.name: arrays` takes, or of prepared images; or the name of a toy
            density; or a `data` section.
        steps: optimiser steps.
        sde: the diffusion, by its name or as the `sde` section of a recipe.
        network: the network, by its name or as the `network` section of a recipe; or a module,
            which is called as docs/howto/own-network.md describes. A copy of the module is trained,
            from its weights. None: a network that suits the shape of the data.
        progress: show a bar on stderr; None: in a terminal and in a notebook.
        more: arguments of `fit_steps` (``labels``, ``size``, ``seed``, ``device``, ``every``), and
            recipe keys with "__" for dots, such as ``optim__lr=1e-3``, or sections, such as
            ``optim={"lr": 1e-3}``, which take precedence over the settings that suit the data.

    Raises:
        RecipeError: an argument is wrong; names it, as the recipe key that it is.
        DataError: the data cannot be used.
        NonFiniteError: a gradient was not finite.
    """
    every = max(1, whole_number(steps, "steps", 1, _CALLER) // _UPDATES)
    training = fit_steps(data, steps, sde, network, **{"every": every, **more})
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    with closing(training), tqdm(total=int(steps), disable=not progress) as bar:
        for reached in training:
            bar.set_postfix(loss=f"{reached.loss:.4g}", refresh=False)
            bar.update(reached.step - bar.n)
    return reached.model


def fit_steps(
    data: Data,
    steps: int = 2000,
    sde: Keys = "cld",
    network: Keys | nn.Module | None = None,
    *,
    labels: Any = None,
    size: str = "s",
    seed: int = 0,
    device: execution.Device = None,
    every: int = 1,
    **keys: Any,
) -> Generator[Step, None, None]:
    """Train as `fit` does; yields a `Step` after every ``every`` steps, and after the last one.

    The model can be sampled, evaluated and saved at each `Step`. If the loop is left early, the
    model stays as it is.

    Args:
        labels: the class of each example (N,), whole numbers or texts, in an array, a list or a
            Series; True: those that come with the data.
        size: "s", "m" or "l", the size of the network and of the settings that depend on it.
        seed: key of every random draw.
        device: where to compute; None: a GPU if one is available.
        keys: recipe keys, as in `fit`.

    The other arguments are those of `fit`.

    Raises:
        RecipeError: an argument is wrong; raised by the call.
        DataError: the data cannot be used; raised by the call.
        NonFiniteError: a gradient was not finite; raised at its step.
    """
    steps = whole_number(steps, "steps", 1, _CALLER)
    every = whole_number(every, "every", 1, _CALLER)
    if size not in SIZES:
        raise RecipeError(f"{_CALLER}: size={size!r}: expected one of {', '.join(SIZES)}.")
    given: dict[str, Any] = {
        "train.steps": steps,
        "train.seed": whole_number(seed, "seed", 0, _CALLER),
    }
    # `nets.require_usable` refuses classes and functions.
    module = network if callable(network) else None
    for name, value in (("sde", sde), ("network", network if module is None else ModuleSpec.name)):
        if value is not None:
            given[f"{name}.name" if isinstance(value, str) else name] = value
    given |= {name.replace("__", "."): value for name, value in keys.items()}
    place = execution.usable(device)
    section, examples = _data(data, labels, given, place)
    recipe = from_arguments(
        "fit", {"data": section, **_suggested(examples, given, size)}, given, _CALLER
    )
    batch = recipe.train.batch_size
    if isinstance(examples, StoredSource) and batch > examples.train.n:
        raise RecipeError(
            f"{_CALLER}: 'train.batch_size' is {batch}, more than the {examples.train.n} examples "
            "for training. Lower it, or leave it out."
        )
    net = None
    if module is not None:
        nets.require_usable(recipe, examples.shape, module, classes_of(examples))
        net = copy.deepcopy(module)
        if not any(weight.requires_grad for weight in net.parameters()):
            raise RecipeError(f"{_CALLER}: all weights are frozen. Call network.requires_grad_().")
    return _trained(Trainer(recipe, Ranks(device=place), data=examples, net=net), every)


def _trained(trainer: Trainer, every: int) -> Generator[Step, None, None]:
    recipe = trainer.recipe
    device = trainer.ranks.device
    model = Model(
        recipe, device, net=_averaged(trainer), data=trainer.source, classes=trainer.classes
    )
    gpus = [device] if device.type == "cuda" else []
    with closing(trainer):
        trainer.warm_up()
        for step in range(1, recipe.train.steps + 1):
            threads = torch.get_num_threads()
            with (
                execution.using(tf32=recipe.train.tf32, fixed_shapes=True),
                torch.random.fork_rng(gpus),
            ):
                # On a CPU, use as many threads as a rank of a run.
                trainer.ranks.use_cores(recipe.cluster.cpus_per_task)
                try:
                    trainer.step(step - 1)
                finally:
                    torch.set_num_threads(threads)
            if step % every == 0 or step == recipe.train.steps:
                trainer.check(step - 1)
                loss = trainer.interval.take().get("loss", float("nan"))
                trainer.check(step - 1, loss)
                model.step = step
                yield Step(step, loss, model)


def _averaged(trainer: Trainer) -> torch.nn.Module:
    """A second network whose parameters are the averages themselves, not copies of them."""
    net = copy.deepcopy(trainer.net).eval().requires_grad_(False)
    parameters = dict(net.named_parameters())
    for name, average in zip(trainer.ema.names, trainer.ema.average, strict=True):
        parameters[name].data = average
    for own, live in zip(net.modules(), trainer.net.modules(), strict=True):
        # Buffers are not averaged: they are those of the network that trains.
        own._buffers = live._buffers
    return net


def _data(data: Any, labels: Any, given: Values, device: torch.device) -> tuple[Values, Source]:
    """The keys of the recipe's `data` section that follow from ``data``, and the examples."""
    more = {
        key: value for key, value in given.items() if key.partition(".")[0] in ("data", "plugins")
    }
    from_arguments("fit", {}, {"plugins": more.pop("plugins", ())}, _CALLER)
    toys = [
        name
        for name, variant in SECTIONS["data"].variants.items()
        if not issubclass(variant.spec, StoredDataSpec)
    ]
    section: dict[str, Any] = {} if labels is None or labels is False else {"labels": True}
    if isinstance(data, str | os.PathLike):
        path = path_of(data, "data", _CALLER)
        name = os.fspath(data)
        if name not in toys and not path.exists():
            fix = did_you_mean(name, toys) or f" Toy densities are {', '.join(toys)}."
            raise DataError(f"data={name!r}: there is no such file, folder or toy density.{fix}")
        data = {"name": name} if name in toys else store.keys_of(path.absolute())
    if isinstance(data, Mapping):
        if not isinstance(labels, bool | None):
            raise RecipeError(
                "labels: these data have their own. Pass labels=True, or the examples as an array."
            )
        section = {**data, **section}
        return section, source(from_arguments("fit", {"data": section}, more, _CALLER).data, device)
    section = {"name": "arrays", **section}
    spec = from_arguments("fit", {"data": section}, more, _CALLER).data
    if not isinstance(spec, ArraysSpec) or spec.path is not None or spec.test is not None:
        raise RecipeError(
            f"{_CALLER}: the examples were passed, so that data.name, data.path and data.test "
            "have no meaning. Leave them out."
        )
    stored = arrays.given(data, labels, share=spec.test_share, where="data")
    return section, StoredSource(spec, device, stored)


def _given(section: str, given: Values) -> Values:
    """The keys of a section among arguments, without its name."""
    whole = given.get(section)
    prefix = f"{section}."
    keys = {**whole} if isinstance(whole, Mapping) else {}
    for key, value in given.items():
        if key.startswith(prefix):
            keys[key.removeprefix(prefix)] = value
    return keys


def _suggested(examples: Source, given: Values, size: str) -> Values:
    """Keys that suit the examples."""
    train: int | None = None
    tests: int | None = None
    if isinstance(examples, StoredSource):
        train = examples.train.n
        tests = examples.test.n
    sde = _given("sde", given).get("name", "cld")
    steps = given["train.steps"]
    std = data_std(examples)
    keys = suggested(examples.shape, train, size, tests=tests, data_std=std, sde=sde, steps=steps)
    own = _given("objective", given)
    if own.get("mixed_score") or own.get("precondition") == "none":
        # The caller chose another form of the score for Gaussian data, or none: what is measured in
        # units of it goes, too.
        keys["objective"] = {name: it for name, it in keys["objective"].items() if name == "name"}
    elif own.get("times", "lognormal") != "lognormal":
        del keys["objective"]["log_share"]
    return keys
