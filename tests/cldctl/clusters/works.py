"""Work for jobs of tests: small, picklable, without torch."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Report:
    """Write the facts of the job to ``folder/NAME.json``; wait for ``folder/go`` or a signal."""

    folder: str
    name: str
    waits: bool = False

    def __call__(self, job, stop):
        place = job.place()
        folder = Path(self.folder)
        facts = {
            "pid": os.getpid(),
            "ref": {**vars(job.ref), "details": dict(job.ref.details)},
            "place": vars(place),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        name = self.name if place.world_size == 1 else f"{self.name}.{place.rank}"
        print(f"work {name}", flush=True)
        (folder / f".{name}").write_text(json.dumps(facts))
        (folder / f".{name}").rename(folder / f"{name}.json")
        while self.waits and stop.code == 0 and not (folder / "go").exists():
            time.sleep(0.02)
        if stop.code:
            (folder / f"{name}.stopped").touch()


@dataclass(frozen=True)
class Stubborn:
    """Ignore SIGTERM until killed."""

    def __call__(self, job, stop):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
