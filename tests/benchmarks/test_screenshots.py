"""The pictures of the documentation that scripts make."""

import re

from benchmarks import screenshot_status
from cldctl.ui.console import out


def test_the_picture_of_status_shows_runs_and_asks_nobody(tmp_path):
    before = (out.width, out.is_terminal)
    screenshot_status.record(tmp_path / "status.svg")
    picture = (tmp_path / "status.svg").read_text()
    text = re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")
    for words in ("cldctl status", "RUNNING", "FID 2.27 n=50,000", "node_failed", "1 FINISHED, 1 RUNNING, 1 PENDING"):
        assert words in text
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == []
    assert (out.width, out.is_terminal) == before
