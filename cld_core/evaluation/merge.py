"""From complete shards to `report.json`, the TensorBoard scalars and the picture. Doing it twice changes nothing."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from cld_core.errors import CldError
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

from . import elbo, pictures
from .request import EvalRequest


class MergeError(CldError):
    """The shards of an evaluation do not make a whole."""


def is_current(path: Path) -> bool:
    """Whether the report was made from the shards that are there."""
    report, first = read_json(path / "report.json"), read_json(path / "shards" / "00000.json")
    return report is not None and first is not None and report.get("checkpoint") == first.get("checkpoint")


def merge(folder: RunFolder, name: str, model: Model) -> dict[str, Any]:
    """Put the shards together and write the report.

    Raises:
        MergeError: a gap, an overlap, or shards of different checkpoints.
    """
    path = folder.evals / name
    request = EvalRequest.load(path)
    arrays, checkpoint = gather(path, request)
    report: dict[str, Any] = {
        "id": name,
        "run": folder.name,
        "checkpoint_step": request.checkpoint_step,
        "checkpoint": checkpoint,
        "created": time.time(),
        "elbo": elbo.summary(model, request, arrays),
    }
    pictures.samples(model, path / "samples.png", seed=request.seed)
    value = "bpd" if model.is_image else "nll"
    scalars = {value: report["elbo"][value], f"{value}_stderr": report["elbo"]["stderr"]}
    board(folder, request.checkpoint_step, scalars)
    # Last: who sees the report sees everything.
    write_json(path / "report.json", report)
    return report


def gather(path: Path, request: EvalRequest) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of all shards in the order of the data, and the checksum of their checkpoint."""
    states = [read_json(file) for file in sorted((path / "shards").glob("*.json"))]
    expected = 0
    for state in sorted(states, key=lambda state: state["first"]):
        if state["first"] != expected:
            kind = "a gap" if state["first"] > expected else "an overlap"
            text = f"{kind} between data {min(state['first'], expected)} and {max(state['first'], expected)}"
            raise MergeError(f"{path}: the shards have {text}. Remove {path / 'shards'} and evaluate again.")
        if state["done"] != state["last"] - state["first"]:
            text = f"data {state['first'] + state['done']} to {state['last']} are missing"
            raise MergeError(f"{path}: {text}. Type the same `cldctl eval` again to compute them.")
        expected = state["last"]
    if expected != request.samples:
        text = f"data {expected} to {request.samples} are missing"
        raise MergeError(f"{path}: {text}. Type the same `cldctl eval` again to compute them.")
    checkpoints = {state["checkpoint"] for state in states}
    if len(checkpoints) != 1:
        text = "its shards were made with different checkpoints of the same step"
        raise MergeError(f"{path}: {text}. Type the same `cldctl eval` again: it replaces the stale ones.")
    parts = []
    for file in sorted((path / "shards").glob("*.npz")):
        with np.load(file) as content:
            parts.append({field: content[field] for field in elbo.FIELDS})
    return {field: np.concatenate([part[field] for part in parts]) for field in elbo.FIELDS}, checkpoints.pop()


def board(folder: RunFolder, step: int, scalars: dict[str, float]) -> None:
    """Write results beside the training curves, at the step of the checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder.tensorboard)) as writer:
        for name, value in scalars.items():
            writer.add_scalar(f"eval/{name}", value, step)
