"""What somebody asks for with a new run, one by itself or a group of them."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says about a new run, or about each run of a group, besides its recipe.

    Attributes:
        metrics: of the evaluation that follows the training; none without one.
        given: overrides and ``profile`` of the command line; a recipe that was loaded with them has them already.
        tags: to find it again by; ``note``: what it is for.
        live_code: run the checkout itself, in place of a copy in the run's folder.
    """

    metrics: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    profile: str | None = None
    tags: tuple[str, ...] = ()
    note: str | None = None
    live_code: bool = False

    def common(self) -> dict[str, Any]:
        """These fields alone, of something that has others besides."""
        return {field.name: getattr(self, field.name) for field in fields(Asked)}
