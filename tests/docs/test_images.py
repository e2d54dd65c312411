"""Every picture of the documentation is on a page."""

import re

from tests.docs.blocks import ROOT, pages

_IMAGE = re.compile(r"!\[[^\]]+\]\(([^()\s]+)\)")


def test_every_picture_is_on_a_page():
    shown = {(page.parent / path).resolve() for page in pages() for path in _IMAGE.findall(page.read_text())}
    files = {file.resolve() for file in (ROOT / "docs/images").iterdir()}
    assert files - shown == set(), "no page shows these"
    assert [file for file in shown - files if not file.exists()] == []
