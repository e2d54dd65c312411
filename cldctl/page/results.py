"""The numbers of finished evaluations, for pages and model cards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cld_core.errors import CldError
from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.recipe.ema import EmaSpec
from cld_core.run import RunFolder
from cldctl.evals.compare import Result, results_of
from cldctl.show.evaluations import result_text

from .document import table


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number of an evaluation.

    Attributes:
        truth: the true entropy beside it, if that is known.
        ema_length: the relative length of the average of the weights; None for that of `train.ema`.
    """

    evaluation: str
    step: int
    quantity: Quantity
    result: Result
    truth: float | None = None
    ema_length: float | None = None

    @property
    def size(self) -> int:
        """How many samples or points it is of; 0 if nobody knows."""
        return next(iter(self.result.counts.values()), 0)

    @property
    def of(self) -> str:
        return next((f"{size:,} {name}" for name, size in self.result.counts.items()), "")

    @property
    def average(self) -> str:
        return EmaSpec(length=self.ema_length).words

    @property
    def nfe(self) -> str:
        return "" if self.result.nfe is None else f"{self.result.nfe:,.0f}"

    @property
    def text(self) -> str:
        return result_text(self.quantity, self.result.number.value, self.result.number.stderr)


def findings_of(run: RunFolder) -> list[Finding]:
    """The numbers of all finished evaluations, by step; none if the recipe cannot be read."""
    try:
        data = run.recipe().data.name
    except (CldError, OSError):
        return []
    found = []
    for work in evaluations_of(run):
        if (report := work.report) is None:
            continue
        about = {"evaluation": work.name, "step": report["checkpoint_step"], "ema_length": work.request.ema.length}
        for key, result in results_of(work, report, data).items():
            truth = (report.get("elbo") or {}).get("true_entropy") if key == "nll" else None
            found.append(Finding(**about, quantity=registry.quantity(key), result=result, truth=truth))
    return sorted(found, key=lambda it: (it.step, it.evaluation))


def best_of(findings: Sequence[Finding]) -> list[Finding]:
    """The best finite value of each quantity, of those that are of the most samples or points."""
    finite = [it for it in findings if math.isfinite(it.result.number.value) and not it.quantity.is_reference]
    best = []
    for _, quantity in registry.quantities():
        own = [it for it in finite if it.quantity.key == quantity.key]
        largest = [it for it in own if it.size == max(other.size for other in own)]
        sign = -1 if quantity.larger_is_better else 1
        best += sorted(largest, key=lambda it: sign * it.result.number.value)[:1]
    return best


def cells_of(finding: Finding) -> dict[str, str]:
    """A finding in a row of a table."""
    truth = "" if finding.truth is None else f" (true entropy {finding.truth:.{finding.quantity.digits}f})"
    return {
        "step": f"{finding.step:,}",
        "number": finding.quantity.label,
        "value": finding.text + truth,
        "of": finding.of or "-",
        "network evaluations": finding.nfe or "-",
        "settings": finding.result.how,
    }


def results_table(findings: Sequence[Finding]) -> Markup:
    """All numbers, by step; empty if there is none."""
    rows = [{"evaluation": it.evaluation, **cells_of(it)} for it in findings]
    columns = {heading: [row[heading] for row in rows] for heading in rows[0]} if rows else {}
    return table("Evaluations, by step", columns) if rows else Markup()
