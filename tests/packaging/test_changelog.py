"""The changelog keeps its form, and its newest release is the version of the package."""

import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import cld_core

LINES = (Path(__file__).parents[2] / "CHANGELOG.md").read_text().splitlines()
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def _releases() -> list[tuple[str, date]]:
    found = (re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in LINES)
    return [(match[1], date.fromisoformat(match[2])) for match in found if match]


def test_the_newest_release_is_the_version_of_the_package() -> None:
    assert _releases()[0][0] == cld_core.__version__


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
