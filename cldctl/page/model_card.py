"""A model card: what a model is, how to use it, its results, its training, and its limits.

It is Markdown with a head in YAML, as Hugging Face reads it, beside a picture of samples and the
weights. All facts come from the run's folder, without names of machines and commands of hooks.
"""

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cld_core.config.loader import to_yaml_line
from cld_core.config.train import EmaSpec
from cld_core.errors import UsageError, did_you_mean
from cld_core.files import by_age, read_bytes, replacing, write_text
from cld_core.run import RunFolder
from cld_core.sanitize import fenced, has_control, one_line
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, status_of
from cldctl.show.console import keys_differ, number
from cldctl.show.tables import usage_line

from .curves import is_inside
from .document import TEMPLATES, png
from .report import (
    differing,
    evaluation_columns,
    fact_columns,
    readable_results,
    shipped,
    software,
)

if TYPE_CHECKING:
    from cld_core.model import Model

# Characters that begin emphasis, code, links, HTML, entities, formulas, mentions or a table cell.
_SPECIAL = re.compile(r"[\\`*_~\[\]<>|&!$@#]")
# Places in texts that GitHub and others turn into links without any markup.
_LINK = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")
# Licences of https://huggingface.co/docs/hub/repositories-licenses that are not in SPDX.
_NOT_OF_SPDX = (
    "apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd "
    "c-uda cc "
    "creativeml-openrail-m deepfloyd-if-license fair-noncommercial-research-license gemma gfdl gpl "
    "grok2-community "
    "h-research intel-research lgpl lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 odbl "
    "odc-by openmdw-1.0 "
    "openmdw-1.1 openrail openrail++ other pddl unknown"
)
# Licences that are usual for weights, which are suggested first.
_USUAL = (
    "apache-2.0",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "gpl-3.0",
    "mit",
)
# The name of each diffusion, and its paper.
DIFFUSIONS = {
    "cld": ("critically-damped Langevin diffusion (CLD)", "https://arxiv.org/abs/2112.07068"),
    "vpsde": ("variance-preserving diffusion (VPSDE)", "https://arxiv.org/abs/2112.07068"),
    "psld": ("phase-space Langevin diffusion (PSLD)", "https://arxiv.org/abs/2303.01748"),
    "hold": (
        "critically-damped Langevin diffusion of third order (HOLD)",
        "https://arxiv.org/abs/2404.12814",
    ),
}


@dataclass(frozen=True)
class CardFiles:
    """Where card, picture and weights go."""

    card: Path
    picture: Path
    weights: Path


def licence(text: str) -> str:
    """The identifier of a licence in small letters, from Hugging Face's list or from SPDX.

    Raises:
        UsageError: the text is neither.
    """
    word = text.strip().lower()
    if word in _NOT_OF_SPDX.split():
        return word
    with contextlib.suppress(InvalidLicenseExpression):
        # Not an expression of several licences, nor a reference to a text elsewhere.
        if re.fullmatch(r"(?!licenseref-)[a-z0-9.-]+", word):
            return canonicalize_license_expression(word).lower()
    nearest = did_you_mean(word[:60], _USUAL) or did_you_mean(word[:60], _NOT_OF_SPDX.split())
    raise UsageError(
        f"--license '{one_line(text, 60)}' is not a licence that cards can name.{nearest} It takes "
        "one that Hugging Face lists, or one of https://spdx.org/licenses: cc-by-4.0, mit, ..., or "
        "other."
    )


def places(wish: Path, weights: Path | None, default: Path) -> CardFiles:
    """Where the files of ``--card`` go: into a folder, or beside a file that ends in .md.

    Args:
        weights: the file of ``-o``; None without that option.
        default: the file of the weights beside a card that is not in a folder of its own.

    Raises:
        UsageError: nothing can be written there, or a file that is not part of a card would be
            lost.
    """
    if has_control(str(wish)):
        raise UsageError("--card: the name has control characters. Use another one.")
    if wish.suffix == ".md":
        folder = wish.absolute().parent
        if not os.path.isdir(folder):
            raise UsageError(f"--card {wish}: there is no folder {folder}. Create it first.")
        files = CardFiles(wish, wish.with_suffix(".png"), weights or default)
        others = [files.picture]
    else:
        if os.path.lexists(wish) and not os.path.isdir(wish):
            raise UsageError(
                f"--card {wish}: it is a file. Name a folder, or a file that ends in .md."
            )
        # The names that Hugging Face and others expect.
        own_weights = wish / "model.safetensors"
        files = CardFiles(wish / "README.md", wish / "samples.png", weights or own_weights)
        others = [files.picture, files.weights] if weights is None else [files.picture]
    # The files beside a card of cldctl belong to it and are replaced; so is the file of -o.
    if _is_card(files.card):
        return files
    if os.path.lexists(files.card):
        raise UsageError(
            f"--card {wish}: {files.card} is not a card that cldctl wrote. Use another name."
        )
    for file in others:
        if os.path.lexists(file):
            raise UsageError(
                f"--card {wish}: {file} exists, and no card is beside it. Use another name, or "
                f"remove it."
            )
    return files


def _is_card(file: Path) -> bool:
    with contextlib.suppress(OSError):
        content = read_bytes(file, limit=2**20, follow=True).decode(errors="replace")
        head = content.partition("\n---\n")[0]
        return head.startswith("---\n") and "\nlibrary_name: cldctl\n" in f"{head}\n"
    return False


def write(
    run: RunFolder, model: "Model", files: CardFiles, license_: str, drawing: Callable[[], None]
) -> None:
    """Write a card and a picture of samples of its weights: that of the run, or else a new one.

    Args:
        drawing: called before samples are drawn, which may take long.
    """
    from cld_core import pictures

    if (content := _picture(run, model)) is not None:
        with replacing(files.picture.absolute()) as out:
            out.write(content)
    else:
        drawing()
        pictures.samples(model, files.picture.absolute(), batch_size=model.recipe.eval.batch_size)
    row = status_of(run, survey.of_runs([run], max_age_s=survey.TO_LOOK_S))
    write_text(files.card.absolute(), card(run, row, model, files, license_))


def _picture(run: RunFolder, model: "Model") -> bytes | None:
    """A picture of the run with these weights, from the training or `cldctl sample`.

    Pictures of `cldctl sample` with other settings than those of the recipe are left out, as are
    folders that links lead out of the run to.
    """
    from cld_core import pictures

    # The training draws from its usual average.
    periodic = [pictures.periodic_name(model.step)] if model.ema_length is None else []
    names = (*periodic, pictures.name_of(model, pictures.default_count(model)))
    if not is_inside(run, run.samples, follow=False):
        return None
    files = by_age(run.samples / name for name in names)
    return next(filter(None, map(png, reversed(files))), None)


def card(
    run: RunFolder, row: RunStatus, model: "Model", files: CardFiles, license_: str = "unknown"
) -> str:
    """The whole card; ``row`` is the status of the run."""
    recipe = run.recipe()
    attempts = run.ledger.history().attempts
    weights = (model.step, model.ema_length)
    # The results of the weights of the card come first.
    results = readable_results(run)
    own = [result for result in results if (result.step, result.ema_length) == weights]
    results.sort(key=lambda result: result not in own)
    metrics = []
    for result in own:
        quantity = result.quantity
        if math.isfinite(result.number.value):
            entry = {"type": quantity.key, "name": quantity.label, "value": result.number.value}
            metrics.append(entry)
    diffusion, paper = DIFFUSIONS.get(
        recipe.sde.name, (f"diffusion {escaped(recipe.sde.name)}", DIFFUSIONS["cld"][1])
    )
    shared = _without_folders(recipe.to_share())
    base = shipped(run)
    compared = {"this model": shared}
    if base is not None:
        compared[base.name] = _without_folders(base.to_share())
    differences = differing(compared)
    ranks = {result.evaluation: rank for rank, result in enumerate(results)}
    evals = [entry for entry in row.evals if entry["id"] in ranks]
    columns = evaluation_columns(sorted(evals, key=lambda entry: ranks[entry["id"]]), results)
    for heading in ("evaluation", "state", "shards"):
        columns.pop(heading, None)
    causes = Counter(entry["cause"] or "no recorded end" for entry in row.attempts)
    ends = ", ".join(f"{number} {cause}" for cause, number in causes.items())
    average = f"of length {model.ema_length:g}" if model.ema_length else f"{recipe.train.ema:g}"
    gpus = dict.fromkeys(
        f"{attempt.gpus or 1} x {attempt.gpu}" for attempt in attempts if attempt.gpu
    )
    steps = row.steps or recipe.train.steps
    facts = {
        "steps": f"{model.step:,} of {steps:,}",
        "batch": f"{recipe.train.batch_size:,} examples",
        "optimiser": f"{recipe.optim.name}, rate {recipe.optim.lr:g}; average of weights {average}",
        "precision": recipe.train.precision,
        "seed": str(recipe.train.seed),
        "last loss": None if row.loss is None else number(row.loss, 5),
        "attempts": f"{len(row.attempts)} ({ends})" if ends else "0",
        "time used": usage_line(row.usage),
        "hardware": ", ".join(gpus) or "CPUs",
        **software(run, attempts),
    }
    environment = TEMPLATES.overlay()
    environment.filters.update(
        md=escaped, cells=_table, base=os.path.basename, line=one_line, yaml=to_yaml_line
    )
    text = environment.get_template("card.md").render(
        run=run,
        row=row,
        recipe=recipe,
        model=model,
        files=files,
        sampler=", ".join(
            f"{name}: {value}" for name, value in recipe.to_dict()["sampling"].items()
        ),
        license=license_,
        parameters=sum(parameter.numel() for parameter in model.net.parameters()),
        diffusion=diffusion,
        paper=paper,
        metrics=metrics,
        results=results,
        own=own,
        columns=columns,
        average="" if model.ema_length is None else f", {EmaSpec(length=model.ema_length).words}",
        facts=fact_columns(facts),
        whole=fenced(yaml.safe_dump(shared, sort_keys=False, allow_unicode=True), "yaml"),
        base=base,
        differences=differences,
        summary=keys_differ(len(differences["key"])),
        steps=steps,
    )
    return f"{text}\n"


def _without_folders(value: Any) -> Any:
    """The value with only the last part of each path: the others would tell about machines."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def escaped(text: object, most: int = 200) -> str:
    """Markdown that shows a text literally, within a line; it is cut after ``most`` characters.

    At the beginning of a line, the text could still begin a list.
    """
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text, most))
    return _LINK.sub(lambda _: "\\", line)


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    rows = [map(escaped, row) for row in zip(*columns.values(), strict=True)]
    lines = (columns, ["--"] * len(columns), *rows) if rows else ()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
