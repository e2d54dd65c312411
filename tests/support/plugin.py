"""Plug-ins that register a toy density."""


def toy_plugin(file, name, *, first="", points="torch.randn(n, 2, generator=generator)"):
    """A file that registers one by this name; ``first`` is done whenever it is imported."""
    head = f"import torch\nfrom cld_core.data.toy import toy\n{first}\n"
    file.write_text(f"{head}\n@toy({name!r})\ndef draw(n, generator):\n    return {points}\n")
    return file
