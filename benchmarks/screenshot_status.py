"""A picture of `cldctl status` for the documentation, from made-up runs.

    python -m benchmarks.screenshot_status [docs/images/status.svg]

The tables are those of the command; only the runs are invented, so that the picture is the same each time.
"""

import io
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from benchmarks import svg
from cldctl.runs.status import RunStatus
from cldctl.show.console import PlainConsole, out
from cldctl.show.runs import details_with_groups, overview_with_groups

WIDTH, HEIGHT = 112, 60
TARGET = Path("docs/images/status.svg")


def attempt(number: int, job_id: str, first: int, last: int, ran_s: float, cause: str | None) -> dict[str, Any]:
    steps = {"first_step": first, "last_step": last}
    return {"attempt": number, "job_id": job_id, **steps, "ran_s": ran_s, "cause": cause, "detail": None}


def evaluation(name: str, step: int, n: int, **results: tuple[float, float | None]) -> dict[str, Any]:
    numbers = {key: {"value": value, "stderr": stderr, "n": n} for key, (value, stderr) in results.items()}
    values = {key: results[key][0] if key in results else None for key in ("fid", "bpd", "nll")}
    about = {"id": name, "state": "FINISHED", "checkpoint_step": step, "shards_done": 16, "shards": 16}
    return {**about, **values, "results": numbers, "true_entropy": None, "remarks": [], "settings": name}


def runs() -> list[RunStatus]:
    """Runs as people have them on a Friday: finished, preempted, training, waiting, failed; and a sweep."""
    preempted = [
        attempt(0, "4123456", 0, 311_000, 43_120.0, "preempted"),
        attempt(1, "4123456", 311_000, 402_350, 12_660.0, "node_failed"),
        attempt(2, "4123456", 400_000, 512_350, 15_910.0, None),
    ]
    slurm = {"cluster": "slurm", "steps": 800_000}
    baseline = RunStatus(
        name="cifar10-1119-091502-41c7",
        path="runs/cifar10-1119-091502-41c7",
        state="FINISHED",
        step=800_000,
        loss=1_543.0,
        checkpoint_step=800_000,
        job_id="4101220",
        attempts=[attempt(0, "4101220", 0, 800_000, 110_000.0, "finished")],
        evals=[evaluation("fid-00800000-5c1e", 800_000, 50_000, fid=(2.27, None))],
        **slurm,
    )
    training = RunStatus(
        name="cifar10-1125-102022-1152",
        path="runs/cifar10-1125-102022-1152",
        state="RUNNING",
        phase="training",
        step=512_350,
        loss=1_561.0,
        smoothed_loss=1_552.8,
        steps_per_s=7.06,
        eta_s=40_741.0,
        checkpoint_step=510_000,
        job_id="4123456",
        host="gpu-a17",
        updated=time.time() - 2.0,
        attempts=preempted,
        evals=[
            evaluation("fid-elbo-00400000-9f02", 400_000, 10_000, fid=(3.02, None), bpd=(3.331, 0.004)),
            evaluation("fid-00500000-9f02", 500_000, 50_000, fid=(2.41, None)),
        ],
        **slurm,
    )
    waiting = RunStatus(
        name="celebahq256-1126-140311-a0f3",
        path="",
        state="PENDING",
        phase="waiting for the queue",
        job_id="4130977",
        **slurm,
    )
    failed = RunStatus(
        name="cifar10-lr1e-3-1124-181500-77be",
        path="",
        state="FAILED",
        step=23_400,
        checkpoint_step=20_000,
        job_id="4119002",
        attempts=[attempt(0, "4119002", 0, 23_400, 3_300.0, "nonfinite")],
        **slurm,
    )
    sweep = [
        RunStatus(
            name=f"lr-seed{seed}", path="", state=state, step=step, steps=20_000, group="lr", sweep={"seed": f"{seed}"}
        )
        for seed, (state, step) in enumerate([("FINISHED", 20_000), ("RUNNING", 14_200), ("PENDING", 0)])
    ]
    return [baseline, failed, training, waiting, *sweep]


def record(target: Path) -> None:
    """Write the picture."""
    rows = runs()
    training = next(row for row in rows if row.state == "RUNNING")
    # The tables ask the console of the commands for its width; a terminal records what they draw.
    before = {name: getattr(out, name) for name in ("_width", "_height", "_as_terminal")}
    out._width, out._height, out._as_terminal = WIDTH, HEIGHT, True
    screen = PlainConsole(width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True)
    parts: list[tuple[str, RenderableType]] = [
        ("cldctl status", overview_with_groups(rows, HEIGHT)),
        (f"cldctl status {training.name}", details_with_groups([training], [])),
    ]
    for command, shown in parts:
        screen.print(Text.assemble(("$ ", "green"), (command, "bold")))
        screen.print(shown)
    for name, value in before.items():
        setattr(out, name, value)
    picture = screen.export_svg(title="cldctl status", unique_id="status")
    target.write_text(svg.without_fonts(picture))


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
