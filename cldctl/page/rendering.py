"""Templates, and what a browser is told to refuse: a page holds everything, and asks nobody for anything."""

import base64
import functools
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cld_core.texts import printable


def render(template: str, **values: Any) -> str:
    """A page from a template of this package. Every text is escaped, and loses its control characters.

    Args:
        values: what the template names; a name that is missing is an error.
    """
    style, script = _text("page.css"), _text("page.js")
    # Only this style and this script are obeyed, whatever else finds its way into a page.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(**values, style=Markup(style), script=Markup(script), policy=policy) + "\n"


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A value in a page: a text without what would show it in another order than it has."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _text(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
