"""What a recipe may say: frozen dataclasses, one a section, each field with its unit and its bounds.

Nothing here imports torch: the command line reads recipes and must answer at once.
"""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

# Data sets that ship with the project. `data.plugin` adds others.
TOY_DATA = ("multimodal_swissroll", "diamond", "gaussian")


def key(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Any:
    """A recipe key with its default, its one-line description and the bounds of its value."""
    bounds = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    return field(default=default, metadata={"doc": doc, "bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class ToyDataSpec:
    name: str = key("multimodal_swissroll", "a registered toy density")
    plugin: str | None = key(None, "Python file or module that registers further data sets")


@dataclass(frozen=True, kw_only=True)
class CldSpec:
    name: Literal["cld"] = key("cld", "critically-damped Langevin diffusion")
    beta0: float = key(4.0, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(0.0, "beta(t) = beta0 + beta1 t", ge=0)
    m_inv: float = key(4.0, "inverse mass", gt=0)
    gamma: float = key(0.04, "variance of the initial velocity, in units of the mass", gt=0, le=1)
    numerical_eps: float = key(1e-6, "added to the diagonal of the kernel's covariance", ge=0)


@dataclass(frozen=True, kw_only=True)
class VpsdeSpec:
    name: Literal["vpsde"] = key("vpsde", "variance-preserving diffusion, the baseline")
    beta0: float = key(0.1, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(19.9, "beta(t) = beta0 + beta1 t", ge=0)
    numerical_eps: float = key(0.0, "added to the kernel's variance", ge=0)


@dataclass(frozen=True, kw_only=True)
class MlpSpec:
    name: Literal["mlp"] = key("mlp", "fully connected network for toy data")
    width: int = key(128, "units of a hidden layer", ge=1)
    layers: int = key(5, "linear layers, the output layer included", ge=2)
    time_input: Literal["raw", "log", "fourier"] = key("raw", "what of t is appended to the input")


@dataclass(frozen=True, kw_only=True)
class ResnetSpec:
    name: Literal["resnet"] = key("resnet", "residual network for toy data, log t at every layer")
    width: int = key(64, "units of a hidden layer", ge=1)
    layers: int = key(20, "residual layers between the first and the last", ge=1)


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    name: Literal["hsm", "dsm"] = key("hsm", "hybrid or denoising score matching")
    weighting: Literal["reweightedv2", "reweightedv1", "likelihood"] = key("reweightedv2", "weight of t")
    mixed_score: bool = key(False, "add the score of a unit Gaussian to the network's")
    loss_eps: float = key(1e-5, "smallest t that is trained on", gt=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    name: Literal["adam", "adamw", "adamax"] = key("adam", "optimiser")
    impl: Literal["auto", "fused", "plain"] = key("auto", "fused kernels where there are any, or plain")
    lr: float = key(1e-3, "learning rate after the warm-up", gt=0)
    weight_decay: float = key(0.0, "decay per unit of rate", ge=0)
    beta1: float = key(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = key(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = key(1e-8, "added to the root of the second moment", gt=0)
    warmup_steps: int = key(0, "steps over which the rate rises linearly from 0", ge=0)
    grad_clip: float | None = key(1.0, "largest norm of the gradient; null: no clipping", gt=0)


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    steps: int = key(800_000, "optimiser steps in all", ge=1)
    batch_size: int = key(512, "examples a step, all ranks together", ge=1)
    micro_batch: int | None = key(None, "examples a rank takes at once; null: its whole share", ge=1)
    seed: int = key(0, "key of every random draw", ge=0)
    on_resume: Literal["reseed", "exact"] = key("reseed", "fresh noise after a restart, or the same")
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "type that the network computes in")
    compile: bool = key(False, "torch.compile the network")
    ema: float = key(0.999, "decay of the average of the weights", ge=0, lt=1)
    log_every: int = key(100, "steps between two lines of progress", ge=1)
    checkpoint_every: int = key(10_000, "steps between two checkpoints", ge=1)
    keep: int = key(3, "newest checkpoints that are kept", ge=1)
    milestone_every: int | None = key(None, "steps between two checkpoints kept for good, beside the others", ge=1)
    milestone_from: int = key(0, "first step from which milestones are kept", ge=0)
    hang_timeout_s: float = key(600.0, "seconds without a step after which a rank gives up", gt=0)

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        every = self.milestone_every
        return every is not None and step >= self.milestone_from and step % every == 0


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    method: Literal["ode", "em", "sscs", "exponential"] = key(
        "ode", "adaptive probability flow, Euler-Maruyama, SSCS, or exponential multistep"
    )
    nfe: int = key(500, "network evaluations of a fixed-step method, denoising included", ge=2)
    grid: Literal["auto", "linear", "quadratic", "power"] = key(
        "auto", "spacing of the times; auto: power for the exponential method, else linear"
    )
    grid_power: float = key(6.0, "p of the power grid, which is uniform in B(t)^(1/p)", ge=1)
    order: int = key(1, "degree of the exponential method's interpolation", ge=0, le=3)
    corrector: bool = key(True, "let each evaluation of the exponential method correct the step before")
    eta: float = key(0.0, "noise of the exponential method: 0 the probability flow, 1 the reverse SDE", ge=0, le=1)
    sscs_order: int = key(1, "order of convergence of SSCS; 1 is the published one", ge=1, le=2)
    eps: float = key(1e-3, "time at which the reverse process ends", gt=0, lt=1)
    denoise: bool = key(True, "end with a noise-free step of size eps")
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)

    @property
    def spacing(self) -> str:
        """The grid in force."""
        if self.grid != "auto":
            return self.grid
        return "power" if self.method == "exponential" else "linear"

    def switched(self, method: str) -> "SamplingSpec":
        """With another method, unchecked, and the keys that it does not read back at their defaults."""
        changed = replace(self, method=cast(Any, method))
        return replace(changed, **{name: getattr(SamplingSpec(), name) for name, _ in changed.problems()})

    def problems(self) -> list[tuple[str, str]]:
        """Keys that differ from their defaults without any effect, as (key, what is wrong and the fix)."""
        needs = [(name, "method", method) for method, names in METHOD_KEYS.items() for name in names]
        in_force = {"method": self.method, "grid": self.spacing}
        found = []
        for name, selector, value in [*needs, ("grid_power", "grid", "power")]:
            default = getattr(SamplingSpec(), name)
            if getattr(self, name) != default and in_force[selector] != value:
                text = f"has no effect with sampling.{selector}={in_force[selector]}"
                fix = f"Set sampling.{selector}={value} or leave it at {str(default).lower()}."
                found.append((name, f"{text}. {fix}"))
        return found


# Keys of `sampling` that one method alone reads.
METHOD_KEYS = {"exponential": ("order", "corrector", "eta"), "sscs": ("sscs_order",)}


@dataclass(frozen=True, kw_only=True)
class ElboSpec:
    velocities: int = key(1, "draws of the initial velocity for each datum", ge=1)
    probes: int = key(1, "probes of the trace for each draw", ge=1)
    probe: Literal["rademacher", "gaussian"] = key("rademacher", "law of the probes")
    eps: float = key(1e-5, "time at which the flow starts", gt=0, lt=1)
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    samples: int = key(2000, "samples to draw; for toy data also the test points of the ELBO", ge=2)
    batch_size: int = key(2048, "samples or data computed at once", ge=1)
    seed: int = key(0, "key of every random draw of an evaluation", ge=0)
    elbo: ElboSpec = field(default_factory=ElboSpec)


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    nodes: int = key(1, "machines", ge=1)
    gpus_per_node: int = key(0, "GPUs of a machine; 0: CPU only", ge=0)
    tasks_per_node: int | None = key(None, "ranks of a machine; null: one a GPU, at least one", ge=1)
    partition: str | None = key(None, "Slurm partition")
    time_min: int | None = key(None, "time limit of one job in minutes; null: the cluster's own", ge=1)

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


SdeSpec = CldSpec | VpsdeSpec
NetworkSpec = MlpSpec | ResnetSpec
DataSpec = ToyDataSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment, complete: what `recipe.yaml` of a run folder holds."""

    name: str = key("run", "name of the recipe, the first part of a run's default name")
    data: DataSpec = field(default_factory=ToyDataSpec)
    sde: SdeSpec = field(default_factory=CldSpec)
    network: NetworkSpec = field(default_factory=MlpSpec)
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    eval: EvalSpec = field(default_factory=EvalSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, in the order of the fields."""
        return asdict(self)

    def model_digest(self) -> str:
        """Digest of what a checkpoint's tensors depend on; a run cannot change it and stay the same run."""
        objective = {"name": self.objective.name, "mixed_score": self.objective.mixed_score}
        parts = {"data": self.data.name, "sde": asdict(self.sde), "network": asdict(self.network)}
        text = json.dumps({**parts, "objective": objective, "optim": self.optim.name}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def problems(self) -> list[tuple[str, str]]:
        """Pairs of keys that do not go together, as (key, what is wrong and the fix)."""
        train, world = self.train, self.cluster.world_size
        found = []
        if self.sde.name == "vpsde" and self.objective.name == "hsm":
            text = "cannot be hsm with sde.name=vpsde, which has no velocity to marginalise. Set objective.name=dsm."
            found.append(("objective.name", text))
        if self.sde.name == "vpsde" and self.sampling.method == "sscs":
            text = "cannot be sscs with sde.name=vpsde, which has no velocity to split off. Set sampling.method=em."
            found.append(("sampling.method", text))
        found += [(f"sampling.{name}", text) for name, text in self.sampling.problems()]
        if self.data.name not in TOY_DATA and self.data.plugin is None:
            close = difflib.get_close_matches(self.data.name, TOY_DATA, n=1)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            text = f"cannot be {self.data.name!r}; expected one of {', '.join(TOY_DATA)}, or set data.plugin.{guess}"
            found.append(("data.name", text))
        if train.batch_size < world:
            text = (
                f"is {train.batch_size}, less than one example for each of {world} ranks. Raise it or use fewer ranks."
            )
            found.append(("train.batch_size", text))
        if train.micro_batch is not None and train.micro_batch > train.batch_size:
            text = f"is {train.micro_batch}, more than train.batch_size={train.batch_size}. Lower it or set it to null."
            found.append(("train.micro_batch", text))
        return found
