"""Where tests find the project's files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
FIXTURES = ROOT / "tests" / "fixtures"
