"""From complete shards to `report.json`, the TensorBoard scalars and the picture. Doing it twice changes nothing."""

import time
from pathlib import Path
from typing import Any

from cld_core.errors import CldError
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

from . import pictures, shard_files
from .request import EvalRequest, draws_samples
from .results import Number, numbers
from .shard_files import Arrays
from .work import WORK


class MergeError(CldError):
    """The shards of an evaluation do not make a whole."""


def is_current(path: Path) -> bool:
    """Whether the report was made from the shards that are there."""
    report, first = read_json(path / "report.json"), read_json(path / "shards" / "00000.json")
    return report is not None and first is not None and report.get("checkpoint") == first.get("checkpoint")


def merge(folder: RunFolder, name: str, model: Model) -> dict[str, Any]:
    """Put the shards together and write the report.

    Raises:
        MergeError: a gap, an overlap, or shards of different checkpoints or of another request.
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
    }
    for kind, joined in arrays.items():
        report |= WORK[kind].summary(model, request, joined)
    # Drawing pictures for bounds alone would take longer than they did; points of toys cost nothing.
    if draws_samples(request.metrics) or not model.is_image:
        print("all shards are complete: drawing samples.png", flush=True)
        at_once = request.batch_size if model.is_image else None
        pictures.samples(model, path / "samples.png", seed=request.seed, batch_size=at_once)
    board(folder, request, numbers(report))
    # Last: who sees the report sees everything.
    write_json(path / "report.json", report)
    return report


def gather(path: Path, request: EvalRequest) -> tuple[dict[str, Arrays], str]:
    """The arrays of all shards, by kind of work and in the order of samples or data, and their checkpoint's checksum.

    Raises:
        MergeError: a gap, an overlap, or shards of different checkpoints or of another request.
    """
    folder = path / "shards"
    states = {int(file.stem): read_json(file) or {} for file in sorted(folder.glob("*.json"))}
    checkpoint = _one_origin(path, request, states)
    found = {}
    for kind, size in request.work.items():
        order = _in_order(path, kind, size, _parts(states, kind))
        found[kind] = WORK[kind].join(_loaded(folder, number, kind) for number in order)
    return found, checkpoint


def _parts(states: dict[int, dict[str, Any]], kind: str) -> dict[int, dict[str, Any]]:
    """What the shards say of a kind of work; those that have no share in it are left out."""
    return {number: state["work"][kind] for number, state in states.items() if kind in state["work"]}


def _one_origin(path: Path, request: EvalRequest, states: dict[int, dict[str, Any]]) -> str:
    """The checkpoint that all shards were made with, for this request."""
    for number, state in states.items():
        if state.get("request") != request.id:
            text = f"shard {number} belongs to another request, {state.get('request')}"
            raise MergeError(f"{path}: {text}. Type the same `cldctl eval` again: it computes this one anew.")
    checkpoints = {state["checkpoint"] for state in states.values()}
    if len(checkpoints) > 1:
        text = "its shards were made with different checkpoints of the same step"
        raise MergeError(f"{path}: {text}. Type the same `cldctl eval` again: it replaces the stale ones.")
    return str(checkpoints.pop()) if checkpoints else ""


def _in_order(path: Path, kind: str, size: int, parts: dict[int, dict[str, Any]]) -> list[int]:
    """The numbers of the shards by the range that they cover, when together they cover ``size`` without a seam."""
    expected = 0
    order = sorted(parts, key=lambda number: int(parts[number]["first"]))
    for number in order:
        first, last, done = (int(parts[number][name]) for name in ("first", "last", "done"))
        if first != expected:
            which = "a gap" if first > expected else "an overlap"
            text = f"{which} between {min(first, expected)} and {max(first, expected)} of the {kind}"
            raise MergeError(f"{path}: the shards have {text}. Remove {path / 'shards'} and evaluate again.")
        if done != last - first:
            raise MergeError(_missing(path, kind, first + done, last))
        expected = last
    if expected != size:
        raise MergeError(_missing(path, kind, expected, size))
    return order


def _missing(path: Path, kind: str, first: int, last: int) -> str:
    return f"{path}: {first} to {last} of the {kind} are missing. Type the same `cldctl eval` again to compute them."


def _loaded(folder: Path, number: int, kind: str) -> Arrays:
    found = shard_files.load(folder, number, kind)
    if found is None:
        text = f"shard {number} is damaged ({shard_files.sealed_file(folder, number, kind)})"
        raise MergeError(f"{folder.parent}: {text}. Type the same `cldctl eval` again to compute it anew.")
    return found


def board(folder: RunFolder, request: EvalRequest, results: dict[str, Number]) -> None:
    """Write results for TensorBoard at the step of the checkpoint: for the same settings one curve over the steps."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder.tensorboard / f"eval-{request.settings}")) as writer:
        for name, number in results.items():
            writer.add_scalar(f"eval/{name}", number.value, request.checkpoint_step)
            if number.stderr is not None:
                writer.add_scalar(f"eval/{name}_stderr", number.stderr, request.checkpoint_step)
