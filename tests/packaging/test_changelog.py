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


def test_newer_releases_come_first() -> None:
    for (newer, later), (older, earlier) in pairwise(_releases()):
        assert tuple(map(int, newer.split("."))) > tuple(map(int, older.split(".")))
        assert later >= earlier
