"""What a model card says of made-up runs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from cld_core.config import from_dict
from cld_core.config.variants import names
from cld_core.errors import UsageError
from cld_core.evaluate.request import EvalRequest
from cld_core.files import write_json
from cld_core.run import RunFolder
from cldctl.page.model_card import DIFFUSIONS, CardFiles, card, licence
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, status_of
from tests.support.made_up import report, run_with

FILES = CardFiles(Path("README.md"), Path("samples.png"), Path("model.safetensors"))


def model_of(**changes) -> SimpleNamespace:
    """Weights of step 20."""
    about = {"step": 20, "data_shape": (2,), "is_image": False, "ema_length": None, "net": torch.nn.Linear(2, 2)}
    return SimpleNamespace(**{**about, **changes})


def card_of(run, license_="unknown", row=None, **changes) -> str:
    return card(run, row or status(run), model_of(**changes), FILES, license_)


def status(run) -> RunStatus:
    return status_of(run, survey.of_runs([run]))


def head_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def asked(run, metric: str, step: int) -> EvalRequest:
    recipe = run.recipe()
    return EvalRequest.of(replace(recipe, eval=replace(recipe.eval, samples=64)), (metric,), step)


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "runs" / "mine", 10, 20, overrides=("train.steps=30",))


def test_all_numbers_are_there_those_of_the_weights_first(run):
    report(run, asked(run, "elbo", 10), elbo={"nll": 3.0, "stderr": 0.5, "nfe_mean": 98.6, "true_entropy": -1.25})
    report(run, asked(run, "elbo", 20), elbo={"nll": 2.0, "stderr": 0.25, "nfe_mean": 100.0})
    text = card_of(run)
    rows = [line for line in section(text, "Evaluation").splitlines() if line.startswith("| ")][2:]
    how = "velocities 1, probes 1, from t = 1e-05"
    assert rows == [
        f"| 20 | NLL bound, nats | 2.000 ± 0.250 | 64 points | 100 | {how} |",
        f"| 10 | NLL bound, nats | 3.000 ± 0.500 (true entropy -1.250) | 64 points | 99 | {how} |",
    ]
    (result,) = head_of(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "nll", "name": "NLL bound, nats", "value": 2.0}]


def test_what_is_not_known_is_said(run):
    limits = section(card_of(run), "Limits")
    assert "20 of 30 steps are done" in limits
    assert "These weights have not been evaluated" in limits
    assert "licence of the weights is not stated" in limits
    licensed = card_of(run, "mit", replace(status(run), steps=20))
    assert head_of(licensed)["license"] == "mit"
    assert "steps are done" not in section(licensed, "Limits")
    assert "licence" not in section(licensed, "Limits")


def test_an_fid_of_few_samples_is_no_published_one(run):
    for step, count in ((10, 1000), (20, 50_000)):
        # As if it had been asked for samples, for which a toy has no use.
        request = replace(asked(run, "elbo", step), samples=count)
        report(run, request, fid={"value": 5.0, "samples": count})
    for step, expected in ((10, True), (20, False)):
        text = card_of(run, step=step, data_shape=(3, 8, 8), is_image=True)
        assert ("cannot be compared with published ones" in text) is expected
        assert head_of(text)["pipeline_tag"] == "unconditional-image-generation"


def test_accounts_commands_and_folders_of_people_are_not_in_it(tmp_path):
    secrets = ("cluster.account=secret-account", "cluster.setup=[export TOKEN=secret-token]")
    hook = "hooks.on_change=curl secret-address"
    plugin = "data.plugin=/home/secret-person/ring.py"
    run = run_with(tmp_path / "mine", 20, overrides=(*secrets, hook, plugin, "data.name=ring"))
    text = card_of(run)
    assert "secret" not in text
    assert "plug-in ring.py" in text
    shared = yaml.safe_load(section(text, "Recipe").partition("```yaml\n")[2].partition("```")[0])
    assert from_dict(shared, "card").network == run.recipe().network


def test_the_recipe_is_a_difference_and_the_whole_is_folded(tmp_path):
    data = str(tmp_path / "elsewhere" / "ring.py")
    overrides = ("optim.lr=0.002", f"data.plugin={data}", "cluster.account=ours")
    run = run_with(tmp_path / "mine", 20, overrides=overrides)
    write_json(run.identity_file, run.identity() | {"recipe": "toy"})
    recipe = section(card_of(run), "Recipe")
    before, _, folded = recipe.partition("<details>")
    assert "2 keys differ from toy, a recipe that comes with cldctl." in before
    rows = [line for line in before.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| data.plugin | ring.py | null |", "| optim.lr | 0.002 | 0.001 |"]
    assert len(before.splitlines()) < 10
    assert "objective:" in folded
    assert folded.rstrip().endswith("</details>")
    run = run_with(tmp_path / "plain", 20)
    assert "No key differs from toy," in section(card_of(run), "Recipe")


def test_texts_of_others_are_no_markup(tmp_path):
    hostile = "<img src=x onerror=alert(1)> [a](https://evil.example) | ` **b** $x$ www.evil.example @a #1 ~~c~~ &lt;"
    run = run_with(tmp_path / "run", 20)
    # As a folder from elsewhere may be called.
    run = RunFolder(run.path.rename(tmp_path / hostile.replace("/", "")))
    text = card_of(run, row=replace(status(run), note=f"{hostile}\n---\nlicense: mit"))
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


def test_every_diffusion_has_a_name_and_a_paper(tmp_path):
    assert set(DIFFUSIONS) == set(names("sde"))
    for sde, key in (("psld", "pandey2023complete"), ("cld", "dockhorn2022score")):
        run = run_with(tmp_path / sde, 20, overrides=(f"sde.name={sde}",))
        text = card_of(run)
        assert key in section(text, "Citation")
        assert DIFFUSIONS[sde][0] in text


@pytest.mark.parametrize("text", ["MIT", "GPL-3.0", "gpl-3.0-only", "openrail++", "odbl", "llama3.1", "other"])
def test_licences_are_written_as_hugging_face_does(text):
    assert licence(text) == text.lower()


@pytest.mark.parametrize("text", ["", "mit or apache-2.0", "mit+", "LicenseRef-mine", "\x1b[31mmit"])
def test_what_is_not_one_licence_is_refused(text):
    with pytest.raises(UsageError, match="not a licence"):
        licence(text)
