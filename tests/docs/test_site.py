"""The site: it builds without a warning, loads nothing from elsewhere, and its generated pages are complete."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cld_core
from cld_core.config import load
from cld_core.config.schema import walk
from docs.site import commands, links, recipe_keys, requests
from tests.docs.blocks import ROOT
from tests.support.browser import chromium
from tests.support.paths import RECIPES


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Wrong links and anchors, and pages outside the navigation, are warnings, and those errors."""
    folder = tmp_path_factory.mktemp("site")
    done = build("--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.by_hand
def test_the_site_has_all_pages(site: Path) -> None:
    for page in ("index", "start/tutorial", "learn/cld", "reference/recipe", "reference/commands", "reference/python"):
        assert (site / f"{page}.html").is_file(), page
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    assert not (site / "site").exists()


@pytest.mark.by_hand
def test_wrong_links_and_pages_outside_the_navigation_fail_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    hook = ROOT / "docs/site/hooks.py"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: [{hook}]\n")
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write("\n[a](gone.md) [b](cli.md#gone) [c](../recipes/gone.yaml)\n")
    (tmp_path / "docs/lonely.md").write_text("# Lonely\n")
    done = build("--config-file", str(tmp_path / "mkdocs.yml"), "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 1, done.stderr
    for wrong in ("'gone.md'", "'cli.md#gone'", "'../recipes/gone.yaml'", "- lonely.md"):
        assert wrong in done.stderr, done.stderr


@pytest.mark.by_hand
def test_links_out_of_docs_lead_to_pages_that_show_the_file(site: Path) -> None:
    assert (
        'href="../repository/recipes/profiles/example.yaml.html"' in (site / "howto/slurm-first-day.html").read_text()
    )
    assert "my-project" in (site / "repository/recipes/profiles/example.yaml.html").read_text()
    assert 'href="../../../slurm.html' in (site / "repository/tests/slurm/index.html").read_text()


@pytest.mark.by_hand
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    assert requests.outside(site) == []


@pytest.mark.by_hand
def test_search_finds_pages_of_a_site_on_the_disk(site: Path) -> None:
    with chromium() as browser:
        context = browser.new_context()
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / "start/tutorial.html").as_uri())
        # With events of keys: the search listens to these.
        page.get_by_role("textbox", name="Search").press_sequentially("preempted")
        page.locator(".md-search-result__link", has_text="Slurm").first.wait_for(state="attached", timeout=60_000)
        link = page.locator(".md-search-result__link", has_text="Slurm").first.get_attribute("href")
        page.goto(str(link))
        assert "preempted" in page.content()
        assert complaints == []
        assert not [url for url in asked if not url.startswith(("file:", "data:", "about:"))]


@pytest.mark.by_hand
def test_the_python_reference_has_signatures_and_descriptions(site: Path) -> None:
    page = (site / "reference/python.html").read_text()
    for method in ("sample", "draw", "export", "trajectory", "log_likelihood", "plot"):
        assert f'id="cld_core.Model.{method}"' in page, method
    for name in set(cld_core.__all__) - {"__version__"}:
        assert f'id="cld_core.{name}"' in page, name
    assert "cld_core.__version__" in page
    assert "Sample i of a seed is the same however many are drawn with it" in page


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.org/a.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//example.org/a.css">'),
        ("a.html", '<img src="http://example.org/a.png">'),
        ("a.html", "<style>@import 'https://example.org/a.css';</style>"),
        ("a.html", '<p style="background: url(https://example.org/a.png)">'),
        ("a.css", "@font-face { src: url('https://example.org/a.woff2') }"),
    ],
)
def test_a_request_to_another_host_is_found(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (found,) = requests.outside(tmp_path)
    assert found.startswith(f"{name}: ")
    assert "example.org" in found


def test_the_page_of_keys_has_every_key_of_every_recipe() -> None:
    text = recipe_keys.page()
    for file in RECIPES.glob("*.yaml"):
        for key, value in walk(load(file).to_dict()):
            if "." in key and not isinstance(value, dict):
                assert f"| `{key}` |" in text, f"{file.name}: {key}"
    assert {f"| `{name}` |" in text for name in recipe_keys.names()} == {True}


def test_the_page_of_commands_has_every_option() -> None:
    text = commands.page()
    for path, command in commands.walk():
        section = text.partition(f"\n## {path.removeprefix('cldctl ')}\n")[2].partition("\n## ")[0]
        assert section, path
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in section, f"{path} {option}"


def test_links_are_followed_from_file_to_file(tmp_path: Path) -> None:
    for name, text in {
        "docs/a.md": "[b](../b/README.md#x) [yaml](../c.yaml) [elsewhere](https://example.org) [gone](../gone.md)",
        "b/README.md": "[d](d.py) [back](../docs/a.md)",
        "b/d.py": "d = 1",
        "c.yaml": "c: 1",
        **dict.fromkeys(links.ALWAYS, ""),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    text = (tmp_path / "docs/a.md").read_text()
    assert links.linked({"docs/a.md": text}, tmp_path) == [*sorted(links.ALWAYS), "b/README.md", "b/d.py", "c.yaml"]
    shown = links.rewritten(text, "docs", tmp_path, "")
    assert "(repository/b/README.md#x) [yaml](repository/c.yaml.md)" in shown
    assert "(../gone.md)" in shown  # mkdocs then warns of it
    back = links.rewritten((tmp_path / "b/README.md").read_text(), "b", tmp_path, "repository/b")
    assert back == "[d](d.py.md) [back](../../a.md)"
