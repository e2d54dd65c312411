"""Where tests find the project's files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
TOY = RECIPES / "toy.yaml"
FIXTURES = ROOT / "tests" / "fixtures"
# Overrides: a data set that takes its time for each batch, and does what a file tells it.
MISBEHAVING = ("data.name=misbehaving", f"plugins={Path(__file__).with_name('misbehaving.py')}")
