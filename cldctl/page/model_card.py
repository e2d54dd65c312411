"""A model card: what a model is, how to use it, how good it is, how it was made, and what is not
known.

It is Markdown with a head in YAML, as Hugging Face reads it, beside a picture of samples and the
weights. All facts are from the run's folder; whose machines they were, and the commands of hooks,
are not part of it.
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
from .report import differing, fact_columns, readable_results, result_columns, shipped, software

if TYPE_CHECKING:
    from cld_core.model import Model

# What begins emphasis, code, links, pictures, HTML, entities, formulas, mentions or a cell within a
# line.
_SPECIAL = re.compile(r"[\\`*_~\[\]<>|&!$@#]")
# What GitHub and others take for links without any markup.
_LINK = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")
# What Hugging Face lists (https://huggingface.co/docs/hub/repositories-licenses) and SPDX does not.
_NOT_OF_SPDX = (
    "apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd "
    "c-uda cc "
    "creativeml-openrail-m deepfloyd-if-license fair-noncommercial-research-license gemma gfdl gpl "
    "grok2-community "
    "h-research intel-research lgpl lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 odbl "
    "odc-by openmdw-1.0 "
    "openmdw-1.1 openrail openrail++ other pddl unknown"
)
# For suggestions: those that people choose for weights.
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
# What a diffusion is called, and its paper.
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
    """The identifier of a licence for a card: one that Hugging Face lists, or another one of SPDX,
    in small letters.

    Raises:
        UsageError: it is not one.
    """
    word = text.strip().lower()
    if word in _NOT_OF_SPDX.split():
        return word
    with contextlib.suppress(InvalidLicenseExpression):
        # An expression of several licences, or a reference to a text elsewhere, names none that
        # readers of cards know.
        if re.fullmatch(r"(?!licenseref-)[a-z0-9.-]+", word):
            return canonicalize_license_expression(word).lower()
    fix = did_you_mean(word[:60], _USUAL) or did_you_mean(word[:60], _NOT_OF_SPDX.split())
    fix += (
        " It takes one that Hugging Face lists, or one of https://spdx.org/licenses: "
        "cc-by-4.0, "
        "mit, ..., or other"
    )
    raise UsageError(
        f"--license '{one_line(text, 60)}' is not a licence that cards can name.{fix}."
    )


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
        raise UsageError(
            f"--card {wish}: there is no folder {wish.absolute().parent}. Create it first."
        )
    if not is_file and os.path.lexists(wish) and not os.path.isdir(wish):
        raise UsageError(f"--card {wish}: it is a file. Name a folder, or a file that ends in .md.")
    # In a folder, as Hugging Face and others expect them.
    names = (
        (wish, wish.with_suffix(".png")) if is_file else (wish / "README.md", wish / "samples.png")
    )
    files = CardFiles(*names, weights or (default if is_file else wish / "model.safetensors"))
    is_ours = _is_card(files.card)
    if os.path.lexists(files.card) and not is_ours:
        raise UsageError(
            f"--card {wish}: {files.card} is not a card that cldctl wrote. Use another name."
        )
    # The other files belong to a card of cldctl, or they are somebody's own; what -o names is meant
    # to be replaced.
    for file in (
        [files.picture] if is_file or weights is not None else [files.picture, files.weights]
    ):
        if not is_ours and os.path.lexists(file):
            raise UsageError(
                f"--card {wish}: {file} exists, and no card is beside it. Use another name, or "
                f"remove it."
            )
    return files


def _is_card(file: Path) -> bool:
    with contextlib.suppress(OSError):
        head = (
            read_bytes(file, limit=2**20, follow=True)
            .decode(errors="replace")
            .partition("\n---\n")[0]
        )
        return head.startswith("---\n") and "\nlibrary_name: cldctl\n" in f"{head}\n"
    return False


def write(
    run: RunFolder, model: "Model", files: CardFiles, license_: str, drawing: Callable[[], None]
) -> None:
    """Write a card, and a picture of samples of the weights: one that the run has, or else a new
    one.

    Args:
        drawing: is called before samples are drawn, which may take long.
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
    """A picture that the run has of these weights: of the training, or of `cldctl sample` as it is.

    Those of `cldctl sample` with other settings are not what the recipe gives. No link leads out of
    the run.
    """
    from cld_core import pictures

    # The training draws from its usual average.
    periodic = [pictures.periodic_name(model.step)] if model.ema_length is None else []
    names = (*periodic, pictures.name_of(model, pictures.default_count(model)))
    files = (
        by_age(run.samples / name for name in names)
        if is_inside(run, run.samples, follow=False)
        else []
    )
    return next(filter(None, map(png, reversed(files))), None)


def card(
    run: RunFolder, row: RunStatus, model: "Model", files: CardFiles, license_: str = "unknown"
) -> str:
    """The whole card; ``row`` is the status of the run."""
    recipe, attempts = run.recipe(), run.ledger.history().attempts
    weights = model.step, model.ema_length
    # Those of the weights of the card first.
    results = sorted(readable_results(run), key=lambda it: (it.step, it.ema_length) != weights)
    own = [it for it in results if (it.step, it.ema_length) == weights]
    finite = [it for it in own if math.isfinite(it.number.value)]
    diffusion, paper = DIFFUSIONS.get(
        recipe.sde.name, (f"diffusion {escaped(recipe.sde.name)}", DIFFUSIONS["cld"][1])
    )
    shared, base = _without_folders(recipe.to_share()), shipped(run)
    differences = differing(
        {"this model": shared, base.name: _without_folders(base.to_share())} if base else {}
    )
    causes = Counter(entry["cause"] or "no recorded end" for entry in row.attempts)
    ends = ", ".join(f"{times} {cause}" for cause, times in causes.items())
    average = (
        f"{recipe.train.ema:g}" if model.ema_length is None else f"of length {model.ema_length:g}"
    )
    steps = row.steps or recipe.train.steps
    facts = {
        "steps": f"{model.step:,} of {steps:,}",
        "batch": f"{recipe.train.batch_size:,} examples",
        "optimiser": f"{recipe.optim.name}, rate {recipe.optim.lr:g}; average of weights {average}",
        "precision": recipe.train.precision,
        "seed": str(recipe.train.seed),
        "last loss": None if row.loss is None else number(row.loss, 5),
        "attempts": f"{len(row.attempts)}{ends and f' ({ends})'}",
        "time used": usage_line(row.usage) if row.usage and row.usage["used"] > 0 else None,
        "hardware": ", ".join(
            dict.fromkeys(f"{it.gpus or 1} x {it.gpu}" for it in attempts if it.gpu)
        )
        or "CPUs",
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
        metrics=[
            {"type": it.quantity.key, "name": it.quantity.label, "value": it.number.value}
            for it in finite
        ],
        results=results,
        own=own,
        columns=result_columns(results),
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
    """Of each path, only its last part: the others tell whose machines they were."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def escaped(text: object, most: int = 200) -> str:
    """A text for the inside of a line of Markdown, at most ``most`` characters of it, that is shown
    as it is.

    At the beginning of a line, it might begin a list.
    """
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text, most))
    return _LINK.sub(lambda _: "\\", line)


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    rows = [map(escaped, row) for row in zip(*columns.values(), strict=True)]
    lines = (columns, ["--"] * len(columns), *rows) if rows else ()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
