"""What users install: the distributions are whole, and each way of installing them gives recipes
and profiles."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from cld_core.version import __version__
from tests.support.paths import RECIPES, ROOT

pytestmark = pytest.mark.by_hand

SITE_PACKAGES = sysconfig.get_path("purelib")


def call(*words, cwd, **env):
    """What a command prints; fails with all of it if the command does."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "CLDCTL_", "PIP_"))
    }
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def listed(*options):
    """The files of the checkout that git lists; without git, in a source distribution, all of
    them."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    done = subprocess.run(words, capture_output=True, text=True)
    names = done.stdout.split("\0") if done.returncode == 0 else files_below(ROOT)
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout: building leaves files in it."""
    folder = tmp_path_factory.mktemp("source") / "cldctl"
    for name in listed("--cached", "--others", "--exclude-standard"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(source):
    """The folder of the source distribution and of the wheel that is built from it."""
    call(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        source.parent / "built",
        source,
        cwd=source,
    )
    return source.parent / "built"


@pytest.fixture(scope="module")
def wheel(built):
    return built / f"cldctl-{__version__}-py3-none-any.whl"


def files_below(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_twine_finds_nothing_to_complain_about(built, wheel):
    files = sorted(built.iterdir())
    assert files == [wheel, built / f"cldctl-{__version__}.tar.gz"]
    said = call(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=built)
    assert said.count("PASSED") == 2


def test_the_wheel_holds_the_packages_and_the_recipes_and_nothing_else(source, wheel):
    code = {
        f"{package}/{name}"
        for package in ("cld_core", "cldctl")
        for name in files_below(source / package)
    }
    recipes = {f"cld_core/recipes/{name}" for name in files_below(RECIPES)}
    assert "cldctl/py.typed" in code
    assert "cld_core/recipes/profiles/example.yaml" in recipes
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    found = {name for name in names if f"-{__version__}.dist-info/" not in name}
    assert found == code | recipes


def test_the_source_distribution_holds_what_building_and_testing_need(source, built):
    with tarfile.open(built / f"cldctl-{__version__}.tar.gz") as archive:
        names = {
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        }
    assert set(listed()) - names <= {".gitignore"}
    assert not {
        name
        for name in names
        if name.endswith(".pyc") or name.startswith(("runs/", "build/", ".venv"))
    }


@dataclass(frozen=True)
class Installed:
    """An installation: the Python that has it, and the folder in which its code is."""

    python: Path
    cwd: Path
    code: Path

    def cldctl(self, *words):
        return call(
            self.python, "-m", "cldctl", *words, cwd=self.cwd, COLUMNS="200", HOME=str(self.cwd)
        )


def environment(folder):
    """The Python of a new environment that sees the dependencies of this one, but not the cldctl of
    this one."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    packages = call(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).strip()
    # The `.pth` files in a folder that is named by such a file are not read, so that no editable
    # install is found.
    Path(packages, "dependencies.pth").write_text(f"{SITE_PACKAGES}\n")
    return python


@pytest.fixture(scope="module", params=["venv", "editable"])
def installed(request, wheel, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (empty := folder / "empty").mkdir()
    python, is_wheel = environment(folder / "venv"), request.param == "venv"
    what = (wheel,) if is_wheel else ("--no-build-isolation", "--editable", source)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    )
    call(*pip, "--ignore-installed", "--no-compile", *what, cwd=folder)
    return Installed(python, empty, folder / "venv" if is_wheel else source)


def test_what_was_installed_lists_its_recipes_and_submits_one_with_a_profile_that_comes_with_it(
    installed,
):
    where = "import cldctl, cld_core; print(cldctl.__file__); print(cld_core.__file__)"
    found = call(installed.python, "-c", where, cwd=installed.cwd).split()
    assert all(Path(path).is_relative_to(installed.code) for path in found), found
    listed = installed.cldctl("recipes")
    for file in RECIPES.glob("*.yaml"):
        assert f" {file.stem} " in listed
    assert "/recipes" not in listed
    shown = installed.cldctl(
        "submit", "toy", "--profile", "example", "--cluster", "slurm", "--dry-run"
    )
    assert "#SBATCH --account=my-project" in shown
    assert list(installed.cwd.iterdir()) == []
