"""The blocks of docs/api.md run as they are printed."""

import re

import matplotlib
import pytest
from matplotlib import pyplot

from cld_core.run.events import Ended, Started
from tests.support.made_up import run_with
from tests.support.paths import ROOT


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs/api.md").read_text(), re.DOTALL | re.MULTILINE)


def without_numbers(text: str) -> list[str]:
    """Lines whose numbers do not matter: the model may be trained again."""
    return [re.sub(r"\d[\d,.]*", "N", line) for line in text.splitlines()]


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    run = run_with(tmp_path / "runs" / "mine")
    run.ledger.append(Started(attempt=0, job_id="1", step=0))
    run.ledger.append(Ended(attempt=0, cause="finished", step=10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLDCTL_RUNS", raising=False)
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    for language, text in blocks():
        if language == "python":
            exec(compile(text, "docs/api.md", "exec"), names)
    pyplot.close("all")
    said = capsys.readouterr().out
    (printed,) = (text for language, text in blocks() if not language)
    assert without_numbers(printed) == without_numbers(said)[:5]
    assert "Model.sample: there is no argument 'nfee'. Did you mean 'nfe'?\n" in said
    assert "mine 10 None\n" in said
    assert (tmp_path / "samples.png").exists()
