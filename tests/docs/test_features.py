"""Each feature names tests that exist."""

import re

from tests.docs.blocks import ROOT

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_feature_is_shown_by_tests_that_exist():
    rows = [
        line
        for line in (ROOT / "tests/features.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    claims = [row for row in rows if row not in ("| what | shown by |", "| -- | -- |")]
    assert len(claims) > 80
    assert [row for row in claims if not _TEST.search(row)] == []
    missing = [
        f"{path}::{name}"
        for path, name in _TEST.findall("\n".join(claims))
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert missing == []
