"""Train a run without a scheduler: ``torchrun --nproc-per-node 8 -m cld_core.train runs/NAME --recipe FILE``.

The run folder is made from the recipe unless it is there; then the same command goes on with it. mpirun works too,
with MASTER_ADDR and MASTER_PORT set (docs/reproducing.md). SIGUSR2 and SIGTERM save and end.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from cld_core import __version__
from cld_core.errors import CldError, NotFoundError
from cld_core.recipe import Recipe, load
from cld_core.run import RunFolder
from cld_core.stop import StopFlag


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cld_core.train", description=__doc__)
    parser.add_argument("run_folder", help="where the run is, or is to be; on a disk that all hosts see")
    parser.add_argument("--recipe", help="YAML file to make the run from, unless it is there")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="recipe keys to change, for a new run only")
    arguments = parser.parse_intermixed_args()
    stop = StopFlag().listen()
    from cld_core import ranks as distributed

    from . import session

    try:
        path = Path(arguments.run_folder)
        recipe = _recipe(path, arguments.recipe, arguments.overrides)
        ranks = distributed.join(gpu=recipe.cluster.uses_gpu)
        problem = None
        if ranks.is_first:
            try:
                _make(path, recipe, arguments.recipe)
            except CldError as error:
                problem = error
        problem = ranks.from_first(problem)
        if problem is not None:
            raise problem
        folder = RunFolder.open(arguments.run_folder)
        job_id = os.environ.get("TORCHELASTIC_RUN_ID") or f"pid-{os.getpid()}"
        ended = session.run(folder, ranks, stop, job_id=job_id)
        ranks.leave()
    except CldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{folder.name}: {ended.cause} at step {ended.step}", flush=True)
    return 0


def _recipe(path: Path, file: str | None, overrides: list[str]) -> Recipe:
    """That of the run, or where there is none yet the one to make it from."""
    if (path / "run.json").is_file():
        return RunFolder.open(path).recipe()
    if file is None:
        raise NotFoundError(f"there is no run at {path}. Say --recipe FILE to make it.")
    return load(file, overrides)


def _make(path: Path, recipe: Recipe, file: str | None) -> None:
    """Make the run folder unless it is there."""
    if (path / "run.json").is_file():
        return
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "cldctl": __version__}
    about = {"recipe_file": file, "versions": versions, "host": platform.node()}
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    RunFolder.create(path, recipe, {"created": time.time(), "recipe": recipe.name, **about})


if __name__ == "__main__":
    sys.exit(main())
