"""What metrics of the features of samples share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cld_core.evaluate import nonfinite

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cld_core.evaluate.joined import Joined
    from cld_core.evaluate.request import EvalRequest

# What makes two results answers to the same question.
SAME_FEATURES = ("samples", "fid.extractor", "fid.layer", "fid.weights", "fid.quantisation")
SAME_REFERENCE = (*SAME_FEATURES, "fid.stats")


def sampler(request: "EvalRequest") -> str:
    """In words: how samples were drawn."""
    spec = request.sampling
    return spec.method if spec.precision == "fp32" else f"{spec.method} in {spec.precision}"


def remark(section: Mapping[str, Any]) -> str | None:
    """In words: how many samples are not finite."""
    return nonfinite.remark(section.get("nonfinite", 0), section.get("samples", 0))


def finite(joined: "Joined") -> "np.ndarray":
    """The vectors (m, d) among the samples that are finite."""
    rows: np.ndarray = joined.arrays["x"][~joined.arrays["nonfinite"]]
    return rows


def about_drawn(joined: "Joined") -> dict[str, Any]:
    """What a section says about samples of which no features are taken."""
    nfe, bad = joined.arrays["nfe"], joined.arrays["nonfinite"]
    return {"samples": len(nfe), "nonfinite": int(bad.sum()), "nfe_mean": float(nfe.mean())}


def both_features(joined: "Joined") -> "tuple[Tensor, Tensor]":
    """Features (n, D) of samples and (m, D) of training images."""
    import numpy as np
    import torch

    theirs = joined.reference.features
    assert theirs is not None, "checked when the evaluation was asked for"
    return torch.from_numpy(joined.arrays["features"]), torch.from_numpy(theirs.astype(np.float32, copy=False))
