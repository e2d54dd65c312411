"""Small chunks of rows, so that work of few rows can be divided."""

from dataclasses import replace

from cld_core import metrics as registry


def cut(monkeypatch, rows):
    """Let files of this process hold so many rows of any kind."""
    for kind, it in list(registry.ROWS.items()):
        monkeypatch.setitem(registry.ROWS, kind, replace(it, chunk=rows))
    monkeypatch.setattr("cld_core.run.shards.CHUNK", rows)
    monkeypatch.setattr(registry, "POINTS_CHUNK", rows)
