"""The sections about training: objective, optimiser, length, periodic computations, averages.

Also two that change no number: `monitor`, where training is shown besides TensorBoard, and
`hooks`, commands that are run when the state changes.
"""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from cld_core.errors import RecipeError
from cld_core.sanitize import is_count, one_line

from .keys import Problem, is_due, key, section, spec_class

# The relative length of the uniform average; that of an increasing power function is shorter.
UNIFORM_LENGTH = 1.0 / math.sqrt(12.0)
# The bound of keys, with three digits.
LONGEST = math.floor(1000.0 * UNIFORM_LENGTH) / 1000.0
# Schemes of a store of MLflow: a server or Databricks, a data base or a folder.
_SERVERS = ("http", "https", "databricks", "databricks-uc")
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file")


@spec_class
class ObjectiveSpec:
    name: Literal["hsm", "dsm"] = key("hsm", "hybrid or denoising score matching")
    weighting: Literal["reweightedv2", "reweightedv1", "likelihood", "edm"] = key(
        "reweightedv2",
        "weight of each t in the loss; edm: errors in units of the network's output",
    )
    mixed_score: bool = key(
        False,
        "add the score of a unit Gaussian to the network's; for PSLD that of data of variance 0.25",
    )
    loss_eps: float = key(1e-5, "smallest t that is trained on", gt=0, lt=1)
    times: Literal["uniform", "log", "importance", "lognormal", "flow"] = key(
        "uniform",
        "how t is drawn: uniformly; uniformly in log t, which weights each t by 1/t; by "
        "importance sampling for the weighting, which does not change the weights; with a "
        "log-normal noise level sigma; or uniformly in sigma / (1 + sigma), as flow matching does",
    )
    noise_mean: float = key(
        -0.5, "mean of log(sigma / data_std) with times=lognormal; EDM's is -0.507", ge=-20, le=20
    )
    noise_std: float = key(
        1.2, "standard deviation of log(sigma) with times=lognormal", gt=0, le=20
    )
    log_share: float = key(
        0.0, "share of the times lognormal or flow that is uniform in log t instead", ge=0, lt=1
    )
    precondition: Literal["none", "data", "edm", "flow"] = key(
        "none",
        "data: scale inputs and outputs of the network as for Gaussian data, so that it learns "
        "only the rest; edm: as data, and the network is told log(sigma) / 4 as log t; flow: the "
        "network is that of flow matching, only for diffusions of the data alone",
    )
    data_std: float = key(
        0.5, "standard deviation of these Gaussian data, and unit of noise_mean", gt=0, le=1000
    )
    label_dropout: float = key(
        0.1,
        "share of the training examples whose label is hidden, for guidance; only with data.labels",
        ge=0,
        lt=1,
    )

    @property
    def kernel(self) -> Literal["hsm", "dsm"]:
        """The kernel that u at t is drawn from.

        For "hsm", the halves other than x at time 0 are averaged over; for "dsm", they are given.
        The spec of a plug-in's objective may override it.
        """
        return "dsm" if self.name == "dsm" else "hsm"

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.precondition != "none" and self.mixed_score:
            yield (
                "precondition",
                "mixed_score",
                f"cannot be {self.precondition} with objective.mixed_score: "
                "both add a known score to the network's. Set objective.mixed_score=false.",
            )
        uses_std = self.precondition in ("data", "edm") or self.times == "lognormal"
        if self.data_std != ObjectiveSpec.data_std and not uses_std:
            yield (
                "data_std",
                "precondition",
                f"is {self.data_std:g}, which has no effect with "
                f"objective.precondition={self.precondition}. Set objective.precondition=data.",
            )
        if self.weighting == "edm" and self.precondition == "none":
            yield (
                "weighting",
                "precondition",
                "cannot be edm with objective.precondition=none, where the network's output is the "
                "noise. Set objective.precondition=data, or objective.weighting=reweightedv2.",
            )
        for name in ("noise_mean", "noise_std"):
            value = getattr(self, name)
            if value != getattr(ObjectiveSpec, name) and self.times != "lognormal":
                yield (
                    name,
                    "times",
                    f"is {value:g}, which has no effect with objective.times={self.times}. "
                    "Set objective.times=lognormal.",
                )
        if self.log_share and self.times not in ("lognormal", "flow"):
            yield (
                "log_share",
                "times",
                f"is {self.log_share:g}, which has no effect with objective.times={self.times}. "
                "Set objective.times=lognormal.",
            )
        if self.times == "importance" and self.weighting != "likelihood":
            yield (
                "times",
                "weighting",
                f"cannot be importance with objective.weighting={self.weighting}, "
                "which weights all t about alike. "
                "Set objective.weighting=likelihood, or objective.times=uniform.",
            )


@spec_class
class OptimSpec:
    name: str = key("adam", "optimiser")
    impl: Literal["auto", "fused", "apex", "plain"] = key(
        "auto",
        "implementation: fused kernels of torch (auto: if it has any), those of NVIDIA apex, "
        "or plain ones",
    )
    lr: float = key(1e-3, "learning rate after the warm-up and before any decay", gt=0)
    weight_decay: float = key(0.0, "decay per unit of learning rate", ge=0)
    beta1: float = key(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = key(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = key(1e-8, "added to the square root of the second moment", gt=0)
    warmup_steps: int = key(0, "steps over which the learning rate rises linearly from 0", ge=0)
    decay: Literal["none", "linear", "cosine"] = key(
        "none",
        "how the learning rate falls to 0 at train.steps: not at all, linearly, "
        "or as half a cosine",
    )
    grad_clip: float | None = key(1.0, "largest norm of the gradient; null: no clipping", gt=0)
    max_grad_growth: float | None = key(
        None,
        "gradient norm, in units of its running mean, above which a step is never taken; "
        "null: no limit",
        gt=1,
    )


@spec_class
class TrainSpec:
    steps: int = key(800_000, "total number of optimiser steps", ge=1, le=1_000_000_000_000)
    batch_size: int = key(512, "examples in a step, over all ranks", ge=1, le=10_000_000)
    micro_batch: int | None = key(
        None, "examples that a rank computes at once; null: its whole share", ge=1, le=1_000_000
    )
    seed: int = key(0, "key of every random draw", ge=0)
    on_resume: Literal["reseed", "exact"] = key(
        "reseed", "after a restart, fresh noise or the same noise"
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "type that the network computes in")
    emulated: bool = key(
        False, "train on this machine in a precision that its processor emulates, which is slow"
    )
    tf32: bool = key(True, "let GPUs round the factors of float32 products to 10 bits")
    compile: bool = key(False, "torch.compile the network")
    channels_last: bool = key(False, "store images with channels last, which is faster on GPUs")
    bucket_mb: int = key(25, "MiB of gradients that ranks exchange at once", ge=1, le=100_000)
    ema: float = key(0.999, "decay of the moving average of the weights", ge=0, lt=1)
    ema_lengths: tuple[float, ...] = key(
        (),
        "relative lengths of power-function averages to track, such as 0.05 and 0.1, "
        "for ema.length",
        gt=0,
        lt=LONGEST,
    )
    ema_every: int | None = key(
        None, "steps between two stored snapshots of those averages; null: checkpoint_every", ge=1
    )
    ema_precision: Literal["fp32", "fp16"] = key("fp32", "type of the stored snapshots")
    log_every: int = key(100, "steps between two lines of progress", ge=1)
    checkpoint_every: int = key(
        10_000,
        "steps between two checkpoints; checkpoint_minutes adds others",
        ge=1,
    )
    checkpoint_minutes: float | None = key(
        10.0,
        "minutes since the last checkpoint after which another is saved; null: by steps only",
        gt=0,
        le=1_000_000,
    )
    keep: int = key(
        3,
        "newest checkpoints to keep, preferring those of checkpoint_every; "
        "the very newest always stays",
        ge=1,
    )
    milestone_every: int | None = key(
        None, "steps between two checkpoints that are never deleted; null: none", ge=1
    )
    milestone_from: int = key(0, "first step at which milestones are kept", ge=0)
    max_rollbacks: int = key(3, "rollbacks to the same checkpoint after a non-finite loss", ge=0)
    max_retries: int = key(
        3, "crashes in a row, without a new checkpoint, before a run is given up", ge=0
    )
    health_check: bool = key(
        True, "check each machine before training, and begin elsewhere if it is unfit"
    )
    max_crashes_a_day: int = key(
        20, "crashes in 24 hours, with or without progress, before a run is given up", ge=0
    )
    hang_timeout_s: float = key(
        600.0, "seconds without a step after which a rank exits", gt=0, le=1_000_000_000
    )

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            yield (
                "micro_batch",
                "batch_size",
                f"is {self.micro_batch}, more than train.batch_size={self.batch_size}. "
                "Lower it or set it to null.",
            )
        if len(set(self.ema_lengths)) < len(self.ema_lengths):
            yield "ema_lengths", "ema_lengths", "has a length twice. Remove one."
        if self.ema_every is not None and not self.ema_lengths:
            yield (
                "ema_every",
                "ema_lengths",
                f"is {self.ema_every}, which has no effect without train.ema_lengths. "
                "Set train.ema_lengths=[0.05,0.1], or leave it at null.",
            )

    def wants_snapshot(self, step: int) -> bool:
        """Whether the power-function averages of a step are stored."""
        every = self.checkpoint_every if self.ema_every is None else self.ema_every
        return bool(self.ema_lengths) and is_due(step, every, every)

    def is_regular(self, step: int) -> bool:
        """Whether a checkpoint is due at a step because of its number, not of the time."""
        return step % self.checkpoint_every == 0 or self.is_milestone(step)

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of a step is never deleted."""
        return is_due(step, self.milestone_every, self.milestone_from)


@spec_class
class PeriodicSpec:
    samples_every: int | None = key(None, "steps between two pictures of samples; null: none", ge=1)
    samples_from: int = key(0, "first step at which samples are drawn", ge=0)
    samples: int = key(64, "samples in a picture", ge=1, le=10_000)
    elbo_every: int | None = key(None, "steps between two likelihood bounds; null: none", ge=1)
    elbo_from: int = key(0, "first step at which the bound is computed", ge=0)
    elbo_points: int = key(512, "test points of a bound", ge=1, le=100_000_000)
    fid_every: int | None = key(None, "steps between two FIDs; null: none", ge=1)
    fid_from: int = key(0, "first step at which FID is computed", ge=0)
    fid_samples: int = key(
        10_000, "samples of an FID; it is biased upwards if there are few", ge=2, le=10_000_000
    )
    batch_size: int = key(
        64, "samples or test points that a rank computes at once", ge=1, le=1_000_000
    )

    def wants(self, what: Literal["samples", "elbo", "fid"], step: int) -> bool:
        """Whether samples, the bound or the FID are computed after a step."""
        return is_due(step, getattr(self, f"{what}_every"), getattr(self, f"{what}_from"))


@spec_class
class EmaSpec:
    length: float | None = key(
        None,
        "relative length of the weight average, reconstructed from those of train.ema_lengths; "
        "null: use train.ema",
        gt=0,
        lt=LONGEST,
    )

    @property
    def words(self) -> str:
        """A label for results of the average; empty for the usual average."""
        return "" if self.length is None else f"EMA length {self.length:g}"


@spec_class
class WandbSpec:
    project: str | None = key(
        None, "project of Weights & Biases in which the run is shown; null: none"
    )
    entity: str | None = key(None, "user or team that has the project; null: your default")
    mode: Literal["online", "offline", "disabled"] = key(
        "online", "offline: write into the run folder only, for `wandb sync`"
    )

    @property
    def is_on(self) -> bool:
        return self.project is not None and self.mode != "disabled"


@spec_class
class MlflowSpec:
    tracking_uri: str | None = key(
        None, "server or data base of MLflow that shows the run; null: none"
    )
    experiment: str = key("cldctl", "experiment that the run belongs to")

    @property
    def is_on(self) -> bool:
        return self.tracking_uri is not None

    def problem(self) -> str | None:
        """The mistake in the address, and its fix, without the password; None if it is right."""
        if self.tracking_uri is None:
            return None
        try:
            parts = urlsplit(self.tracking_uri)
            password = parts.password
            host = parts.hostname
        except ValueError:
            return "is not an address. Set it to the address of your MLflow server."
        if password is not None:
            return (
                "holds a password, and the recipe is stored in the run folder. Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where jobs start instead."
            )
        kind = parts.scheme.partition("+")[0] or self.tracking_uri
        if kind not in _SERVERS + _STORES or (kind in ("http", "https") and not host):
            return (
                f"cannot be {one_line(self.tracking_uri, 60)!r}; expected http://HOST:PORT, "
                "https://HOST or sqlite:////ABSOLUTE/FILE.db. Correct it."
            )
        if kind in ("sqlite", "file"):
            root = "//" if kind == "sqlite" else "/"
            if not parts.path.startswith(root):
                return (
                    "is a relative path, and jobs run in another folder. "
                    f"Write {kind}://{root}ABSOLUTE/PATH."
                )
        return None


@spec_class
class MonitorSpec:
    wandb: WandbSpec = section(WandbSpec, "Weights & Biases")
    mlflow: MlflowSpec = section(MlflowSpec, "MLflow")

    def chosen(self) -> tuple[str, ...]:
        """The names of the loggers that are switched on."""
        return tuple(name for name in ("wandb", "mlflow") if getattr(self, name).is_on)

    def problems(self) -> Iterator[Problem]:
        """Keys with addresses and names that the loggers would refuse."""
        if (text := self.mlflow.problem()) is not None:
            yield "mlflow.tracking_uri", "mlflow.tracking_uri", text
        for key_name in ("project", "entity"):
            name = getattr(self.wandb, key_name)
            if name is not None and (not name.strip() or set(name) & set("/\\#?%:")):
                yield (
                    f"wandb.{key_name}",
                    f"wandb.{key_name}",
                    f"cannot be {one_line(name, 60)!r}; expected a name without /\\#?%:. "
                    "Correct it.",
                )

    def require_installed(self) -> None:
        """Refuse loggers whose package is missing here.

        Raises:
            RecipeError: names the package, and how to install it.
        """
        for name in self.chosen():
            if find_spec(name) is None:
                raise RecipeError(
                    f"'monitor.{name}' needs the package {name}, which is not installed. "
                    f"Run `pip install 'cldctl[{name}]'`, or leave the section out."
                )


@spec_class
class HooksSpec:
    on_change: str | None = key(None, "shell command that runs when the state of the run changes")
    timeout_s: float = key(30.0, "seconds after which the command is ended", gt=0, le=3600)

    def problems(self) -> Iterator[Problem]:
        """Keys that have a number in place of a command."""
        if self.on_change is not None and is_count(self.on_change.strip().lstrip("-")):
            yield (
                "on_change",
                "on_change",
                f"cannot be {self.on_change}, a number; expected a shell command. "
                "Write one, or leave it out.",
            )
