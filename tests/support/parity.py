"""The published implementation's numbers (tests/fixtures/parity), and objects to compare."""

import json
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cld_core import nets
from cld_core.config.network import MlpSpec, ResnetSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.score import Score
from cld_core.sde import CLD, PSLD, VPSDE, Diffusion
from tests.support.paths import FIXTURES

FOLDER = FIXTURES / "parity"
TOYS = ("mlp_cld", "mlp_cld_mixed", "resnet_cld_mixed", "mlp_vpsde")
PSLD_TOYS = ("big_gamma", "cifar10")


def arrays(name):
    """All arrays of NAME.npz, and its settings."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if k != "meta"}, json.loads(
            str(file["meta"])
        )


@dataclass(frozen=True)
class Toy:
    data: dict[str, Tensor]
    sde: Diffusion
    objective: ObjectiveSpec
    net: torch.nn.Module

    def score(self, **changes):
        return Score(self.sde, replace(self.objective, **changes), self.net)


def load(name):
    data, meta = arrays(f"toy_{name}")
    sde = VPSDE(beta0=meta["beta0"], beta1=meta["beta1"])
    if meta["sde"] == "cld":
        sde = CLD(**{k: meta[k] for k in ("beta0", "beta1", "m_inv", "gamma", "numerical_eps")})
    spec = MlpSpec() if meta["network"] == "mlp" else ResnetSpec()
    objective = ObjectiveSpec(name=meta["cld_objective"], mixed_score=meta["mixed_score"])
    return _toy(data, sde, objective, spec)


def psld(settings):
    """The diffusion of the settings of PSLD's published code."""
    return PSLD(
        beta0=settings["beta_min"],
        beta1=settings["beta_max"] - settings["beta_min"],
        friction=settings["gamma"],
        triangle=settings["decomp_mode"],
        **{name: settings[name] for name in ("nu", "kappa", "numerical_eps")},
    )


def load_psld(name):
    data, meta = arrays(f"psld_toy_{name}")
    spec = MlpSpec(width=meta["width"], layers=meta["layers"])
    return _toy(data, psld(meta["sde"]), ObjectiveSpec(name="hsm"), spec)


def _toy(data, sde, objective, spec):
    """With a network of the stored weights."""
    net = nets.build(spec, data_shape=(2,), halves_in=sde.n, halves_out=sde.m)
    prefix = "state/"
    net.load_state_dict(
        {name.removeprefix(prefix): it for name, it in data.items() if name.startswith(prefix)}
    )
    return Toy(data, sde, objective, net)


class InjectedNoise:
    """A given draw of the prior, then zeros."""

    def __init__(self, prior):
        self.prior = prior
        self._first = True

    def normal(self, shape):
        if self._first:
            self._first = False
            return self.prior
        return torch.zeros(len(self.prior), *shape)
