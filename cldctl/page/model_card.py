"""A model card: what a model is, how to use it, how good it is, how it was made, and what is not known.

It is Markdown with a head in YAML, as Hugging Face reads it, beside a picture of samples and the weights. All facts are
from the run's folder; whose machines they were, and the commands of hooks, are not part of it.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cld_core.errors import CldError, UsageError, did_you_mean
from cld_core.recipe import Recipe
from cld_core.recipe.ema import EmaSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import replacing, write_text
from cld_core.small_files import by_age, read_bytes
from cld_core.texts import fenced, has_control, one_line
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, status_of
from cldctl.show.format import keys_differ, number
from cldctl.show.usage import usage_line

from .document import templates
from .figures import PNG
from .one_run import differing, shipped
from .results import Finding, cells_of, findings_of

if TYPE_CHECKING:
    from cld_core.model import Model

# What follows `library_name` in the head of every card.
_LIBRARY = "cldctl"
# Published FIDs are of so many samples; of fewer, the value is larger.
_FID_SAMPLES = 50_000
# What begins emphasis, code, links, pictures, HTML, entities, formulas, mentions or a cell within a line.
_SPECIAL = re.compile(r"[\\`*_~\[\]<>|&!$@#]")
# What GitHub and others take for links without any markup.
_LINK = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")
# What Hugging Face lists (https://huggingface.co/docs/hub/repositories-licenses) and SPDX does not.
_NOT_OF_SPDX = (
    "apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd c-uda cc "
    "creativeml-openrail-m deepfloyd-if-license fair-noncommercial-research-license gemma gfdl gpl grok2-community "
    "h-research intel-research lgpl lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 odbl odc-by openmdw-1.0 "
    "openmdw-1.1 openrail openrail++ other pddl unknown"
)
# For suggestions: those that people choose for weights.
_USUAL = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0", "mit")
# What a diffusion is called, and its paper.
DIFFUSIONS = {
    "cld": ("critically-damped Langevin diffusion (CLD)", "https://arxiv.org/abs/2112.07068"),
    "vpsde": ("variance-preserving diffusion (VPSDE)", "https://arxiv.org/abs/2112.07068"),
    "psld": ("phase-space Langevin diffusion (PSLD)", "https://arxiv.org/abs/2303.01748"),
    "hold": ("critically-damped Langevin diffusion of third order (HOLD)", "https://arxiv.org/abs/2404.12814"),
}


@dataclass(frozen=True)
class CardFiles:
    """Where card, picture and weights go."""

    card: Path
    picture: Path
    weights: Path


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is about, beside what the run's folder tells.

    Attributes:
        step: the optimiser step of the weights.
        parameters: how many numbers were trained.
        shape: of one example, (C, ...).
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


def licence(text: str) -> str:
    """The identifier of a licence for a card: one that Hugging Face lists, or another one of SPDX, in small letters.

    Raises:
        UsageError: it is not one.
    """
    word = text.strip().lower()
    if word in _NOT_OF_SPDX.split():
        return word
    try:
        # An expression of several licences, or a reference to a text elsewhere, names none that readers of cards know.
        if re.fullmatch(r"(?!licenseref-)[a-z0-9.-]+", word):
            return canonicalize_license_expression(word).lower()
    except InvalidLicenseExpression:
        pass
    fix = did_you_mean(word[:60], _USUAL) or did_you_mean(word[:60], _NOT_OF_SPDX.split())
    expected = (
        "It takes one that Hugging Face lists, or one of https://spdx.org/licenses: cc-by-4.0, mit, ..., or other"
    )
    raise UsageError(f"--license '{one_line(text, 60)}' is not a licence that cards can name.{fix} {expected}.")


def places(wish: Path, weights: Path | None, default: Path) -> CardFiles:
    """Where the files of ``--card`` go: into a folder, or beside a file that ends in .md.

    Args:
        weights: what ``-o`` says.
        default: the weights without it, unless they are in the folder.

    Raises:
        UsageError: nothing can be written there, or somebody's own file would be lost.
    """
    if has_control(str(wish)):
        raise UsageError("--card: the name has control characters. Use another one.")
    is_file = wish.suffix == ".md"
    if is_file and not os.path.isdir(wish.absolute().parent):
        raise UsageError(f"--card {wish}: there is no folder {wish.absolute().parent}. Create it first.")
    if not is_file and os.path.lexists(wish) and not os.path.isdir(wish):
        raise UsageError(f"--card {wish}: it is a file. Name a folder, or a file that ends in .md.")
    if is_file:
        files = CardFiles(wish, wish.with_suffix(".png"), weights or default)
    else:
        # As Hugging Face and others expect them.
        files = CardFiles(wish / "README.md", wish / "samples.png", weights or wish / "model.safetensors")
    if os.path.lexists(files.card):
        if not _is_card(files.card):
            raise UsageError(f"--card {wish}: {files.card} is not a card that cldctl wrote. Use another name.")
        return files
    # The other files belong to a card of cldctl, or they are somebody's own; what -o names is meant to be replaced.
    for file in [files.picture] if is_file or weights is not None else [files.picture, files.weights]:
        if os.path.lexists(file):
            raise UsageError(f"--card {wish}: {file} exists, and no card is beside it. Use another name, or remove it.")
    return files


def _is_card(file: Path) -> bool:
    try:
        head = read_bytes(file, limit=2**20, follow=True).decode(errors="replace").partition("\n---\n")[0]
    except OSError:
        return False
    return head.startswith("---\n") and f"\nlibrary_name: {_LIBRARY}\n" in f"{head}\n"


def make_folder(files: CardFiles) -> None:
    """Make the folder of a card.

    Raises:
        CldError: it cannot be made.
    """
    try:
        files.card.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CldError(f"{files.card.parent}: it cannot be made ({error.strerror}). Use another folder.") from error


def write(run: RunFolder, model: "Model", files: CardFiles, license_: str, drawing: Callable[[], None]) -> None:
    """Write a card, and a picture of samples of the weights: one that the run has, or else a new one.

    Args:
        drawing: is called before samples are drawn, which may take long.
    """
    from cld_core.evaluation import pictures

    if (content := _picture(run, model)) is not None:
        with replacing(files.picture.absolute()) as out:
            out.write(content)
    else:
        drawing()
        pictures.samples(model, files.picture.absolute(), batch_size=model.recipe.eval.batch_size)
    about = Subject(
        step=model.step,
        parameters=sum(parameter.numel() for parameter in model.net.parameters()),
        shape=tuple(model.data_shape),
        is_image=model.is_image,
        weights=files.weights.name,
        picture=files.picture.name,
        license=license_,
        ema_length=model.ema_length,
    )
    row = status_of(run, survey.of_runs([run], max_age_s=survey.TO_LOOK_S))
    write_text(files.card.absolute(), card(run, row, about))


def _picture(run: RunFolder, model: "Model") -> bytes | None:
    """A picture that the run has of these weights: of the training, or of `cldctl sample` as it is.

    Those of `cldctl sample` with other settings are not what the recipe gives. No link leads out of the run.
    """
    from cld_core.evaluation import pictures

    # The training draws from its usual average.
    periodic = [pictures.periodic_name(model.step)] if model.ema_length is None else []
    names = (*periodic, pictures.name_of(model, pictures.default_count(model)))
    if run.samples.resolve().is_relative_to(run.path.resolve()):
        for file in reversed(by_age(run.samples / name for name in names)):
            try:
                if (content := read_bytes(file, limit=2**24)).startswith(PNG):
                    return content
            except OSError:
                continue
    return None


def card(run: RunFolder, row: RunStatus, about: Subject) -> str:
    """The whole card; ``row`` is the status of the run."""
    recipe = run.recipe()
    # Those of the weights of the card first.
    findings = sorted(findings_of(run), key=lambda it: (not _is_of(it, about), it.step))
    own = [it for it in findings if _is_of(it, about)]
    weights = ", ".join(filter(None, [f"step {about.step:,}", EmaSpec(length=about.ema_length).words]))
    diffusion, paper = DIFFUSIONS.get(recipe.sde.name, (f"diffusion {escaped(recipe.sde.name)}", DIFFUSIONS["cld"][1]))
    shared, (base, other) = _without_folders(recipe.to_share()), shipped(run)
    found = {} if other is None else differing({"this model": shared, str(base): _without_folders(other.to_share())})
    differences = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    environment = templates().overlay()
    environment.filters |= {"md": escaped, "cells": _table, "json": json.dumps, "base": os.path.basename}
    text = environment.get_template("card.md").render(
        run=run,
        row=row,
        about=about,
        recipe=recipe,
        head=_head(run, recipe, about, own),
        size=" x ".join(map(str, about.shape)),
        diffusion=diffusion,
        paper=paper,
        sampler=", ".join(f"{name}: {value}" for name, value in recipe.to_dict()["sampling"].items()),
        findings=[cells_of(it) for it in findings],
        others="" if len(own) == len(findings) else f" The weights of this card are those of {weights}.",
        notes=dict.fromkeys(it.result.remark for it in findings if it.result.remark),
        facts=[{"fact": name, "value": value} for name, value in _training(run, row, recipe, about)],
        whole=fenced(yaml.safe_dump(shared, sort_keys=False, allow_unicode=True), "yaml"),
        base=base,
        summary=keys_differ(len(differences)),
        differences=differences,
        steps=row.steps or recipe.train.steps,
        own=own,
        has_few=any(it.quantity.key == "fid" and it.size < _FID_SAMPLES for it in own),
        has_bound=any(it.quantity.key in ("bpd", "nll") for it in own),
    )
    return f"{text}\n"


def _is_of(finding: Finding, about: Subject) -> bool:
    return (finding.step, finding.ema_length) == (about.step, about.ema_length)


def _head(run: RunFolder, recipe: Recipe, about: Subject, own: Sequence[Finding]) -> str:
    tags = ["score-based-generative-model", "diffusion", "pytorch", recipe.sde.name, recipe.data.name]
    kind = "unconditional-image-generation" if about.is_image else "other"
    metrics = [
        {"type": it.quantity.key, "name": it.quantity.label, "value": it.result.number.value}
        for it in own
        if math.isfinite(it.result.number.value)
    ]
    dataset = {"name": one_line(recipe.data.name), "type": one_line(recipe.data.name)}
    results = [{"task": {"type": kind}, "dataset": dataset, "metrics": metrics}]
    head: dict[str, Any] = {
        "license": one_line(about.license),
        "library_name": _LIBRARY,
        **({"pipeline_tag": kind} if about.is_image else {}),
        "tags": [one_line(tag) for tag in dict.fromkeys(tags)],
        **({"model-index": [{"name": one_line(run.name), "results": results}]} if metrics else {}),
    }
    text: str = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return text


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


def _without_folders(value: Any) -> Any:
    """Of each path, only its last part: the others tell whose machines they were."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def escaped(text: object, most: int = 200) -> str:
    """A text for the inside of a line of Markdown, at most ``most`` characters of it, that is shown as it is.

    At the beginning of a line, it might begin a list.
    """
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text, most))
    return _LINK.sub(lambda _: "\\", line)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    lines = [list(rows[0]), ["--"] * len(rows[0]), *([escaped(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
