"""Runs with made-up checkpoints and reports, for tests of code that only reads them."""

from pathlib import Path
from typing import Any

from cld_core.codec import to_plain
from cld_core.config import load
from cld_core.digests import checksum
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.checkpoints import FORMAT, Content, Sidecar, weights_digest, weights_file
from cld_core.run.evaluations import EvalRequest
from cld_core.run.groups import Group
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"
CONTENT = b"tensors"


def run_with(path: Path, *steps: int, overrides: tuple[str, ...] = ()) -> RunFolder:
    """A run with checkpoints that verify, but hold no tensors."""
    run = RunFolder.create(path, load(TOY, overrides), {"created": 1.0})
    for step in steps:
        run.checkpoint_file(step).write_bytes(CONTENT)
        weights_file(run, step).write_bytes(CONTENT)
        vouch(run, step)
    return run


def vouch(run: RunFolder, step: int, **about: Any) -> None:
    """Write the sidecar of files that are there, whatever they hold."""
    state, weights = (
        Content(file.stat().st_size, checksum(file)) for file in (run.checkpoint_file(step), weights_file(run, step))
    )
    sidecar = Sidecar(format=FORMAT, step=step, state=state, weights=weights, **about)
    write_json(run.checkpoint_file(step).with_suffix(".json"), to_plain(sidecar, sparse=True))


def seeds(
    root: Path, group: str, number: int, *steps: int, infix: str = "-", overrides: tuple[str, ...] = ()
) -> list[RunFolder]:
    """A group of runs that differ in `train.seed`, from 0, which ends their names; checkpoints as in `run_with`."""
    values = {f"{group}{infix}{seed}": {"train.seed": str(seed)} for seed in range(number)}
    runs = []
    for name, sweep in values.items():
        run = run_with(root / name, *steps, overrides=overrides)
        write_json(run.identity_file, run.identity() | {"group": group, "sweep": sweep})
        runs.append(run)
    Group(root, group).add(values)
    return runs


def damage(run: RunFolder, step: int) -> None:
    run.checkpoint_file(step).write_bytes(CONTENT.upper())


def report(run: RunFolder, request: EvalRequest, **sections: dict[str, Any]) -> None:
    """Make a request complete with these results."""
    request.save(run)
    step = request.checkpoint_step
    about = {"checkpoint_step": step, "checkpoint": weights_digest(run, step), "created": 1.0}
    write_json(run.evals / request.id / "report.json", {**about, **sections})
