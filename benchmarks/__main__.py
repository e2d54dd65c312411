"""How fast it all is, compared with a plain baseline and the machine's limits.

python -m benchmarks [TOPIC ...]
"""

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks import harness

# In the order in which users meet them. Each is a module with a function `topic(settings) ->
# Report`.
TOPICS = (
    "limits",
    "cli",
    "data",
    "toy_step",
    "ema",
    "sampling",
    "likelihood",
    "checkpoint",
    "resume",
    "ncsnpp_step",
    "fleet",
    "gpu",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "topics", nargs="*", metavar="TOPIC", help=f"any of {', '.join(TOPICS)} (default: all)"
    )
    harness.arguments(parser)
    parsed = parser.parse_args()
    for name in parsed.topics:
        if name not in TOPICS:
            parser.error(f"unknown topic {name!r}; choose from {', '.join(TOPICS)}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as work:
        settings = harness.settings_of(parsed, Path(work))
        chosen = [
            (name, importlib.import_module(f"benchmarks.{name}").topic)
            for name in parsed.topics or TOPICS
        ]
        reports = harness.run(chosen, settings, parsed.json)
    missed = [text for report in reports for text in report.missed()]
    print("missed: " + "; ".join(missed) if missed else "no targets missed")


if __name__ == "__main__":
    main()
