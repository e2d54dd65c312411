"""Figures of the house, against ceilings that only go down: `make lint` runs it, `-v` says more.

Size is counted in tokens, without comments, docstrings and layout; an f-string is one token.
Packing statements does not change it. A line of a template, script or style of a package counts 8
tokens.

- Long statements: simple statements inside functions with more than 40 tokens.
- Packed: assignments of several values to several names at once (swaps aside), and of one value to
  several targets.
- Fragments: raised messages that are put together from a text in a local variable.
- People: somebody, nobody, whoever, anybody, someone, in code, comments and docstrings.
- Same class name: public classes of the two packages that share a name; events aside.
- Cycles: of imports at any depth; those for type checking aside.
- One importer: a file with one importer is an idea that belongs into that importer. What the
  command line declares and what a registry names by a string is left out.

A figure is there to find what to take apart. A statement that is split to pass a counter, and reads
no better, is a defect.
"""

import argparse
import ast
import bisect
import io
import re
import sys
import tokenize
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Lower one whenever its figure falls.
CEILINGS = {
    "tokens, cld_core": 176_462,
    "tokens, cldctl": 132_170,
    "tokens, tests": 271_618,
    "tokens, benchmarks": 35_650,
    "files": 192,
    "long statements, cld_core": 40,
    "long statements, cldctl": 41,
    "long statements, tests": 85,
    "lines above 100 columns": 0,
    "packed": 2,
    "fragments": 11,
    "people": 0,
    "same class name": 0,
    "same name": 11,
    "one importer": 13,
    "cycles": 0,
    "cluster names compared": 0,
    "vague names": 0,
    "exceptions of import rules": 1,
    "fmt: off": 5,
}
PACKAGES = ("cld_core", "cldctl")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
LONG_STATEMENT = 40  # tokens
LONG_LINE = 100  # columns
# What counts as code beside Python, and how many tokens a line of it is.
TEMPLATES = (".js", ".css", ".html", ".jinja", ".j2", ".svg", ".sh", ".yaml", ".xml", ".txt", ".md")
TOKENS_OF_A_LINE = 8
PEOPLE = re.compile(r"\b(?:somebody|nobody|whoever|anybody|someone)\b", re.IGNORECASE)
# Names of files that stand for a story, not for a thing of the field.
VAGUE = re.compile(
    "acting|asked|blame|changes|contents|damages|doing|drafts|edits|ends|given|glance|home|inside|"
    "joined|known|lines|marks|newer|outer|pending|place|printed|recheck|requests|shared|"
    "side_by_side|slim|starting|stopped|tellers|texts|times|tried|trouble|unasked|unfit|warned|"
    "whole|works"
)
_LAYOUT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
_CLUSTER = '"(?:slurm|local|debug)"'
_COMPARED = re.compile(rf"[=!]=\s*{_CLUSTER}|{_CLUSTER}\s*[=!]=|in \({_CLUSTER}")
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class File:
    """A Python file: its text, its syntax tree, and where its tokens are."""

    def __init__(self, path):
        self.path = path
        self.text = path.read_text()
        self.tree = ast.parse(self.text)
        self.tokens = []
        docstrings = _docstring_lines(self.tree)
        # From Python 3.12 an f-string is a series of tokens between these two.
        inside = 0
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            name = tokenize.tok_name[token.type]
            inside -= name == "FSTRING_END"
            is_code = token.type not in _LAYOUT and token.start[0] not in docstrings
            if is_code and not inside and name != "FSTRING_END":
                self.tokens.append(token.start)
            inside += name == "FSTRING_START"

    @property
    def module(self):
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_package(self):
        return self.path.name == "__init__.py"

    def size_of(self, node):
        """Tokens of a statement."""
        start = bisect.bisect_left(self.tokens, (node.lineno, node.col_offset))
        end = bisect.bisect_left(self.tokens, (node.end_lineno, node.end_col_offset))
        return end - start

    def functions(self):
        return [node for node in ast.walk(self.tree) if isinstance(node, _FUNCTION)]

    def long_statements(self):
        statements = {
            id(node): node
            for function in self.functions()
            for node in ast.walk(function)
            if isinstance(node, ast.stmt) and not hasattr(node, "body")
        }
        return [node for node in statements.values() if self.size_of(node) > LONG_STATEMENT]

    def packed(self):
        return [
            node for node in ast.walk(self.tree) if isinstance(node, ast.Assign) and _packs(node)
        ]

    def fragments(self):
        return [
            node
            for function in self.functions()
            for node in ast.walk(function)
            if isinstance(node, ast.Raise)
            and node.exc is not None
            and _names(node.exc) & _texts_of(function)
        ]

    def long_lines(self):
        lines = self.text.splitlines()
        return [number for number, line in enumerate(lines, 1) if len(line) > LONG_LINE]

    def people(self):
        lines = self.text.splitlines()
        return [number for number, line in enumerate(lines, 1) for _ in PEOPLE.findall(line)]

    def public_classes(self):
        """Names of classes. Names of events are those of the ledger."""
        if self.path.name == "events.py":
            return []
        return [
            node.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]


def _packs(node):
    """Whether an assignment gives several values to several names, or one value to several."""
    if len(node.targets) > 1:
        return True
    target = node.targets[0]
    if not (isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)):
        return False
    names = {ast.unparse(element) for element in target.elts}
    return names != {ast.unparse(element) for element in node.value.elts}


def _names(node):
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _texts_of(function):
    """Names of local variables of a function that hold a text."""
    made = (ast.JoinedStr, ast.BinOp, ast.IfExp, ast.Constant)
    return {
        node.targets[0].id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, made)
        and any(_is_text(inner) for inner in ast.walk(node.value))
    }


def _is_text(node):
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return isinstance(node, ast.JoinedStr)


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
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
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
    """By module, the modules that it imports. The package that a module is in is imported with it,
    and left out."""

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


def read():
    """The Python files of the packages, tests and benchmarks, by folder."""
    return {top: [File(path) for path in sorted((ROOT / top).rglob("*.py"))] for top in FOLDERS}


def template_lines(top):
    """How many lines that are not blank the templates, scripts and styles of a package have."""
    texts = [path.read_text() for path in (ROOT / top).rglob("*") if path.suffix in TEMPLATES]
    return sum(bool(line.strip()) for text in texts for line in text.splitlines())


def located(files, kind):
    """Where a method of `File` finds nodes or lines: PATH:LINE, sorted."""
    return [
        f"{file.path.relative_to(ROOT)}:{getattr(found, 'lineno', found)}"
        for file in files
        for found in kind(file)
    ]


def lone_modules(files, edges):
    """Modules with one importer; what the command line declares and registries name left out."""
    importers = Counter(other for others in edges.values() for other in others)
    registered = {
        name
        for file in files.values()
        for name in re.findall(r'"(cld(?:_core|ctl)[\w.]+):\w+"', file.text)
    }
    return [
        module
        for module, file in files.items()
        if importers[module] == 1
        and file.path.stem not in ("__init__", "__main__")
        and "cli" not in file.path.parts
        and module not in registered
    ]


def measure():
    """By figure, what it counts: a number, or a list of what is behind it."""
    by_folder = read()
    files = [file for top in PACKAGES for file in by_folder[top]]
    modules = {file.module: file for file in files}
    edges = graph(modules)
    stems = Counter(file.path.stem for file in files)
    classes = Counter(name for file in files for name in file.public_classes())
    rules = (ROOT / "pyproject.toml").read_text()
    everything = [file for top in FOLDERS for file in by_folder[top]]

    found = {}
    for top in FOLDERS:
        templates = template_lines(top) if top in PACKAGES else 0
        tokens = sum(len(file.tokens) for file in by_folder[top])
        found[f"tokens, {top}"] = tokens + TOKENS_OF_A_LINE * templates
    found["files"] = len(files)
    for top in (*PACKAGES, "tests"):
        found[f"long statements, {top}"] = located(by_folder[top], File.long_statements)
    found["lines above 100 columns"] = located(files, File.long_lines)
    found["packed"] = located(files, File.packed)
    found["fragments"] = located(files, File.fragments)
    found["people"] = located(files, File.people)
    found["same class name"] = sorted(name for name, count in classes.items() if count > 1)
    found["same name"] = sorted(
        name for name, count in stems.items() if count > 1 and not name.startswith("__")
    )
    found["one importer"] = lone_modules(modules, edges)
    found["cycles"] = cycles(edges)
    found["cluster names compared"] = sum(
        len(_COMPARED.findall(file.text)) for file in files if "clusters" not in file.path.parts
    )
    found["vague names"] = [
        module for module, file in modules.items() if VAGUE.fullmatch(file.path.stem)
    ]
    found["exceptions of import rules"] = len(
        re.findall(r'^\s*"cld[\w.* {},/-]*->|= \["TID253"', rules, re.MULTILINE)
    )
    found["fmt: off"] = sum(
        len(re.findall(r"# fmt: (?:off|skip)", file.text)) for file in everything
    )
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="name what is counted")
    is_verbose = parser.parse_args().verbose
    found = measure()
    figures = {name: it if isinstance(it, int) else len(it) for name, it in found.items()}
    above = [name for name, figure in figures.items() if figure > CEILINGS[name]]
    for name, figure in figures.items():
        if is_verbose or name in above:
            mark = "   above" if name in above else ""
            print(f"{name:30s}{figure:8,d}  ceiling {CEILINGS[name]:,d}{mark}")
        if is_verbose and not isinstance(found[name], int):
            for place in found[name]:
                print("   ", place)
    print(f"{len(above)} above their ceiling: {', '.join(above)}" if above else "all within")
    return bool(above)


if __name__ == "__main__":
    sys.exit(main())
