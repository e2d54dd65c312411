"""Links from pages to files outside `docs/`: on the site, they lead to a page of the file."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

# Pages of the navigation that no page needs to link to.
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md")
FOLDER = "repository"
_LINK = re.compile(r"(?<=\]\()(?P<target>[^()#\s]+)(?P<anchor>#[^()\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "bash"}


def linked(texts: Mapping[str, str], root: Path) -> list[str]:
    """The files outside `docs/` that pages link to, directly or through others, sorted.

    Args:
        texts: Markdown of each page, by its path in the repository.
    """
    found = set(ALWAYS)
    waiting = list(texts.items())
    waiting += [(path, (root / path).read_text()) for path in ALWAYS]
    while waiting:
        page, text = waiting.pop()
        for path in _outside(text, os.path.dirname(page), root):
            if path not in found:
                found.add(path)
                if path.endswith(".md"):
                    waiting.append((path, (root / path).read_text()))
    return sorted(found)


def uri(path: str) -> str:
    """The page of a file of the repository, as the path of a Markdown file below `docs/`."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{FOLDER}/{path}" if path.endswith(".md") else f"{FOLDER}/{path}.md"


def origin(page: str) -> str:
    """The folder in the repository that the links of a page of the site are relative to."""
    inside = page.startswith(f"{FOLDER}/")
    return os.path.dirname(page.removeprefix(f"{FOLDER}/") if inside else f"docs/{page}")


def page(path: str, root: Path) -> str:
    """The Markdown of a file: its own, or a block of code; for a folder, the names in it."""
    file = root / path
    if path.endswith(".md"):
        return file.read_text()
    if file.is_dir():
        names = sorted(entry.name for entry in file.iterdir())
        shown = [name for name in names if not name.startswith((".", "__pycache__"))]
        items = "\n".join(f"- `{name}`" for name in shown)
        return f"# `{path}`\n\nA folder of the repository:\n\n{items}"
    fence = "`" * 4
    return f"# `{path}`\n\n{fence}{_LANGUAGES.get(file.suffix, '')}\n{file.read_text()}\n{fence}\n"


def rewritten(text: str, folder: str, root: Path, site_folder: str) -> str:
    """The text of a page with links into and out of `docs/` changed to links within the site.

    Args:
        folder: the folder in the repository that links are relative to.
        site_folder: the folder of the page on the site.
    """

    def changed(match: re.Match[str]) -> str:
        path = _path(match["target"], folder, root)
        if path is None or (folder.startswith("docs") and path.startswith("docs/")):
            return match[0]
        return os.path.relpath(uri(path), site_folder or ".") + (match["anchor"] or "")

    return _LINK.sub(changed, text)


def _outside(text: str, folder: str, root: Path) -> Iterator[str]:
    for match in _LINK.finditer(text):
        path = _path(match["target"], folder, root)
        if path is not None and not path.startswith("docs/"):
            yield path


def _path(target: str, folder: str, root: Path) -> str | None:
    """The target of a link, by path in the repository; None for addresses and missing files."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = os.path.normpath(os.path.join(folder, target))
    if path.startswith("..") or not (root / path).exists():
        return None
    readme = os.path.join(path, "README.md")
    return readme if (root / readme).is_file() else path
