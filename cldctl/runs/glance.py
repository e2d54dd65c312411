"""A run for the moment of one look: what does not change meanwhile is read once."""

import functools
from typing import Any

from cld_core.run import RunFolder


class Glance(RunFolder):
    """A run folder that remembers its identity and what evaluations and tunings it has; for one answer, not longer.

    Progress, ledgers and results are read when they are asked for: they have to be newer than what clusters say.
    """

    def identity(self) -> dict[str, Any]:
        return self._identity

    def evaluation_names(self) -> list[str]:
        return self._evaluation_names

    def tuning_names(self) -> list[str]:
        return self._tuning_names

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return super().identity()

    @functools.cached_property
    def _evaluation_names(self) -> list[str]:
        return super().evaluation_names()

    @functools.cached_property
    def _tuning_names(self) -> list[str]:
        return super().tuning_names()
