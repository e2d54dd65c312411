"""Features of samples, and what is made of them: FID, KID, Inception Score, precision and recall.

One pass draws the samples and looks at them for all metrics that are asked for. All formulas are torch-fidelity's.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cld_core.data.images import to_pixels
from cld_core.model import Model

from . import extractors, inputs, statistics
from .moments import Moments
from .request import EvalRequest
from .shard_files import Arrays
from .statistics import Reference


def prepare(model: Model, request: EvalRequest) -> None:
    """Find out before the first sample is drawn whether extractor and statistics are what they were.

    Raises:
        UsageError: they are gone or have changed.
    """
    extractors.load(request.fid, request.files, model.device, "isc" in request.metrics)
    if request.fid["stats"] is not None:
        _check_stats(request)


def compute(model: Model, request: EvalRequest, first: int, last: int) -> Arrays:
    """Rows of the samples ``first <= i < last``: ``nfe``, ``features`` (last - first, D), ``scores`` where needed."""
    drawn = model.draw(last - first, seed=request.seed, first=first)
    extractor = extractors.load(request.fid, request.files, model.device, "isc" in request.metrics)
    found = extractor(to_pixels(drawn.x, floor=request.fid["quantisation"] == "floor"))
    if not {"fid", "kid", "prc"} & {*request.metrics}:
        del found["features"]
    return {"nfe": drawn.nfe_each.double().cpu().numpy(), **found}


def condense(request: EvalRequest, rows: Arrays) -> Arrays:
    """What a shard keeps: for FID alone the moments of the features, which are all that it needs."""
    if "features" not in rows or {"kid", "prc"} & {*request.metrics}:
        return rows
    others = {name: values for name, values in rows.items() if name != "features"}
    return {**others, **Moments.of(rows["features"]).arrays()}


def join(parts: Iterable[Arrays]) -> Arrays:
    """All shards together: rows one after another, moments merged."""
    kept: list[Arrays] = []

    def moments() -> Iterator[Moments]:
        """Those of the parts that have some, one at a time: each may be 32 MiB."""
        for part in parts:
            kept.append({name: part[name] for name in ("nfe", "features", "scores") if name in part})
            if "scatter" in part:
                yield Moments.from_arrays(part)

    found = list(itertools.islice(stream := moments(), 1))
    merged = Moments.merged(itertools.chain(found, stream)).arrays() if found else {}
    joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return {**joined, **merged}


def summary(request: EvalRequest, arrays: Arrays) -> dict[str, dict[str, Any]]:
    """Results by metric, each with what it was made from.

    Raises:
        UsageError: the statistics are gone or have changed.
    """
    common: dict[str, Any] = {"samples": len(arrays["nfe"]), "nfe_mean": float(arrays["nfe"].mean())}
    common |= {name: request.fid[name] for name in ("extractor", "layer", "quantisation")}
    sha256 = request.fid["weights"]
    common["weights"] = {"file": request.files.get("weights"), "sha256": sha256}
    common["weights"]["published"] = inputs.is_published(sha256)
    reference = None
    if request.fid["stats"] is not None:
        reference = statistics.read(_check_stats(request), features=bool({"kid", "prc"} & {*request.metrics}))
        described = {"images": reference.images, "layout": reference.layout, "identity": request.fid["stats"]}
        common["stats"] = {"file": request.files["stats"], **described}
    found = {metric: _METRICS[metric](request, arrays, reference) for metric in request.metrics if metric in _METRICS}
    report = {metric: {**values, **common} for metric, values in found.items()}
    if "isc" in report:
        report["isc"]["layer"] = extractors.score_layer(request.fid["extractor"], request.files.get("plugin"))
        report["isc"].pop("stats", None)
    return report


def frechet(moments: Moments, reference: Reference) -> float:
    """The Fréchet distance between samples and training set (torch-fidelity's formula, in float64)."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    ours = {"mu": moments.mean, "sigma": moments.covariance}
    theirs = {"mu": reference.mu, "sigma": reference.sigma}
    return float(fid_statistics_to_metric(ours, theirs, verbose=False)[KEY_METRIC_FID])


def _fid(request: EvalRequest, arrays: Arrays, reference: Reference | None) -> dict[str, Any]:
    assert reference is not None, "FID compares with statistics"
    moments = Moments.from_arrays(arrays) if "scatter" in arrays else Moments.of(arrays["features"])
    return {"value": frechet(moments, reference)}


def _kid(request: EvalRequest, arrays: Arrays, reference: Reference | None) -> dict[str, Any]:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    ours, theirs = _both(arrays, reference)
    settings = {"kid_subsets": request.kid["subsets"], "kid_subset_size": request.kid["subset_size"]}
    found = kid_features_to_metric(ours, theirs, verbose=False, **settings)
    return {"value": found[KEY_METRIC_KID_MEAN], "std": found[KEY_METRIC_KID_STD], **request.kid}


def _isc(request: EvalRequest, arrays: Arrays, reference: Reference | None) -> dict[str, Any]:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    found = isc_features_to_metric(torch.from_numpy(arrays["scores"]), splits=request.isc["splits"])
    return {"value": found[KEY_METRIC_ISC_MEAN], "std": found[KEY_METRIC_ISC_STD], **request.isc}


def _prc(request: EvalRequest, arrays: Arrays, reference: Reference | None) -> dict[str, Any]:
    from torch_fidelity.metric_prc import KEY_METRIC_F_SCORE, KEY_METRIC_PRECISION, KEY_METRIC_RECALL
    from torch_fidelity.metric_prc import prc_features_to_metric as to_metric

    ours, theirs = _both(arrays, reference)
    # Not the form that holds all distances at once, which are 10 GB for 50,000 samples.
    found = to_metric(ours, theirs, prc_neighborhood=request.prc["neighbours"], save_cpu_ram=True, verbose=False)
    keys = {"precision": KEY_METRIC_PRECISION, "recall": KEY_METRIC_RECALL, "f_score": KEY_METRIC_F_SCORE}
    return {**{name: found[key] for name, key in keys.items()}, **request.prc}


_METRICS = {"fid": _fid, "kid": _kid, "isc": _isc, "prc": _prc}


def _both(arrays: Arrays, reference: Reference | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert reference is not None, "it compares with features of the training set"
    assert reference.features is not None, "checked when the evaluation was asked for"
    return torch.from_numpy(arrays["features"]), torch.from_numpy(reference.features.astype(np.float32, copy=False))


def _check_stats(request: EvalRequest) -> Path:
    return statistics.unchanged(Path(str(request.files["stats"])), request.fid["stats"])
