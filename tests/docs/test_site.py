"""The site: it builds without a warning, loads nothing from elsewhere, and its generated pages are
complete."""

import re
import subprocess
import sys

import pytest

import cld_core
from cld_core.config import load
from cld_core.config.schema import walk
from docs.site import commands, recipe_keys, requests
from tests.docs.blocks import ROOT, pages
from tests.support.paths import RECIPES


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. Wrong links and anchors, and pages outside the navigation, are warnings, and
    those errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.by_hand
def test_the_site_has_all_pages_and_loads_nothing_from_elsewhere(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    reference = (site / "reference/python.html").read_text()
    for name in {*cld_core.__all__, "Model.sample", "Model.log_likelihood"} - {"__version__"}:
        assert f'id="cld_core.{name}"' in reference, name
    # A link out of docs leads to a page that shows the file.
    profile = "repository/recipes/profiles/example.yaml.html"
    assert f'href="../{profile}"' in (site / "howto/slurm-first-day.html").read_text()
    assert "my-project" in (site / profile).read_text()
    assert requests.outside(site) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.org/a.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//example.org/a.css">'),
        ("a.html", "<style>@import 'https://example.org/a.css';</style>"),
        ("a.html", '<p style="background: url(https://example.org/a.png)">'),
        ("a.css", "@font-face { src: url('https://example.org/a.woff2') }"),
    ],
)
def test_a_request_to_another_host_is_found(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    (found,) = requests.outside(tmp_path)
    assert found.startswith(f"{name}: ")


def test_the_page_of_keys_has_every_key_of_every_recipe():
    text = recipe_keys.page()
    for file in RECIPES.glob("*.yaml"):
        for key, value in walk(load(file).to_dict()):
            if "." in key and not isinstance(value, dict):
                assert f"| `{key}` |" in text, f"{file.name}: {key}"


def test_the_page_of_commands_has_every_option():
    text = commands.page()
    for path, command in commands.walk():
        section = text.partition(f"\n## {path.removeprefix('cldctl ')}\n")[2].partition("\n## ")[0]
        assert section, path
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in section, f"{path} {option}"


_IMAGE = re.compile(r"!\[[^\]]+\]\(([^()\s]+)\)")


def test_every_picture_is_on_a_page():
    shown = {
        (page.parent / path).resolve()
        for page in pages()
        for path in _IMAGE.findall(page.read_text())
    }
    files = {file.resolve() for file in (ROOT / "docs/images").iterdir()}
    assert files - shown == set(), "no page shows these"
