"""The `objective` section: what the network is trained on."""

from dataclasses import dataclass
from typing import Literal

from .keys import key


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    name: Literal["hsm", "dsm"] = key("hsm", "hybrid or denoising score matching")
    weighting: Literal["reweightedv2", "reweightedv1", "likelihood"] = key(
        "reweightedv2", "weight of each t in the loss"
    )
    mixed_score: bool = key(
        False, "add the score of a unit Gaussian to the network's; for PSLD that of data of variance 0.25"
    )
    loss_eps: float = key(1e-5, "smallest t that is trained on", gt=0, lt=1)
    times: Literal["uniform", "log", "importance"] = key(
        "uniform",
        "how t is drawn: uniformly; uniformly in log t, which weights each t by 1/t; or by importance sampling for the "
        "weighting, which does not change the weights",
    )
    precondition: Literal["none", "data"] = key(
        "none",
        "data: scale inputs and outputs of the network as for Gaussian data, so that it learns only the rest",
    )
    data_std: float = key(0.5, "standard deviation of these Gaussian data", gt=0, le=1000)
    label_dropout: float = key(
        0.1,
        "share of the training examples whose label is hidden, for guidance; only with data.labels",
        ge=0,
        lt=1,
    )
