"""Train a run without a scheduler.

    torchrun --nproc-per-node 8 -m cld_core.train runs/NAME --recipe toy

The run folder is created from the recipe if it does not exist; the same command continues an
existing run. mpirun works too, with MASTER_ADDR and MASTER_PORT set. SIGUSR2 and SIGTERM save and
end.

Exit codes, the same in all ranks: 0, all steps are done; 75, start it again; 2 and 3, the recipe,
the command or the run is wrong, and another start would end in the same way; 1, anything else
(docs/howto/any-launcher.md).
"""

import argparse
import os
import sys
from pathlib import Path

from cld_core import cpu
from cld_core.config import Recipe, load, shipped
from cld_core.errors import CldError, NotFoundError
from cld_core.files import passes
from cld_core.rendezvous import Place
from cld_core.run import RunFolder
from cld_core.run.identity import identity
from cld_core.run.work import Start, Training
from cld_core.stop import StopFlag

# Seconds for which reading the recipe of a run is retried while the file system fails.
_READ_WITHIN_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cld_core.train", description=__doc__)
    parser.add_argument(
        "run_folder", type=Path, help="the run, new or existing; on a disk that all hosts see"
    )
    parser.add_argument(
        "--recipe", help="recipe (a file or a name) to create the run from, if it does not exist"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="recipe keys to change, for a new run only",
    )
    arguments = parser.parse_intermixed_args()
    cpu.wait_briefly()
    # Before torch is loaded, which takes seconds: an early signal must not kill.
    stop = StopFlag().listen()
    from cld_core.ranks import exit_code, join

    try:
        recipe = _recipe(arguments.run_folder, arguments.recipe, arguments.overrides)
        ranks = join(
            Place.from_environment(),
            gpu=recipe.cluster.uses_gpu,
            timeout_s=recipe.train.hang_timeout_s,
        )
        ranks.use_cores(recipe.cluster.cpus_per_task)
        ranks.on_first(lambda: _create(arguments.run_folder, recipe, arguments.recipe))
        RunFolder.open(arguments.run_folder)
        job_id = os.environ.get("TORCHELASTIC_RUN_ID") or f"pid-{os.getpid()}"
        training = Training(arguments.run_folder)
        outcome = training.compute(ranks, stop, start=Start(job_id=job_id))
        # A launcher may kill all ranks as soon as one ends with another code than 0. Rank 0 has
        # written to the ledger by then.
        ranks.on_first(lambda: None)
        ranks.leave()
    except (CldError, OSError) as error:
        if not isinstance(error, CldError) and not passes(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    return 0 if outcome.is_done else os.EX_TEMPFAIL


def _recipe(path: Path, file: str | None, overrides: list[str]) -> Recipe:
    """The recipe of the run, or the one to create a new run from."""
    if RunFolder(path).exists:
        return RunFolder.open(path).recipe(within_s=_READ_WITHIN_S, with_plugins=True)
    if file is None:
        raise NotFoundError(f"no run at {path}. Pass --recipe RECIPE to create it.")
    return load(shipped.named(file, shipped.recipes()) or Path(file), overrides)


def _create(path: Path, recipe: Recipe, file: str | None) -> None:
    if not RunFolder(path).exists:
        RunFolder.create(path, recipe, identity(recipe.name, file))


if __name__ == "__main__":
    sys.exit(main())
