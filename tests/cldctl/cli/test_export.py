"""`cldctl export --card`: card, picture and weights that belong together."""

import json
import re

import pytest
import yaml

import cld_core
from cld_core.run import RunFolder
from tests.support.tools import invoke

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_folder_holds_all_that_the_card_refers_to(runs, tmp_path, monkeypatch):
    said = invoke("export", "done", "--card", str(tmp_path / "card"), "--license", "cc-by-4.0", runs=runs)
    assert said.stdout.splitlines() == [str(tmp_path / "card" / name) for name in ("model.safetensors", "README.md")]
    assert "drawing samples of step 20" in said.stderr
    text = (tmp_path / "card/README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("cc-by-4.0", "cldctl")
    (report,) = RunFolder.open(runs / "done").evals.glob("elbo-*/report.json")
    elbo = json.loads(report.read_text())["elbo"]
    assert f"| 20 | NLL bound, nats | {elbo['nll']:.3f} ± {elbo['stderr']:.3f} " in text
    assert "![Samples](samples.png)" in text
    assert (tmp_path / "card/samples.png").read_bytes().startswith(PNG)
    monkeypatch.chdir(tmp_path / "card")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, names := {})
    assert names["x"].shape == (64, 2)
    assert f"{sum(p.numel() for p in names['model'].net.parameters()):,} parameters" in text


@pytest.mark.parametrize(
    ("card", "taken"), [("card", "samples.png"), ("card", "model.safetensors"), ("card/notes.md", "notes.png")]
)
def test_files_of_others_beside_the_card_are_refused(runs, tmp_path, card, taken):
    (tmp_path / "card").mkdir()
    mine = tmp_path / "card" / taken
    mine.write_bytes(b"mine")
    words = ("export", "done", "--card", str(tmp_path / card), "-o", str(tmp_path / "card/w.safetensors"))
    words = words[:4] if taken.endswith("tensors") else words
    said = invoke(*words, runs=runs, code=2)
    assert f"{mine} exists, and no card is beside it" in said.stderr
    assert mine.read_bytes() == b"mine"
    assert [file.name for file in (tmp_path / "card").iterdir()] == [taken]


def test_what_would_be_lost_or_cannot_be_written_is_refused(runs, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    (tmp_path / "file").write_text("")
    for words, message in (
        (["--card", str(tmp_path)], "README.md is not a card that cldctl wrote"),
        (["--card", str(tmp_path / "file")], "it is a file. Name a folder"),
        (["--card", str(tmp_path / "none/card.md")], "there is no folder"),
        (["--card", str(tmp_path / "a\nb")], "control characters"),
        (["--license", "mit"], "Add --card FOLDER"),
        (["--card", str(tmp_path / "new"), "--license", "foo"], "'foo' is not a licence that cards can name. It takes"),
        (["--card", str(tmp_path / "new"), "--license", "cc-by"], "Did you mean 'cc-by-4.0'?"),
    ):
        assert message in invoke("export", "done", *words, runs=runs, code=2).stderr
    long = str(tmp_path / ("x" * 300))
    assert (
        "it cannot be made (File name too long)" in invoke("export", "done", "--card", long, runs=runs, code=1).stderr
    )
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_weights_carry_no_commands_and_accounts(tmp_path):
    from cld_core.config import load
    from cld_core.model import Model
    from tests.support.paths import RECIPES

    private = ["hooks.on_change=secret", "cluster.account=secret"]
    recipe = load(RECIPES / "toy.yaml", ["network.width=8", "network.layers=2", *private])
    Model(recipe).export(tmp_path / "w.safetensors")
    assert b"secret" not in (tmp_path / "w.safetensors").read_bytes()
    loaded = cld_core.load(tmp_path / "w.safetensors").recipe
    assert (loaded.network, loaded.sampling, loaded.train) == (recipe.network, recipe.sampling, recipe.train)
