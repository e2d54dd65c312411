"""Hooks of mkdocs (`mkdocs.yml`). Nothing that they generate is written into the repository."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from docs.site import commands, links, notebook, python_api, recipe_keys, requests

ROOT = Path(__file__).resolve().parents[2]
_NOTEBOOK = re.compile(r"(?<=\w)\.ipynb\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages: the reference, each notebook, and each file of the repository that is linked."""
    for uri, text in (
        ("reference/recipe.md", recipe_keys.page()),
        ("reference/commands.md", commands.page()),
        ("reference/python.md", python_api.page()),
    ):
        files.append(File.generated(config, uri, content=text))
    for name in sorted(Path(config.docs_dir).glob("*.ipynb")):
        text, pictures = notebook.page(name)
        files.append(File.generated(config, f"{name.stem}.md", content=text))
        for picture, content in pictures.items():
            files.append(File.generated(config, picture, content=content))
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for path in links.linked(texts, ROOT):
        inclusion = InclusionLevel.NOT_IN_NAV
        files.append(
            File.generated(
                config, links.uri(path), content=links.page(path, ROOT), inclusion=inclusion
            )
        )
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to notebooks and to files outside `docs/` lead to their pages."""
    uri = page.file.src_uri
    # Files are looked for by their own names, so that a notebook becomes a page last.
    markdown = links.rewritten(markdown, links.origin(uri), ROOT, os.path.dirname(uri))
    return _NOTEBOOK.sub(".md)", markdown)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from other hosts: it works offline, and stays private."""
    found = requests.outside(Path(config.site_dir))
    if found:
        raise Abort("pages load from other hosts:\n" + "\n".join(found))
