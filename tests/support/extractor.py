"""A feature extractor of microseconds, for tests; `cld_core.gpu_checks.fid` makes weights for the real Inception."""

from pathlib import Path

# Overrides of a recipe that let it look at images with it.
TINY = ("eval.fid.extractor=tiny", f"plugins={Path(__file__).parent / 'tiny_extractor.py'}")
