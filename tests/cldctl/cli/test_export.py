"""`cldctl export --card`: card, picture and weights that belong together."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

import cld_core
from cld_core.config import from_dict, load
from cld_core.evaluate.request import request_of
from cld_core.model import Model
from cld_core.run import RunFolder
from cldctl.page.model_card import CardFiles, card
from cldctl.runs import survey
from cldctl.runs.status import status_of
from tests.support.made_up import report, run_with
from tests.support.paths import TOY
from tests.support.plugin import toy_plugin
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


def test_what_would_be_lost_or_cannot_be_written_is_refused(runs, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/samples.png").write_bytes(b"mine")
    for words, message in (
        (["--card", str(tmp_path)], "README.md is not a card that cldctl wrote"),
        (["--card", str(tmp_path / "file")], "it is a file. Name a folder"),
        (["--card", str(tmp_path / "none/card.md")], "there is no folder"),
        (["--card", str(tmp_path / "others")], "samples.png exists, and no card is beside it"),
        (["--license", "mit"], "Add --card FOLDER"),
        (["--card", str(tmp_path / "new"), "--license", "cc-by"], "Did you mean 'cc-by-4.0'?"),
    ):
        assert message in invoke("export", "done", *words, runs=runs, code=2).stderr
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_weights_carry_no_commands_and_accounts(tmp_path):
    private = ["hooks.on_change=secret", "cluster.account=secret"]
    recipe = load(TOY, ["network.width=8", "network.layers=2", *private])
    Model(recipe).export(tmp_path / "w.safetensors")
    assert b"secret" not in (tmp_path / "w.safetensors").read_bytes()
    loaded = cld_core.load(tmp_path / "w.safetensors").recipe
    assert (loaded.network, loaded.sampling, loaded.train) == (recipe.network, recipe.sampling, recipe.train)


FILES = CardFiles(Path("README.md"), Path("samples.png"), Path("model.safetensors"))


def card_of(made, license_="unknown", row=None, **changes):
    """Of weights of step 20."""
    about = {"step": 20, "data_shape": (2,), "is_image": False, "ema_length": None, "net": torch.nn.Linear(2, 2)}
    return card(made, row or status_of_run(made), SimpleNamespace(**{**about, **changes}), FILES, license_)


def status_of_run(made):
    return status_of(made, survey.of_runs([made]))


def head_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def section(text, title):
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def asked(made, metric, step):
    recipe = made.recipe()
    return request_of(replace(recipe, eval=replace(recipe.eval, samples=64)), (metric,), step)


@pytest.fixture
def made(tmp_path):
    return run_with(tmp_path / "runs" / "mine", 10, 20, overrides=("train.steps=30",))


def test_all_numbers_are_there_those_of_the_weights_first(made):
    report(made, asked(made, "elbo", 10), elbo={"nll": 3.0, "stderr": 0.5, "nfe_mean": 98.6, "true_entropy": -1.25})
    report(made, asked(made, "elbo", 20), elbo={"nll": 2.0, "stderr": 0.25, "nfe_mean": 100.0})
    text = card_of(made)
    rows = [line for line in section(text, "Evaluation").splitlines() if line.startswith("| ")][2:]
    how = "velocities 1, probes 1, from t = 1e-05"
    assert rows == [
        f"| 20 | NLL bound, nats | 2.000 ± 0.250 | 64 points | 100 | {how} |",
        f"| 10 | NLL bound, nats | 3.000 ± 0.500 (true entropy -1.250) | 64 points | 99 | {how} |",
    ]
    assert "20 of 30 steps are done" in section(text, "Limits")
    assert "licence of the weights is not stated" in section(text, "Limits")
    (result,) = head_of(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "nll", "name": "NLL bound, nats", "value": 2.0}]


@pytest.mark.parametrize(("samples", "is_biased"), [(64, True), (50_000, False)])
def test_an_fid_of_few_samples_is_no_published_one(made, samples, is_biased):
    request = replace(asked(made, "elbo", 20), samples=samples)
    report(made, request, elbo={"nll": 2.0, "stderr": 0.25}, fid={"value": 9.5, "samples": samples})
    assert ("FIDs of fewer than 50,000 samples are biased" in section(card_of(made), "Limits")) == is_biased


def test_accounts_commands_and_folders_of_people_are_not_in_it(tmp_path):
    secrets = ("cluster.account=secret-account", "cluster.setup=[export TOKEN=secret-token]")
    hook = "hooks.on_change=curl secret-address"
    file = tmp_path / "secret-person" / "ring.py"
    file.parent.mkdir()
    toy_plugin(file, "ring_of_a_card")
    overrides = (*secrets, hook, f"plugins=[{file}]", "data.name=ring_of_a_card")
    made = run_with(tmp_path / "mine", 20, overrides=overrides)
    text = card_of(made)
    assert "secret" not in text
    assert "plug-in ring.py" in text
    shared = yaml.safe_load(section(text, "Recipe").partition("```yaml\n")[2].partition("```")[0])
    assert from_dict(shared, "card").network == made.recipe().network


def test_texts_of_others_are_no_markup(tmp_path):
    hostile = "<img src=x onerror=alert(1)> [a](https://evil.example) | ` **b** $x$ www.evil.example @a #1 ~~c~~ &lt;"
    made = run_with(tmp_path / "made", 20)
    # As a folder from elsewhere may be called.
    made = RunFolder(made.path.rename(tmp_path / hostile.replace("/", "")))
    text = card_of(made, row=replace(status_of_run(made), note=f"{hostile}\n---\nlicense: mit"))
    assert head_of(text)["license"] == "unknown"
    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"html": True}).parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert blocks == ["<details>\n<summary>The whole recipe</summary>\n", "</details>\n"]
    assert not [child for child in inline if child.type == "html_inline"]
    links = [child.attrs["href"] for child in inline if child.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2112.07068"]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["samples.png"]
    assert "strong_open" not in {child.type for child in inline}
