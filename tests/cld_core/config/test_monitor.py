"""The `monitor` section: what may be typed, and that it changes nothing else of a run."""

import pytest

from cld_core.config import load
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"
ON = ["monitor.wandb.project=p", "monitor.mlflow.tracking_uri=https://host/m"]


def test_nothing_is_on_by_itself():
    assert load(TOY).monitor.chosen() == ()
    assert load(TOY, ON).monitor.chosen() == ("wandb", "mlflow")
    assert load(TOY, [*ON, "monitor.wandb.mode=disabled"]).monitor.chosen() == ("mlflow",)


def test_it_does_not_belong_to_what_is_shared():
    assert "monitor" not in load(TOY, ON).to_share()


URIS = "http://host:5000 https://user@host/path databricks databricks://profile sqlite:////home/me/m.db"


@pytest.mark.parametrize("uri", [*URIS.split(), "file:///home/me/mlruns", "postgresql+psycopg2://host/db"])
def test_addresses(uri):
    assert load(TOY, [f"monitor.mlflow.tracking_uri={uri}"]).monitor.mlflow.tracking_uri == uri


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:secret@host", "holds a password.*MLFLOW_TRACKING_PASSWORD"),
        ("sqlite:///m.db", r"relative path.*sqlite:////ABSOLUTE/PATH"),
        ("file:mlruns", r"relative path.*file:///ABSOLUTE/PATH"),
        ("mlruns", "cannot be 'mlruns'; expected http://HOST:PORT"),
        ("http://", "cannot be 'http://'"),
        ("http://[", "is not an address"),
    ],
)
def test_other_addresses_are_refused(uri, words):
    with pytest.raises(RecipeError, match=f"'monitor.mlflow.tracking_uri' .*{words}") as refused:
        load(TOY, [f"monitor.mlflow.tracking_uri='{uri}'"])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a/b", "'a:b'", "' '"])
def test_names_that_wandb_refuses_later_are_refused_now(name):
    with pytest.raises(RecipeError, match=r"'monitor\.wandb\.project' cannot be"):
        load(TOY, [f"monitor.wandb.project={name}"])
