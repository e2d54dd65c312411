"""The `optim` section: the optimiser and its learning rate."""

from dataclasses import dataclass
from typing import Literal

from .keys import key


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    name: Literal["adam", "adamw", "adamax"] = key("adam", "optimiser")
    impl: Literal["auto", "fused", "apex", "plain"] = key(
        "auto", "implementation: fused kernels of torch (auto: if it has any), those of NVIDIA apex, or plain ones"
    )
    lr: float = key(1e-3, "learning rate after the warm-up and before any decay", gt=0)
    weight_decay: float = key(0.0, "decay per unit of learning rate", ge=0)
    beta1: float = key(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = key(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = key(1e-8, "added to the square root of the second moment", gt=0)
    warmup_steps: int = key(0, "steps over which the learning rate rises linearly from 0", ge=0)
    decay: Literal["none", "linear", "cosine"] = key(
        "none", "how the learning rate falls to 0 at train.steps: not at all, linearly, or as half a cosine"
    )
    grad_clip: float | None = key(1.0, "largest norm of the gradient; null: no clipping", gt=0)
    max_grad_growth: float | None = key(
        None, "gradient norm, in units of its running mean, above which a step is never taken; null: no limit", gt=1
    )
