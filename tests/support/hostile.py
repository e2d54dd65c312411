"""A folder with modules in it that nothing may import, as somebody may have left them where commands are typed."""

from pathlib import Path

NAMES = (
    "submitit",
    "torch",
    "numpy",
    "random",
    "json",
    "typer",
    "psutil",
    "cloudpickle",
    "pickle",
    "socket",
    "argparse",
)


def hostile(folder: Path) -> Path:
    """Fill ``folder``; an import of any of its modules makes ``folder/imported-NAME``."""
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        code = f"open({str(folder / f'imported-{name}')!r}, 'w').close()\nraise SystemExit('hostile {name}')\n"
        (folder / f"{name}.py").write_text(code)
    return folder


def imported(folder: Path) -> list[str]:
    """Which of the modules were imported, by anybody."""
    return sorted(path.name.removeprefix("imported-") for path in folder.glob("imported-*"))
