"""How large the house is, against ceilings that only go down: `make lint` runs it, `-v` names what is counted.

Code lines hold a token that is neither comment nor docstring; templates, scripts and styles of the packages count with
every line that is not blank. Cycles are of imports at any depth, those for type checking aside. A file with one
importer is an idea that belongs into that importer; what the command line declares and what a registry names by a
string is left out.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Lower one whenever its figure falls. Only features and repairs that users asked for raise one, as their own data,
# networks and scripts did, and the defects that a stranger, a cluster engineer and independent scripts found.
CEILINGS = {
    "cld_core": 16_057,
    "cldctl": 13_434,
    "tests": 23_823,
    "benchmarks": 2_928,
    "files": 191,
    "one importer": 12,
    "same name": 12,
    "cycles": 0,
    "cluster names compared": 0,
    "vague names": 0,
    "exceptions of import rules": 1,
    # A mean: it rises by itself when sparse lines go, as imports do where files are joined.
    "tokens per 10 lines, cld_core": 109,
    "tokens per 10 lines, cldctl": 101,
    "tokens per 10 lines, tests": 116,
    "fmt: off": 11,
}
PACKAGES = ("cld_core", "cldctl")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
# What counts as code beside Python.
TEMPLATES = (".js", ".css", ".html", ".jinja", ".j2", ".svg", ".sh", ".yaml", ".xml", ".txt", ".md")
# Names of files that stand for a story, not for a thing of the field.
VAGUE = re.compile(
    "acting|asked|blame|changes|contents|damages|doing|drafts|edits|ends|given|glance|home|inside|joined|known|lines|"
    "marks|newer|outer|pending|place|printed|recheck|requests|shared|side_by_side|slim|starting|stopped|tellers|texts|"
    "times|tried|trouble|unasked|unfit|warned|whole|works"
)
_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_COMPARED = re.compile(
    r"""[=!]=\s*"(?:slurm|local|debug)"|"(?:slurm|local|debug)"\s*[=!]=|in \("(?:slurm|local|debug)\""""
)


@dataclass
class File:
    """A Python file: its name for imports, its tree, and how many code lines and tokens it has."""

    path: Path
    text: str = field(init=False)
    tree: ast.Module = field(init=False)
    lines: int = field(init=False)
    tokens: int = field(init=False)

    def __post_init__(self):
        self.text = self.path.read_text()
        self.tree = ast.parse(self.text)
        docstrings, code, self.tokens = _docstring_lines(self.tree), set[int](), 0
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type != tokenize.COMMENT and token.type not in _LAYOUT:
                code |= set(range(token.start[0], token.end[0] + 1))
                self.tokens += token.start[0] not in docstrings
        self.lines = len(code - docstrings)

    @property
    def module(self):
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_package(self):
        return self.path.name == "__init__.py"


def _docstring_lines(tree):
    found = set[int]()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            found |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return found


def imported(file):
    """The dotted names that a file imports at any depth, except for type checking alone."""
    guarded = [
        node for node in ast.walk(file.tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    left_out = {id(inner) for node in guarded for inner in ast.walk(node)}
    package = file.module if file.is_package else file.module.rpartition(".")[0]
    for node in ast.walk(file.tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{name.name}" for name in node.names)


def graph(files):
    """By module, the modules that it imports. The package that a module is in is imported with it, and left out."""

    def module_of(name):
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {
            other
            for name in imported(file)
            if (other := module_of(name)) and other != module
            if not (files[other].is_package and module.startswith(f"{other}."))
        }
        for module, file in files.items()
    }


def cycles(edges):
    """A group of modules that import each other, if there is one."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return [sorted(set(error.args[1]))]
    return []


def measure():
    """The figures, by the names of their ceilings, and what is behind them."""
    files: dict[str, File] = {}
    lines, tokens, rooms = Counter[str](), Counter[str](), Counter[str]()
    unformatted = 0
    for top in FOLDERS:
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix == ".py":
                file = File(path)
                lines[top] += file.lines
                tokens[top] += file.tokens
                unformatted += len(re.findall(r"# fmt: (?:off|skip)", file.text))
                if top in PACKAGES:
                    files[file.module] = file
                    parts = path.relative_to(ROOT).with_suffix("").parts
                    rooms["/".join(parts[:2]) if len(parts) > 2 else top] += file.lines
            elif top in PACKAGES and path.suffix in TEMPLATES:
                lines[top] += sum(1 for line in path.read_text().splitlines() if line.strip())
    edges = graph(files)
    importers = Counter(other for others in edges.values() for other in others)
    loaded = {name for file in files.values() for name in re.findall(r'"(cld(?:_core|ctl)[\w.]+):\w+"', file.text)}
    plain = {module: file for module, file in files.items() if file.path.stem not in ("__init__", "__main__")}
    lone = [
        module
        for module, file in plain.items()
        if importers[module] == 1 and "cli" not in file.path.parts and module not in loaded
    ]
    names = Counter(file.path.stem for file in plain.values())
    vague = [module for module, file in plain.items() if VAGUE.fullmatch(file.path.stem)]
    rules = (ROOT / "pyproject.toml").read_text()
    circles = cycles(edges)
    compared = sum(len(_COMPARED.findall(file.text)) for file in files.values() if "clusters" not in file.path.parts)
    figures = {
        **{top: lines[top] for top in FOLDERS},
        "files": len(files),
        "one importer": len(lone),
        "same name": sum(count > 1 for count in names.values()),
        "cycles": len(circles),
        "cluster names compared": compared,
        "vague names": len(vague),
        "exceptions of import rules": len(re.findall(r'^\s*"cld[\w.* {},/-]*->|= \["TID253"', rules, re.MULTILINE)),
        **{f"tokens per 10 lines, {top}": round(10 * tokens[top] / max(1, lines[top])) for top in (*PACKAGES, "tests")},
        "fmt: off": unformatted,
    }
    behind: dict[str, object] = {
        "rooms": dict(rooms.most_common()),
        "one importer": lone,
        "vague names": vague,
        "same name": [name for name, count in names.items() if count > 1],
        "cycles": circles,
    }
    return figures, behind


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-v", "--verbose", action="store_true", help="name what is counted")
    is_verbose = parser.parse_args().verbose
    figures, behind = measure()
    above = [name for name, figure in figures.items() if figure > CEILINGS[name]]
    for name, figure in figures.items():
        if is_verbose or name in above:
            print(f"{name:30s}{figure:8,d}  ceiling {CEILINGS[name]:,d}{'   above' if name in above else ''}")
    if is_verbose:
        for name, what in behind.items():
            print(name, what)
    print(f"{len(above)} above their ceiling: {', '.join(above)}" if above else "all within their ceilings")
    return bool(above)


if __name__ == "__main__":
    sys.exit(main())
