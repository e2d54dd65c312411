"""What a recipe may say: frozen dataclasses, one a section, each field with its unit and its bounds.

Nothing here imports torch: the command line reads recipes and must answer at once.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cld_core.errors import did_you_mean

from .eval_spec import EvalSpec
from .image_spec import IMAGE_DATA, ImageDataSpec, image_problems
from .keys import key, under
from .ncsnpp_spec import NcsnppSpec
from .sampling_spec import SamplingSpec

# Data sets that ship with the project. `data.plugin` adds others.
TOY_DATA = ("multimodal_swissroll", "diamond", "gaussian")


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
    impl: Literal["auto", "fused", "apex", "plain"] = key(
        "auto", "whose kernels: torch's fused ones (auto: where there are any), NVIDIA apex's, or plain ones"
    )
    lr: float = key(1e-3, "learning rate after the warm-up", gt=0)
    weight_decay: float = key(0.0, "decay per unit of rate", ge=0)
    beta1: float = key(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = key(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = key(1e-8, "added to the root of the second moment", gt=0)
    warmup_steps: int = key(0, "steps over which the rate rises linearly from 0", ge=0)
    grad_clip: float | None = key(1.0, "largest norm of the gradient; null: no clipping", gt=0)
    max_grad_growth: float | None = key(
        None, "gradient norm, in units of its running mean, that is an explosion and never stepped on; null: none", gt=1
    )


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    steps: int = key(800_000, "optimiser steps in all", ge=1)
    batch_size: int = key(512, "examples a step, all ranks together", ge=1)
    micro_batch: int | None = key(None, "examples a rank takes at once; null: its whole share", ge=1)
    seed: int = key(0, "key of every random draw", ge=0)
    on_resume: Literal["reseed", "exact"] = key("reseed", "fresh noise after a restart, or the same")
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "type that the network computes in")
    tf32: bool = key(True, "let GPUs round the factors of float32 products to 10 bits")
    compile: bool = key(False, "torch.compile the network")
    channels_last: bool = key(False, "keep images with their channels innermost, which tensor cores like")
    bucket_mb: int = key(25, "MiB of gradients that ranks exchange at once", ge=1)
    ema: float = key(0.999, "decay of the average of the weights", ge=0, lt=1)
    log_every: int = key(100, "steps between two lines of progress", ge=1)
    checkpoint_every: int = key(10_000, "steps between two checkpoints", ge=1)
    keep: int = key(3, "newest checkpoints that are kept", ge=1)
    milestone_every: int | None = key(None, "steps between two checkpoints kept for good, beside the others", ge=1)
    milestone_from: int = key(0, "first step from which milestones are kept", ge=0)
    max_rollbacks: int = key(3, "times that one checkpoint is gone back to after a non-finite loss", ge=0)
    max_retries: int = key(3, "crashes in a row, without a new checkpoint, after which a run is given up", ge=0)
    hang_timeout_s: float = key(600.0, "seconds without a step after which a rank gives up", gt=0)

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        every = self.milestone_every
        return every is not None and step >= self.milestone_from and step % every == 0


@dataclass(frozen=True, kw_only=True)
class PeriodicSpec:
    samples_every: int | None = key(None, "steps between two pictures of samples; null: none", ge=1)
    samples_from: int = key(0, "first step from which samples are drawn", ge=0)
    samples: int = key(64, "samples of a picture", ge=1)
    elbo_every: int | None = key(None, "steps between two likelihood bounds; null: none", ge=1)
    elbo_from: int = key(0, "first step from which the bound is computed", ge=0)
    elbo_points: int = key(512, "test data of a bound", ge=1)
    fid_every: int | None = key(None, "steps between two FIDs; null: none", ge=1)
    fid_from: int = key(0, "first step from which FID is computed", ge=0)
    fid_samples: int = key(10_000, "samples of an FID; few make it larger", ge=2)
    batch_size: int = key(64, "samples or data that a rank computes at once", ge=1)

    def wants_samples(self, step: int) -> bool:
        return self.samples_every is not None and step >= self.samples_from and step % self.samples_every == 0

    def wants_elbo(self, step: int) -> bool:
        return self.elbo_every is not None and step >= self.elbo_from and step % self.elbo_every == 0

    def wants_fid(self, step: int) -> bool:
        return self.fid_every is not None and step >= self.fid_from and step % self.fid_every == 0


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    nodes: int = key(1, "machines", ge=1)
    gpus_per_node: int = key(0, "GPUs of a machine; 0: CPU only", ge=0)
    tasks_per_node: int | None = key(None, "ranks of a machine; null: one a GPU, at least one", ge=1)
    time_min: int | None = key(None, "time limit of one job in minutes; null: the cluster's own", ge=1)
    partition: str | None = key(None, "Slurm partition")
    account: str | None = key(None, "Slurm account")
    qos: str | None = key(None, "Slurm quality of service")
    mem_gb: float | None = key(None, "memory of a node in GB", gt=0)
    cpus_per_task: int | None = key(None, "CPU cores of a rank", ge=1)
    gres: str | None = key(None, "generic resources in the place of gpus_per_node, as gpu:a100:8")
    constraint: str | None = key(None, "features that nodes must have")
    exclude: str | None = key(None, "nodes to stay away from")
    setup: tuple[str, ...] = key((), "shell lines before the job, as module load cuda")
    sbatch_args: tuple[str, ...] = key((), "further options of sbatch, as --mail-type=END")
    srun_args: tuple[str, ...] = key((), "further options of srun, as --cpu-bind=cores")
    container: str | None = key(None, "command in front of python, as apptainer exec --nv image.sif")
    signal_s: int | None = key(None, "seconds before the limit to stop and save; null: from measured saves", ge=5)
    successor: bool = key(False, "chain a next job, where preemption cancels jobs instead of requeueing them")

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def uses_gpu(self) -> bool:
        """Whether GPUs are asked for; where none are, ranks stay off those that a machine happens to have."""
        others = (self.gres or "", *self.sbatch_args, *self.srun_args)
        return self.gpus_per_node > 0 or any("gpu" in text for text in others)

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


SdeSpec = CldSpec | VpsdeSpec
NetworkSpec = MlpSpec | ResnetSpec | NcsnppSpec
DataSpec = ToyDataSpec | ImageDataSpec


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
    periodic: PeriodicSpec = field(default_factory=PeriodicSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    eval: EvalSpec = field(default_factory=EvalSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)

    def anchored(self, folder: Path) -> "Recipe":
        """The recipe with the paths of data, weights and statistics, where relative, taken from ``folder``."""
        recipe = self
        if isinstance(self.data, ImageDataSpec):
            recipe = replace(recipe, data=replace(self.data, path=under(folder, self.data.path)))
        fid = self.eval.fid.anchored(folder)
        return recipe if fid == self.eval.fid else replace(recipe, eval=replace(self.eval, fid=fid))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, in the order of the fields."""
        return asdict(self)

    def model_digest(self) -> str:
        """Digest of what a checkpoint's tensors depend on; a run cannot change it and stay the same run."""
        objective = {"name": self.objective.name, "mixed_score": self.objective.mixed_score}
        parts = {"data": self.data.name, "sde": asdict(self.sde), "network": asdict(self.network)}
        text = json.dumps({**parts, "objective": objective, "optim": self.optim.name}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def problems(self) -> list[tuple[str, str, str]]:
        """Pairs of keys that do not go together, as (key, the other key, what is wrong with the first and the fix)."""
        train, world = self.train, self.cluster.world_size
        found = []
        if self.sde.beta0 == self.sde.beta1 == 0:
            found.append(("sde.beta0", "sde.beta1", "is 0 and so is sde.beta1: nothing would be diffused. Raise one."))
        if self.sde.name == "vpsde" and self.objective.name == "hsm":
            text = "cannot be hsm with sde.name=vpsde, which has no velocity to marginalise. Set objective.name=dsm."
            found.append(("objective.name", "sde.name", text))
        if self.sde.name == "vpsde" and self.sampling.method == "sscs":
            text = "cannot be sscs with sde.name=vpsde, which has no velocity to split off. Set sampling.method=em."
            found.append(("sampling.method", "sde.name", text))
        found += [(f"sampling.{name}", f"sampling.{other}", text) for name, other, text in self.sampling.problems()]
        if isinstance(self.data, ToyDataSpec) and self.data.name not in TOY_DATA and self.data.plugin is None:
            names = (*TOY_DATA, *IMAGE_DATA)
            guess = did_you_mean(self.data.name, names)
            text = f"cannot be {self.data.name!r}; expected one of {', '.join(names)}, or set data.plugin.{guess}"
            found.append(("data.name", "data.plugin", text))
        found += image_problems(self)
        if train.batch_size < world:
            text = (
                f"is {train.batch_size}, less than one example for each of {world} ranks. Raise it or use fewer ranks."
            )
            found.append(("train.batch_size", "cluster.tasks_per_node", text))
        if train.micro_batch is not None and train.micro_batch > train.batch_size:
            text = f"is {train.micro_batch}, more than train.batch_size={train.batch_size}. Lower it or set it to null."
            found.append(("train.micro_batch", "train.batch_size", text))
        return found
