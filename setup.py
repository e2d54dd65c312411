"""What pyproject.toml cannot say: the folder `recipes/` is data of the package `cld_core` when that
is built."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies `recipes/` to `cld_core/recipes/`. A checkout, installed or not, reads `recipes/`
    itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in sorted(Path("recipes").rglob("*.yaml")):
            target = Path(self.build_lib, "cld_core", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithRecipes})
