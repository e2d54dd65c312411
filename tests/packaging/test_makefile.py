"""`make` finds a Python that is new enough, and installs with it what a target needs."""

import re
import shutil
import subprocess
from datetime import date

import pytest
import yaml

import cld_core
from tests.support.paths import ROOT

# In place of a Python: it answers the question for its version, and notes what else it is asked to
# do. The environment that it makes consists of such Pythons, too.
FAKE = """#!/bin/sh
if [ "$1" = -c ]; then exit {too_old}; fi
echo "{name} $*" >> "$NOTED"
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "environment $*" >> "$NOTED"\\n' > "$3/bin/python"
    cp "$3/bin/python" "$3/bin/pip"
    chmod +x "$3/bin/python" "$3/bin/pip"
fi
"""
INSTALL = (
    "environment -m pip install --quiet --disable-pip-version-check --config-settings "
    "editable_mode=compat"
)


class Machine:
    """A machine on whose PATH these Pythons are, and nothing else but what the Makefile calls."""

    def __init__(self, folder, pythons):
        self.bin, self.venv, self.noted = folder / "bin", folder / "venv", folder / "noted"
        self.bin.mkdir()
        for tool in ("sh", "make", "touch", "mkdir", "cp", "chmod"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        for name, is_new in pythons.items():
            (self.bin / name).write_text(FAKE.format(name=name, too_old=int(not is_new)))
            (self.bin / name).chmod(0o755)

    def make(self, target, *variables):
        words = ["make", "-C", str(ROOT), f"VENV={self.venv}", *variables, f"{self.venv}/{target}"]
        env = {"PATH": str(self.bin), "NOTED": str(self.noted)}
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)

    def did(self):
        return self.noted.read_text().splitlines() if self.noted.exists() else []


@pytest.mark.parametrize(
    ("new", "old", "chosen"),
    [
        (["python3", "python3.11"], [], "python3"),
        (["python3.11", "python3.12"], ["python3"], "python3.11"),
        (["python3.14"], ["python3", "python3.11"], "python3.14"),
    ],
)
def test_the_first_python_that_is_new_enough_makes_the_environment(tmp_path, new, old, chosen):
    machine = Machine(tmp_path, dict.fromkeys(new, True) | dict.fromkeys(old, False))
    made = machine.make(".product")
    assert made.returncode == 0, made.stderr
    assert machine.did() == [f"{chosen} -m venv {machine.venv}", f"{INSTALL} --editable ."]


@pytest.mark.parametrize("variables", [[], ["PYTHON=python3.9"]])
def test_without_one_a_single_line_says_what_to_do(tmp_path, variables):
    machine = Machine(tmp_path, {"python3": False, "python3.9": False})
    made = machine.make(".product", *variables)
    assert made.returncode != 0
    line = next(line for line in made.stderr.splitlines() if line.startswith("error: "))
    assert "cldctl needs Python 3.11 or newer" in line
    assert "make PYTHON=/path/to/python3.12" in line
    assert machine.did() == []


LINES = (ROOT / "CHANGELOG.md").read_text().splitlines()


def _releases():
    found = (re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in LINES)
    return [(match[1], date.fromisoformat(match[2])) for match in found if match]


def test_the_newest_release_comes_first_and_is_the_version_of_the_package_and_the_one_to_cite():
    releases = _releases()
    assert releases == sorted(
        releases, key=lambda release: (release[1], *map(int, release[0].split("."))), reverse=True
    )
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["date-released"]) == releases[0]
    assert cited["version"] == cld_core.__version__
