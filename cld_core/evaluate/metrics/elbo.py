"""The likelihood bound: mean and standard error over test points, in nats or in bits/dim of an image's pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined
    from cld_core.evaluate.request import EvalRequest


@dataclass(frozen=True)
class Unit:
    """How a negative log-density in nats is reported: ``scale`` nats + ``offset``, under the key ``key``."""

    name: str
    key: str
    scale: float = 1.0
    offset: float = 0.0

    def of(self, nats: float) -> float:
        return self.scale * float(nats) + self.offset


def section(joined: "Joined") -> dict[str, Any]:
    """The bound and its estimators; for toy data also the distance to the truth."""
    from cld_core.evaluate.moments import standard_error

    model, arrays, spec = joined.model, joined.arrays, joined.request.elbo
    unit = Unit("bits/dim", "bpd", *model.bits_of_nats) if model.is_image else Unit("nats", "nll")
    report = {
        "unit": unit.name,
        unit.key: unit.of(-arrays["elbo"].mean()),
        "stderr": standard_error(unit.scale * arrays["elbo"]),
        f"{unit.key}_paper_estimator": unit.of(-arrays["paper_elbo"].mean()),
        "stderr_paper_estimator": standard_error(unit.scale * arrays["paper_elbo"]),
        f"{unit.key}_importance": unit.of(-arrays["importance_bound"].mean()),
        "n": len(arrays["elbo"]),
        "eps": spec.eps,
        "nfe_mean": float(arrays["nfe"].mean()),
        "velocities": spec.velocities,
        "probes": spec.probes,
    }
    asked = joined.request.elbo_eps_asked
    if model.classes is not None:
        # Of log p(x | label), each test point given its own label.
        report["conditional"] = True
    return report | ({} if asked is None else {"eps_asked": asked}) | _against_truth(joined)


def _against_truth(joined: "Joined") -> dict[str, Any]:
    """How far the bound is from the true density, given the label if there are classes, if that is known."""
    import numpy as np

    from cld_core.data.source import labelled
    from cld_core.evaluate.moments import standard_error

    source, bound = joined.model.source, joined.arrays["elbo"]
    density, known, classes = source.density, {}, joined.model.classes
    if density is not None and density.log_density is not None:
        # The same examples on both sides, so that their scatter cancels.
        seed, n = joined.request.seed, len(bound)
        truth = density.log_density(source.dequantised_test_data(seed, 0, n)).numpy()
        if classes is not None:
            # A toy's label is a function of the point: p(x | label) = p(x)/p(label).
            truth = truth - np.log(classes.shares)[labelled(source).test_labels(seed, 0, n).numpy()]
        known = {"gap": float((truth - bound).mean()), "gap_stderr": standard_error(truth - bound)}
    if density is not None and density.entropy is not None:
        known["true_entropy"] = density.entropy() - (0.0 if classes is None else classes.entropy)
    return known


def _how(request: "EvalRequest") -> str:
    spec = request.elbo
    return f"velocities {spec.velocities}, probes {spec.probes}, from t = {spec.eps:g}"


def _remark(section: Mapping[str, Any]) -> str | None:
    texts = []
    if section.get("conditional"):
        texts.append("the bound is of log p(x | label), each test point given its label")
    if "eps_asked" in section:
        start = f"the bound starts at t = {section['eps']:g}"
        texts.append(f"{start}, because training used no smaller t (objective.loss_eps)")
    return "; ".join(texts) or None


ELBO = Metric(
    name="elbo",
    help="Upper bound of the negative log-likelihood.",
    rows="elbo",
    same=("points", "seed", "elbo.eps"),
    quantities=(
        Quantity(key="bpd", field="bpd", label="bits/dim", stderr="stderr"),
        Quantity(key="nll", field="nll", label="NLL bound, nats", stderr="stderr"),
    ),
    section=section,
    how=_how,
    remark=_remark,
)
