"""Plug-ins that register a toy density."""


def toy_plugin(file, name, *, first="", more="", points="torch.randn(n, 2, generator=generator)"):
    """A file that registers one by this name; ``first`` is done at its import, ``more`` are
    arguments of `toy`."""
    head = f"import torch\nfrom cld_core.data.toy import toy\n{first}\n"
    file.write_text(f"{head}\n@toy({name!r}{more})\ndef draw(n, generator):\n    return {points}\n")
    return file
