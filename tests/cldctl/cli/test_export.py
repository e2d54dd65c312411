"""`cldctl export --card`: card, picture and weights that belong together."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

import cld_core
from cld_core.config.train import EmaSpec
from cld_core.data.format import DataFormat
from cld_core.evaluate.request import request_of
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.checkpoints import snapshot_files
from cldctl.page.model_card import CardFiles, card
from cldctl.runs import survey
from cldctl.runs.status import status_of
from tests.support.made_up import bound, ordered, report, run_with
from tests.support.plugin import toy_plugin
from tests.support.recipes import toy_recipe
from tests.support.tools import ONE, invoke

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_folder_holds_all_that_the_card_refers_to(runs, tmp_path, monkeypatch):
    said = invoke(f"export done --card {tmp_path}/card --license cc-by-4.0")
    assert said.stdout.splitlines() == [
        str(tmp_path / "card" / name) for name in ("model.safetensors", "README.md")
    ]
    assert "drawing samples of step 20" in said.stderr
    text = (tmp_path / "card/README.md").read_text()
    head = head_of(text)
    assert (head["license"], head["library_name"]) == ("cc-by-4.0", "cldctl")
    (report,) = RunFolder.open(runs / "done").evals.glob("elbo-*/report.json")
    elbo = json.loads(report.read_text())["elbo"]
    assert f" points | {elbo['nll']:.3f} ± {elbo['stderr']:.3f} |" in text
    assert "![Samples](samples.png)" in text
    assert (tmp_path / "card/samples.png").read_bytes().startswith(PNG)
    monkeypatch.chdir(tmp_path / "card")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, names := {})
    assert names["x"].shape == (64, 2)


def test_what_would_be_lost_or_cannot_be_written_is_refused(runs, tmp_path):
    (tmp_path / "others").mkdir()
    for name in ("README.md", "file", "others/samples.png"):
        (tmp_path / name).write_text("# Mine\n")
    for words, message in (
        (f"--card {tmp_path}", "README.md is not a card that cldctl wrote"),
        (f"--card {tmp_path}/file", "it is a file. Name a folder"),
        (f"--card {tmp_path}/none/card.md", "there is no folder"),
        (f"--card {tmp_path}/others", "samples.png exists, and no card is beside it"),
        ("--license mit", "Add --card FOLDER"),
        (f"--card {tmp_path}/new --license cc-by", "Did you mean 'cc-by-4.0'?"),
    ):
        assert message in invoke(f"export done {words}", code=2).stderr
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_weights_carry_no_commands_and_accounts(tmp_path):
    private = ["hooks.on_change=secret", "cluster.account=secret"]
    recipe = toy_recipe("network.width=8", "network.layers=2", *private)
    Model(recipe).export(tmp_path / "w.safetensors")
    assert b"secret" not in (tmp_path / "w.safetensors").read_bytes()
    loaded = cld_core.load(tmp_path / "w.safetensors").recipe
    for section in ("network", "sampling", "train"):
        assert getattr(loaded, section) == getattr(recipe, section)


def card_of(made, **changes):
    """The card for weights of step 20."""
    form = DataFormat(shape=(2,), scale=(3.0, 1.0), shift=(0.0, 0.0))
    net = torch.nn.Linear(2, 2)
    weights = SimpleNamespace(
        step=20, data_shape=(2,), is_image=False, ema_length=None, net=net, form=form
    )
    row = replace(status_of(made, survey.of_runs([made])), **changes)
    files = CardFiles(Path("README.md"), Path("samples.png"), Path("model.safetensors"))
    return card(made, row, weights, files, "unknown")


def head_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_all_numbers_are_there_those_of_the_weights_first(tmp_path):
    made = run_with(tmp_path / "mine", 10, 20, overrides=("train.steps=30", "eval.samples=64"))
    for step, nll in ((10, 3.0), (20, 2.0)):
        bound(made, step, nll, 0.5, n=64, nfe_mean=98.6)
    text = card_of(made)
    rows = [line for line in text.splitlines() if "points |" in line]
    assert [row[:5] for row in rows] == ["| 20 ", "| 10 "]
    assert "64 points | 2.000 ± 0.500 | velocities 1, probes 1, from t = 1e-05, 99 NFE" in rows[0]
    assert "20 of 30 steps are done" in text
    assert "licence of the weights is not stated" in text
    (result,) = head_of(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "nll", "name": "NLL bound, nats", "value": 2.0}]


@pytest.mark.parametrize(("samples", "is_biased"), [(64, True), (50_000, False)])
def test_an_fid_of_few_samples_is_no_published_one(tmp_path, samples, is_biased):
    made = run_with(tmp_path / "mine", 20, overrides=("train.steps=30", f"eval.samples={samples}"))
    request = request_of(made.recipe(), ("elbo",), 20)
    report(made, request, elbo={"nll": 2.0, "stderr": 0.25}, fid={"value": 9.5, "samples": samples})
    assert ("FIDs of fewer than 50,000 samples are biased" in card_of(made)) == is_biased


def test_the_file_and_the_scaling_of_arrays_are_said(tmp_path):
    data = f"data={{name: arrays, path: {tmp_path / 'x.npy'}}}"
    text = card_of(run_with(tmp_path / "mine", 20, overrides=(data,)))
    assert "the arrays in x.npy, which the network sees scaled (standard)" in text


def test_accounts_commands_and_folders_of_people_are_not_in_it(tmp_path):
    (tmp_path / "secret-person").mkdir()
    file = toy_plugin(tmp_path / "secret-person" / "ring.py", "ring_of_a_card")
    secrets = ("cluster.account=secret-account", "hooks.on_change=curl secret-address")
    text = card_of(run_with(tmp_path / "mine", 20, overrides=(*secrets, f"plugins=[{file}]")))
    assert "secret" not in text
    assert "plug-in ring.py" in text


def test_texts_of_others_are_no_markup(tmp_path):
    hostile = (
        "<img src=x onerror=alert(1)> [a](https://evil.example) | ` **b** $x$ "
        "www.evil.example @a #1 ~~c~~ &lt;"
    )
    # As a folder from elsewhere may be called.
    made = run_with(tmp_path / "made", 20).path.rename(tmp_path / hostile.replace("/", ""))
    text = card_of(RunFolder(made), note=f"{hostile}\n---\nlicense: mit")
    assert head_of(text)["license"] == "unknown"
    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"html": True}).parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    assert not any("onerror" in token.content for token in tokens if token.type == "html_block")
    links = [child.attrs["href"] for child in inline if child.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2112.07068"]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["samples.png"]
    assert not {"html_inline", "strong_open"} & {child.type for child in inline}


LONGER = ("train.steps=40", "train.checkpoint_every=20")
KEPT = ("train.ema_lengths=[0.05,0.1]", "train.ema_every=2")
QUICK = ("eval.samples=16", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run with snapshots."""
    root = tmp_path_factory.mktemp("runs")
    invoke("submit toy --name mine --cluster debug", *ONE, *LONGER, *KEPT, *QUICK, runs=root)
    return root


def test_an_export_of_a_length_says_so(root, tmp_path):
    target = tmp_path / "x.safetensors"
    model = cld_core.load(root / "mine", ema_length=0.2)
    files = f"--card {tmp_path}/card -o {target}"
    done = invoke(f"export mine --ema-length 0.2 {files}", runs=root)
    assert "averaged weights of step 40, EMA length 0.2" in done.stderr
    loaded = cld_core.load(target)
    assert "step 40, EMA length 0.2" in repr(loaded)
    torch.testing.assert_close(loaded.net.state_dict(), model.net.state_dict(), rtol=0, atol=0)
    assert (
        "the power-function average of relative length 0.2 at step 40"
        in (tmp_path / "card/README.md").read_text()
    )
    with pytest.raises(cld_core.errors.UsageError, match="a file has one average"):
        cld_core.load(target, ema_length=0.1)


def test_prune_removes_snapshots_when_it_is_asked_to(root):
    run = RunFolder(root / "mine")
    invoke("eval mine --loss ema.length=0.2 --cluster debug", runs=root)
    assert "averages" not in invoke("prune mine --dry-run", runs=root).stderr
    asked = invoke("prune mine --averages --dry-run", runs=root).stderr
    assert "removes all snapshots of averages" in asked
    assert len(run.snapshot_steps()) == 20
    waiting = ordered(run, 40, "loss", ema=EmaSpec(length=0.08)).folder
    refused = invoke("prune mine --averages --yes", runs=root, code=2).stderr
    assert f"{waiting.name} still needs the snapshots of averages" in refused
    shutil.rmtree(waiting)
    invoke("prune mine --averages --yes", runs=root)
    assert snapshot_files(run) == []
    refused = invoke("eval mine --loss ema.length=0.19", runs=root, code=2).stderr
    assert "ema.length=0.19 cannot be made for step 40" in refused
