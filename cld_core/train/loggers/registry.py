"""The loggers by name, each as "module:attribute", which is imported when a recipe names it."""

from collections.abc import Sequence
from functools import partial

from cld_core.imports import resolve
from cld_core.registration import table

from .background import Background
from .base import About, End, Logger, OverOf
from .tensorboard import Board

# A class, called with what is logged. Each of them may be slow or fail: they run in threads of their own.
_SHIPPED = {
    "wandb": "cld_core.train.loggers.wandb_logger:WandbLogger",
    "mlflow": "cld_core.train.loggers.mlflow_logger:MlflowLogger",
}
LOGGERS = table("loggers", _SHIPPED)
TITLES = {"wandb": "Weights & Biases", "mlflow": "MLflow"}


def opened(about: About, over: OverOf) -> list[Logger]:
    """TensorBoard, the loggers that the recipe switches on, and those of its plug-ins.

    Args:
        over: makes, of the name of a logger, what is told when something of it was dropped.
    """
    loggers: list[Logger] = [Board(about, over("tensorboard"))]
    for name in [*about.recipe.monitor.chosen(), *(name for name in LOGGERS if name not in _SHIPPED)]:
        loggers.append(Background(TITLES.get(name, name), partial(_made, name, about), over(name)))
    return loggers


def close(loggers: Sequence[Logger], end: End) -> None:
    """Let loggers write what is left, all at the same time: together they get a few seconds."""
    for logger in loggers:
        if isinstance(logger, Background):
            logger.begin_close(end)
    for logger in loggers:
        logger.close(end)


def _made(name: str, about: About) -> Logger:
    logger: Logger = resolve(LOGGERS[name])(about)
    return logger
