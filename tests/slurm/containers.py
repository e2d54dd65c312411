"""Stand-ins for containers: programs that hide Slurm's clients from what they start, and say that
it runs inside.

The files of the machine are those of the container, as where the host's Python environment is
mounted at its own path.
"""

import shutil
import sys

from tests.support.tools import program

# A container that takes its PATH from the image.
WITHOUT_CLIENTS = """\
#!/bin/sh
export PATH={inside} CLDCTL_TEST_INSIDE={name}
exec "$@"
"""
# One whose image has the clients, but not the configuration that SLURM_CONF names.
UNCONFIGURED = """\
#!/bin/sh
export SLURM_CONF=/nowhere/slurm.conf CLDCTL_TEST_INSIDE=unconfigured
exec "$@"
"""
# srun of a cluster with Pyxis: if a container is among its options, Python runs in it.
SRUN = """\
#!/bin/sh
for argument; do
    shift
    case $argument in
        --container-image=*) enter={enter} ;;
        {python}) set -- "$@" $enter "$argument" ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec {srun} "$@"
"""
# A sitecustomize.py: each Python of a job leaves a line, where it runs and its arguments.
RECORD = """\
import os, sys
if "SLURM_JOB_ID" in os.environ:
    with open({file!r}, "a") as file:
        print(os.environ.get("CLDCTL_TEST_INSIDE", "outside"), *sys.orig_argv[1:], file=file)
"""


class Containers:
    """Stand-ins in a folder, each as overrides of a recipe."""

    def __init__(self, folder):
        inside = folder / "inside"
        inside.mkdir(parents=True)
        (inside / "sh").symlink_to("/bin/sh")
        texts = {
            name: WITHOUT_CLIENTS.format(inside=inside, name=name)
            for name in ("apptainer", "pyxis")
        }
        enter = {name: program(folder / name, text) for name, text in texts.items()}
        unconfigured = program(folder / "unconfigured", UNCONFIGURED)
        srun = SRUN.format(enter=enter["pyxis"], python=sys.executable, srun=shutil.which("srun"))
        path = program(folder / "bin" / "srun", srun).parent
        self.apptainer = (f"cluster.container={enter['apptainer']}",)
        self.unconfigured = (f"cluster.container={unconfigured}",)
        self.pyxis = (
            "cluster.srun_args=[--container-image=image.sqsh]",
            f"cluster.setup=['export PATH={path}:$PATH']",
        )
        self.path = folder / "record"
        self._pythons = folder / "pythons"
        program(self.path / "sitecustomize.py", RECORD.format(file=str(self._pythons)))

    def pythons(self):
        """What each Python of a job was, if `path` was in PYTHONPATH: where it ran, and its
        arguments."""
        return [line.partition(" ")[::2] for line in self._pythons.read_text().splitlines()]
