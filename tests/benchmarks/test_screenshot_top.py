"""The picture of `cldctl top` in the documentation."""

import re

from benchmarks import screenshot_top


def test_the_picture_shows_runs_and_asks_nobody(tmp_path):
    screenshot_top.record(tmp_path / "top.svg")
    picture = (tmp_path / "top.svg").read_text()
    text = re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ")
    for words in ("cldctl top", "RUNNING", "17/40 shards", "P preempted", "q quit"):
        assert words in text
    assert re.findall(r"(?:url\(|href=|src=)[\"']?https?:", picture) == []
