"""Runs with checkpoints and reports that nobody computed: what reads them needs no training."""

from pathlib import Path
from typing import Any

from cld_core.evaluation.request import EvalRequest
from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json
from cld_core.run.intact import FORMAT
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"
CONTENT = b"tensors"


def run_with(path: Path, *steps: int, overrides: tuple[str, ...] = ()) -> RunFolder:
    """A run with whole (but empty) checkpoints."""
    import hashlib

    run = RunFolder.create(path, load(TOY, overrides), {"created": 1.0})
    for step in steps:
        file = run.checkpoint_file(step)
        file.write_bytes(CONTENT)
        sidecar = {"format": FORMAT, "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
        write_json(file.with_suffix(".json"), sidecar)
    return run


def damage(run: RunFolder, step: int) -> None:
    run.checkpoint_file(step).write_bytes(CONTENT.upper())


def report(run: RunFolder, request: EvalRequest, **sections: dict[str, Any]) -> None:
    """Make a request complete with these results."""
    request.save(run)
    sidecar = read_json(run.checkpoint_file(request.checkpoint_step).with_suffix(".json"))
    about = {"checkpoint_step": request.checkpoint_step, "checkpoint": sidecar["sha256"], "created": 1.0}
    write_json(run.evals / request.id / "report.json", {**about, **sections})
