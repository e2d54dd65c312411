"""Weights & Biases: all attempts of a run are one run there, of the same name."""

import html
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import wandb
from torch import Tensor

from cld_core.records import to_plain
from cld_core.sanitize import one_line

from . import End, LoggedAttempt

# Seconds that the end of an attempt waits for uploads. `wandb sync` uploads the rest.
_UPLOAD_S = 8.0
# Seconds that the server has to answer.
_ANSWER_S = 10.0


class WandbLogger:
    """The run of the same name in a project of Weights & Biases; another attempt continues it.

    Every report carries "step", over which all curves are drawn, and "attempt": after a resume from
    an earlier checkpoint, repeated steps are shown beside the first ones. W&B's own count of steps
    only grows, so it accepts them.

    If the server cannot be reached, or there is no API key, this attempt is only written into the
    run folder.
    """

    def __init__(self, about: LoggedAttempt) -> None:
        self._about = about
        mode = about.recipe.monitor.wandb.mode
        if mode == "online" and not _can_connect():
            mode = "offline"
            _print_offline("there is no API key; run `wandb login`", about)
        try:
            self._run = self._opened(mode)
        except Exception as error:
            if mode == "offline":
                raise
            _print_offline(one_line(error) or type(error).__name__, about)
            # The process behind the package still holds the id.
            wandb.teardown(exit_code=1)
            self._run = self._opened("offline")
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def _opened(self, mode: Literal["online", "offline", "disabled"]) -> Any:
        spec = self._about.recipe.monitor.wandb
        folder = self._about.folder
        # W&B gets neither the log nor the code nor facts about the machine.
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            init_timeout=_ANSWER_S,
            finish_timeout=_UPLOAD_S,
        )
        return wandb.init(
            project=spec.project,
            entity=spec.entity,
            id=folder.name,
            name=folder.name,
            resume="allow",
            mode=mode,
            dir=str(folder.path),
            config=to_plain(self._about.recipe.to_share()),
            allow_val_change=True,
            reinit="create_new",
            settings=settings,
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step, "attempt": self._about.attempt})

    def text(self, name: str, markdown: str, step: int) -> None:
        self._run.log(
            {name: wandb.Html(f"<pre>{html.escape(markdown)}</pre>", inject=False), "step": step}
        )

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self._run.log({name: wandb.Image(pixels.numpy()), "step": step})

    def close(self, end: End) -> None:
        if end == "stopped":
            # W&B then shows the run as preempted, not as failed.
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if end == "finished" else 1)


def _can_connect() -> bool:
    """Whether W&B can connect without asking for an API key at the terminal.

    A training on the cluster `debug` may run in a terminal, and would wait for the key.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    return "WANDB_IDENTITY_TOKEN_FILE" in os.environ or wandb.api.api_key is not None


def _print_offline(reason: str, about: LoggedAttempt) -> None:
    print(
        f"Weights & Biases is out of reach ({reason}); upload this attempt later with "
        f"`wandb sync {about.folder.path / 'wandb'}/offline-run-*`",
        flush=True,
    )
