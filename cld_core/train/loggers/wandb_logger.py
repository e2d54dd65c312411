"""Weights & Biases: one run there for each run here, under its name, whatever the number of
attempts."""

import html
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import wandb
from torch import Tensor

from cld_core.codec import to_plain
from cld_core.sanitize import one_line

from . import About, End

# Seconds that the end of an attempt waits for uploads. The rest stays on the disk, for `wandb
# sync`.
_UPLOAD_S = 8.0
# Seconds after which a server that does not answer is given up.
_ANSWER_S = 10.0


class WandbLogger:
    """The run of the same name in a project of Weights & Biases; another attempt continues it.

    Every report carries "step", by which all curves are drawn, and "attempt": steps that come again
    after a resume from an earlier checkpoint are shown beside those that were there. W&B's own
    count of steps only grows, so it takes all.

    If the server cannot be reached, or knows no key, this attempt is written into the run folder
    alone.
    """

    def __init__(self, about: About) -> None:
        self._about = about
        mode = about.recipe.monitor.wandb.mode
        if mode == "online" and not _may_ask():
            mode = "offline"
            _tell_offline("there is no API key; run `wandb login`", about)
        try:
            self._run = self._opened(mode)
        except Exception as error:
            if mode == "offline":
                raise
            _tell_offline(one_line(error) or type(error).__name__, about)
            # The process behind the package still holds the id.
            wandb.teardown(exit_code=1)
            self._run = self._opened("offline")
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def _opened(self, mode: Literal["online", "offline", "disabled"]) -> Any:
        spec, folder = self._about.recipe.monitor.wandb, self._about.folder
        # The log belongs to the launcher, the code to the snapshot, and the machine to others.
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
            # It will go on: W&B says "preempted", not "failed".
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if end == "finished" else 1)


def _may_ask() -> bool:
    """Whether W&B asks nobody for a key at the terminal, where a training of `--cluster debug` may
    run."""
    if not (sys.stdin is not None and sys.stdin.isatty()):
        return True
    return "WANDB_IDENTITY_TOKEN_FILE" in os.environ or wandb.api.api_key is not None


def _tell_offline(reason: str, about: About) -> None:
    where = f"`wandb sync {about.folder.path / 'wandb'}/offline-run-*`"
    print(
        f"Weights & Biases is out of reach ({reason}); upload this attempt later with {where}",
        flush=True,
    )
