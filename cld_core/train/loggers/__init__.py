"""What shows a training while it runs: TensorBoard, and what the `monitor` section of the recipe adds.

A further logger is one file with a class that has the methods of `base.Logger`, its keys in `cld_core.config.monitor`,
and one line in `registry`.
"""

from .base import About, End, Logger
from .registry import close, opened

__all__ = ["About", "End", "Logger", "close", "opened"]
