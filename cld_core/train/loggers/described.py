"""A run in words, for loggers: its hyper-parameters, its recipe, and the attempt that begins."""

from cld_core.config import Recipe
from cld_core.config.loader import to_yaml
from cld_core.config.schema import leaves
from cld_core.run import Attempt, pending
from cld_core.sanitize import fenced, local_time, one_line

from .base import About

# The sections that a model and its training depend on.
_SECTIONS = ("data", "sde", "network", "objective", "optim", "train", "sampling")
# Characters of a text from a ledger.
_MOST = 300


def hyperparameters(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """The keys of a recipe that say how it trains, without those that are null."""
    content = {name: section for name, section in recipe.to_share().items() if name in _SECTIONS}
    values = ((key, value) for key, value in leaves(content).items() if value is not None)
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values}


def recipe_text(recipe: Recipe) -> str:
    """The recipe as a block of YAML in Markdown, without what may be secret."""
    return fenced(to_yaml(recipe.to_share()), "yaml")


def attempt_text(about: About) -> str:
    """Which attempt this is, where and with what it runs, and why the one before it ended, as a table in Markdown."""
    attempts = pending.history(about.folder.ledger).attempts
    # Without a scheduler or a ledger, there is less to tell.
    this = next((attempt for attempt in attempts if attempt.attempt == about.attempt), None)
    before = next((attempt for attempt in attempts if attempt.attempt == about.attempt - 1), None)
    facts: dict[str, object] = {"attempt": about.attempt, "from step": about.first_step}
    if this is not None:
        facts |= {
            "began": local_time(this.started, "%Y-%m-%d %H:%M:%S"),
            "job": this.job_id,
            "machines": ", ".join(dict.fromkeys(this.hosts)) or this.host,
            "GPU": this.gpu,
            "code": this.code,
            "versions": ", ".join(f"{name} {version}" for name, version in this.versions.items()),
        }
    if before is not None:
        facts["the one before"] = _ended(before)
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, ""))
    return f"| | |\n| -- | -- |\n{rows}"


def _ended(attempt: Attempt) -> str:
    where = "" if attempt.last_step is None else f" at step {attempt.last_step}"
    return f"{attempt.cause or 'end unknown'}{where}" + (f": {attempt.detail}" if attempt.detail else "")


def _cell(value: object) -> str:
    """A text inside of a table of Markdown, which shows it as it is written."""
    text = one_line(value, _MOST)
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>()#|!~&$" else character for character in text)
