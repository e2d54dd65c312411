"""The `hooks` section: commands of the user's that hear about a run."""

from dataclasses import dataclass

from .keys import key


@dataclass(frozen=True, kw_only=True)
class HooksSpec:
    on_change: str | None = key(None, "shell command that runs when the state of the run changes")
    timeout_s: float = key(30.0, "seconds after which the command is ended", gt=0, le=3600)
