"""The text of a model card: what a model is, how to use it, how good it is, how it was made, and what is not known.

It is Markdown with a head in YAML, as Hugging Face reads it. All facts are from the run's folder; whose machines they
were, and the commands of hooks, are not part of it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cld_core.evaluation import registry
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.recipe import Recipe
from cld_core.recipe.ema import EmaSpec
from cld_core.run import RunFolder
from cld_core.texts import fenced, one_line
from cldctl.evals.compare import Result, results_of
from cldctl.runs.status import RunStatus
from cldctl.show.format import count, number
from cldctl.show.tables import result_text
from cldctl.show.usage import usage_line

from . import card_recipe, card_sources
from .markdown import escaped, picture, table

# What follows `library_name` in the head of every card.
LIBRARY = "cldctl"
# Published FIDs are of so many samples; of fewer, the value is larger.
_FID_SAMPLES = 50_000
# How many of what a result is of, by the key of the question.
_OF = {"samples": "samples", "points": "points"}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is about, beside what the run's folder tells.

    Attributes:
        step: the optimiser step of the weights.
        parameters: how many numbers were trained.
        shape: of one example, (C, ...).
        is_image: whether examples are images.
        weights: the name of their file.
        picture: the name of the file with samples, beside the card; None without one.
        license: the identifier of the licence of the weights, as Hugging Face lists them.
        ema_length: the relative length of the average of the weights; None for that of `train.ema`.
    """

    step: int
    parameters: int
    shape: tuple[int, ...]
    is_image: bool
    weights: str
    picture: str | None
    license: str = "unknown"
    ema_length: float | None = None


@dataclass(frozen=True)
class Finding:
    """One number of a finished evaluation."""

    step: int
    key: str
    result: Result
    truth: float | None = None
    ema_length: float | None = None

    def is_of(self, about: Subject) -> bool:
        """Whether it is a number of the weights that a card is about."""
        return (self.step, self.ema_length) == (about.step, about.ema_length)

    @property
    def label(self) -> str:
        return registry.quantity(self.key).label

    @property
    def count(self) -> str:
        """How many samples or points it is of."""
        question = self.result.question
        known = [f"{count(question[key])} {what}" for key, what in _OF.items() if isinstance(question.get(key), int)]
        return known[0] if known else "-"


def card(run: RunFolder, row: RunStatus, about: Subject) -> str:
    """The whole card; ``row`` is the status of the run."""
    recipe, findings = run.recipe(), findings_of(run, about)
    parts = [
        f"---\n{_head(run, recipe, about, findings)}---",
        f"# {escaped(run.name)}",
        _what(row, recipe, about),
        "## Use",
        _use(recipe, about),
        *(["## Samples", picture("Samples", about.picture)] if about.picture is not None else []),
        "## Evaluation",
        _evaluation(findings, about),
        "## Training data",
        _data(recipe, about),
        "## Training",
        table(["fact", "value"], _training(run, row, recipe, about)),
        "## Recipe",
        *card_recipe.section(run, recipe),
        "## Limits",
        "\n".join(f"- {text}" for text in _limits(row, recipe, about, findings)),
        "## Citation",
        fenced(card_sources.of(recipe.sde.name).bibtex.strip(), "bibtex"),
    ]
    return "\n\n".join(parts) + "\n"


def findings_of(run: RunFolder, about: Subject) -> list[Finding]:
    """The numbers of all finished evaluations: those of the weights of the card first, then by step."""
    found, data = [], run.recipe().data.name
    for work in evaluations_of(run):
        if (report := work.report) is None:
            continue
        elbo = report.get("elbo") or {}
        for key, result in results_of(work, report, data).items():
            truth = elbo.get("true_entropy") if key == "nll" else None
            found.append(Finding(report["checkpoint_step"], key, result, truth, work.request.ema.length))
    return sorted(found, key=lambda it: (not it.is_of(about), it.step))


def _head(run: RunFolder, recipe: Recipe, about: Subject, findings: Sequence[Finding]) -> str:
    tags = ["score-based-generative-model", "diffusion", "pytorch", recipe.sde.name, recipe.data.name]
    kind = "unconditional-image-generation" if about.is_image else "other"
    metrics = [
        {"type": one.key, "name": one.label, "value": one.result.number.value}
        for one in findings
        if one.is_of(about) and math.isfinite(one.result.number.value)
    ]
    dataset = {"name": one_line(recipe.data.name), "type": one_line(recipe.data.name)}
    results = [{"task": {"type": kind}, "dataset": dataset, "metrics": metrics}]
    head: dict[str, Any] = {
        "license": one_line(about.license),
        "library_name": LIBRARY,
        **({"pipeline_tag": kind} if about.is_image else {}),
        "tags": [one_line(tag) for tag in dict.fromkeys(tags)],
        **({"model-index": [{"name": one_line(run.name), "results": results}]} if metrics else {}),
    }
    text: str = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return text


def _what(row: RunStatus, recipe: Recipe, about: Subject) -> str:
    name = recipe.sde.name
    sde = card_sources.NAMES.get(name, f"diffusion {escaped(name)}")
    paper = card_sources.of(name).url
    size = " x ".join(map(str, about.shape))
    form = f"images of {size}" if about.is_image else f"points in {size} dimensions"
    objective = escaped(recipe.objective.name.upper())
    network = f"network {escaped(recipe.network.name)} with {about.parameters:,} parameters"
    text = (
        f"A generative model of {_data_name(recipe)} ({form}), based on {sde}: [the paper]({paper}). "
        f"Its score is the {network}, trained with {LIBRARY} and the objective {objective}. "
        f"The weights are {_average(about)} at step {about.step:,}."
    )
    return text if row.note is None else f"{text}\n\nNote of the authors: {escaped(row.note, 500)}"


def _average(about: Subject) -> str:
    if about.ema_length is None:
        return "the exponential moving average"
    return f"the power-function average of relative length {about.ema_length:g}"


def _weights(about: Subject) -> str:
    return ", ".join(filter(None, [f"step {about.step:,}", EmaSpec(length=about.ema_length).words]))


def _use(recipe: Recipe, about: Subject) -> str:
    where = json.dumps(about.weights)
    shape = ", ".join(map(str, (64, *about.shape)))
    span = ", in [-1, 1]" if about.is_image else ""
    code = f"import cld_core\n\nmodel = cld_core.load({where})\nx = model.sample(64)  # ({shape}){span}"
    sampler = ", ".join(f"{name}: {value}" for name, value in recipe.to_dict()["sampling"].items())
    return f"{fenced(code, 'python')}\n\nThe sampler, unless you pass another one to `sample`: {escaped(sampler)}."


def _evaluation(findings: Sequence[Finding], about: Subject) -> str:
    if not findings:
        return "No evaluation is finished."
    rows = []
    for one in findings:
        quantity, value = registry.quantity(one.key), one.result.number
        nfe = "-" if one.result.nfe is None else f"{one.result.nfe:.0f}"
        truth = "" if one.truth is None else f" (true entropy {one.truth:.{quantity.digits}f})"
        cells = (result_text(quantity, value.value, value.stderr) + truth, one.count, nfe, one.result.how)
        rows.append([f"{one.step:,}", one.label, *cells])
    notes = dict.fromkeys(one.result.remark for one in findings if one.result.remark)
    text = "Values are given ± one standard error where it is known."
    if not all(one.is_of(about) for one in findings):
        text += f" The weights of this card are those of {_weights(about)}."
    headings = ["step", "number", "value", "of", "network evaluations", "settings"]
    return "\n\n".join([text, table(headings, rows), *(f"Note: {escaped(note, 500)}." for note in notes)])


def _data_name(recipe: Recipe) -> str:
    """What the data are called: a folder of pictures has no name but its own."""
    if recipe.data.name != "folder":
        return escaped(recipe.data.name)
    return f"the folder of images {escaped(Path(getattr(recipe.data, 'path', 'data')).name)}"


def _data(recipe: Recipe, about: Subject) -> str:
    name, plugin = _data_name(recipe), getattr(recipe.data, "plugin", None)
    if about.is_image:
        flipped = ", mirrored at random" if getattr(recipe.data, "flip", False) else ""
        return f"The training part of {name}, {about.shape[-1]} x {about.shape[-2]} pixels{flipped}."
    if plugin is None:
        return f"The toy density {name}: training draws new examples from it for every batch."
    return f"The density {name}, defined by the plug-in {escaped(Path(plugin).name)}, which is not part of the weights."


def _training(run: RunFolder, row: RunStatus, recipe: Recipe, about: Subject) -> Iterator[tuple[str, str]]:
    yield "steps", f"{about.step:,} of {row.steps or recipe.train.steps:,}"
    yield "batch", f"{recipe.train.batch_size:,} examples"
    average = f"{recipe.train.ema:g}" if about.ema_length is None else f"of length {about.ema_length:g}"
    yield "optimiser", f"{recipe.optim.name}, rate {recipe.optim.lr:g}; average of weights {average}"
    yield "precision", recipe.train.precision
    yield "seed", str(recipe.train.seed)
    if row.loss is not None:
        yield "last loss", number(row.loss, 5)
    causes = Counter(entry["cause"] or "no recorded end" for entry in row.attempts)
    ends = ", ".join(f"{times} {cause}" for cause, times in causes.items())
    yield "attempts", f"{len(row.attempts)} ({ends})" if ends else "0"
    if row.usage is not None and row.usage["used"] > 0:
        yield "time used", usage_line(row.usage)
    attempts = run.ledger.history().attempts
    gpus = dict.fromkeys(f"{it.gpus or 1} x {it.gpu}" for it in attempts if it.gpu is not None)
    yield "hardware", ", ".join(gpus) or "CPUs"
    identity = run.identity()
    versions = next((it.versions for it in reversed(attempts) if it.versions), None) or identity.get("versions", {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"
    git = identity.get("git") or {}
    if "commit" in git:
        yield "commit", f"{str(git['commit'])[:12]}{', with changes' if git.get('dirty') else ''}"


def _limits(row: RunStatus, recipe: Recipe, about: Subject, findings: Sequence[Finding]) -> Iterator[str]:
    own = [one for one in findings if one.is_of(about)]
    yield f"It imitates {_data_name(recipe)} and nothing else. It takes no text, label or other condition."
    if about.step < (steps := row.steps or recipe.train.steps):
        yield f"Training is not complete: {about.step:,} of {steps:,} steps are done."
    if not own:
        yield "These weights have not been evaluated."
    else:
        yield "Numbers hold for the settings beside them: other samplers, or fewer network evaluations, change them."
    few = [one for one in own if one.key == "fid" and _is_few(one.result.question.get("samples"))]
    if few:
        text = "samples are biased upwards and cannot be compared with published ones."
        yield f"FIDs of fewer than {_FID_SAMPLES:,} {text}"
    if any(one.key in ("bpd", "nll") for one in own):
        yield "Likelihoods are bounds: the true negative log-likelihood is at most the value, up to its error."
    yield "It has not been checked whether samples repeat training examples, or what the data leave out."
    if about.license == "unknown":
        yield "The licence of the weights is not stated. That of the training data may limit their use."


def _is_few(samples: object) -> bool:
    return isinstance(samples, int) and samples < _FID_SAMPLES
