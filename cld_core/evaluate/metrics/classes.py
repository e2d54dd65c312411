"""Fréchet distance, precision and recall within each class, of samples against training images of the same class."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.errors import UsageError
from cld_core.evaluate.definitions import Metric, Quantity

from .common import SAME_REFERENCE, both_features, remark, sampler
from .fid import frechet_of
from .prc import precision_and_recall

if TYPE_CHECKING:
    import numpy as np

    from cld_core.evaluate.joined import Joined

# Of fewer, a Fréchet distance says nothing.
_LEAST = 10
_MEANS = ("fid", "precision", "recall")


def _section(joined: "Joined") -> dict[str, Any]:
    import numpy as np

    model, reference = joined.model, joined.reference
    assert model.classes is not None, "only class-conditional models are asked"
    assert reference.labels is not None, "only statistics with labels are asked"
    if reference.classes != model.classes.names:
        text = "has statistics of other classes than those of the model. Compute them with"
        raise UsageError(f"{joined.request.files['stats']} {text} `cldctl data stats RECIPE|RUN --features`.")
    ours, theirs = both_features(joined)
    label = np.array(model.classes.drawn(0, len(ours)))
    spec = joined.request.prc
    by_class = {}
    for number, name in enumerate(model.classes.names):
        parts = ours[label == number].numpy(), theirs[reference.labels == number].numpy()
        if min(map(len, parts)) > spec.neighbours and len(parts[0]) >= _LEAST:
            by_class[name] = _one(*parts, spec.neighbours)
    if not by_class:
        few = f"no class has {max(_LEAST, spec.neighbours + 1)} samples and more than {spec.neighbours} images"
        raise UsageError(f"--classes: {few}. Draw more samples.")
    means = {name: float(np.mean([values[name] for values in by_class.values()])) for name in _MEANS}
    about = {"neighbours": asdict(spec)["neighbours"], **joined.about_samples(), **joined.about_reference()}
    return {**means, "classes": by_class, "left_out": len(model.classes.names) - len(by_class), **about}


def _remark(section: Mapping[str, Any]) -> str | None:
    """In words: how many classes are not part of the means, and how many samples are not finite."""
    left_out = section.get("left_out", 0)
    number = left_out + len(section["classes"])
    small = f"{left_out} of {number} classes have too few samples or images, and are left out of the means"
    texts = [small if left_out else None, remark(section)]
    return "; ".join(text for text in texts if text is not None) or None


def _one(ours: "np.ndarray", theirs: "np.ndarray", neighbours: int) -> dict[str, Any]:
    import torch

    precision, recall, _ = precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), neighbours)
    value = frechet_of(ours, theirs)
    return {"fid": value, "precision": precision, "recall": recall, "samples": len(ours), "images": len(theirs)}


CLASSES = Metric(
    name="classes",
    help="FID, precision and recall of each class.",
    rows="features",
    reads=("features",),
    reference="classes",
    needs_labels=True,
    depends=("prc",),
    same=(*SAME_REFERENCE, "prc.neighbours"),
    quantities=(
        Quantity(key="class_fid", field="fid", label="FID in a class"),
        Quantity(key="class_precision", field="precision", label="precision in a class", larger_is_better=True),
        Quantity(key="class_recall", field="recall", label="recall in a class", larger_is_better=True),
    ),
    section=_section,
    how=sampler,
    remark=_remark,
)
