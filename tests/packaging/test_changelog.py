"""The changelog keeps its form, and names the same newest release as the package and CITATION.cff."""

import re
from datetime import date
from itertools import pairwise

import yaml

import cld_core
from tests.support.paths import ROOT

LINES = (ROOT / "CHANGELOG.md").read_text().splitlines()
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def _releases() -> list[tuple[str, date]]:
    found = (re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in LINES)
    return [(match[1], date.fromisoformat(match[2])) for match in found if match]


def test_the_newest_release_is_the_version_of_the_package() -> None:
    assert _releases()[0][0] == cld_core.__version__


def test_the_newest_release_is_the_one_to_cite() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["date-released"]) == _releases()[0]
    assert cited["license"] == "Apache-2.0"
    assert cited["preferred-citation"]["url"] == "https://arxiv.org/abs/2112.07068"


def test_what_is_not_released_comes_first_and_every_heading_is_a_release() -> None:
    headings = [line for line in LINES if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]"
    assert len(headings) == 1 + len(_releases())


def test_newer_releases_come_first() -> None:
    for (newer, later), (older, earlier) in pairwise(_releases()):
        assert tuple(map(int, newer.split("."))) > tuple(map(int, older.split(".")))
        assert later >= earlier


def test_each_kind_is_a_heading_once_in_a_release() -> None:
    for section in re.split(r"(?m)^## ", "\n".join(LINES))[1:]:
        kinds = re.findall(r"(?m)^### (.+)$", section)
        assert kinds == [kind for kind in KINDS if kind in kinds], section.splitlines()[0]
