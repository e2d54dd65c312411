"""The Python reference: mkdocstrings reads the docstrings, and imports nothing."""

import functools

import griffe

_HEAD = """# Python reference

Generated from the docstrings of the code. `import cld_core` loads no torch; `cld_core.load` does.
`cld_core.__version__` is the version. The [Python guide](../api.md) has examples.
"""

# The stable names, by heading.
NAMES = {
    "Loading a model": ("cld_core.load",),
    "Training": ("cld_core.fit", "cld_core.fit_steps"),
    "A trained model": (
        "cld_core.Model",
        "cld_core.Samples",
        "cld_core.Trajectory",
        "cld_core.Likelihood",
    ),
    "Samples given an observation": (
        "cld_core.conditioning.observation.Observation",
        "cld_core.conditioning.GradientGuidance",
        "cld_core.conditioning.Replacement",
        "cld_core.sde.estimate.posterior_mean",
    ),
    "Runs": ("cld_core.runs", "cld_core.Runs", "cld_core.runs_table.Run"),
    "Own data": ("cld_core.data.toy.toy",),
    "Plug-ins": ("cld_core.register",),
    "Diffusions and scores": (
        "cld_core.sde.base.Diffusion",
        "cld_core.score.Score",
        "cld_core.analytic.MixtureScore",
    ),
    "Likelihood of any score": (
        "cld_core.likelihood.likelihood",
        "cld_core.likelihood.log_density",
    ),
    "Recipes": ("cld_core.config.load", "cld_core.config.with_overrides", "cld_core.config.Recipe"),
    "Errors": ("cld_core.errors",),
}


def page() -> str:
    """The Markdown of the page."""
    lines = [_HEAD]
    for heading, names in NAMES.items():
        lines.append(f"## {heading}\n")
        # Many members of a class are defined in a base that is not part of the interface.
        lines += [f"::: {name}\n    options: {{inherited_members: true}}\n" for name in names]
    return "\n".join(lines)


def exists(name: str) -> bool:
    """Whether the code has something of this dotted name, with a docstring."""
    package, _, rest = name.partition(".")
    tree = _read(package)
    return (tree[rest] if rest else tree).docstring is not None


@functools.cache
def _read(package: str) -> griffe.Object | griffe.Alias:
    """The names of a package, which takes a second to read."""
    return griffe.load(package, try_relative_path=True, resolve_aliases=True)
