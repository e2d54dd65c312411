"""What a plug-in registers, for a command that loads no torch: `python -m cld_core.data.plugin_report FILE [NAME]`.

Prints one JSON object: `names` that the plug-in registers, `data` as `identity.of` tells of NAME (empty without a name,
or if there is no such density), or `problem`. What the plug-in prints goes to stderr.
"""

import json
import os
import sys
from typing import Any, NoReturn

from cld_core.config.data import ToyDataSpec
from cld_core.errors import DataError
from cld_core.sanitize import one_line

_LONGEST = 500  # characters of a problem


def report(plugin: str, name: str | None = None) -> dict[str, Any]:
    """What is printed about a plug-in and the density ``name``, which is drawn from."""
    from . import identity, toy

    try:
        names = toy.names_from(plugin)
    except DataError as error:
        return {"problem": one_line(error, _LONGEST)}
    except SystemExit as error:
        return {"problem": f"data.plugin {plugin!r} cannot be imported: it ends the process ({one_line(error.code)})."}
    about = {"names": list(names), "data": {}}
    if name in toy.names():
        try:
            about["data"] = identity.of(ToyDataSpec(name=name, plugin=plugin))
        except Exception as error:  # user code may raise anything
            return {"problem": one_line(f"{name}: {type(error).__name__}: {error}", _LONGEST)}
    return about


def main() -> NoReturn:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer.write(json.dumps(report(*sys.argv[1:])))
    answer.flush()
    # Threads that the plug-in has started keep nothing waiting.
    os._exit(0)


if __name__ == "__main__":
    main()
