"""Check a GPU. Exit code 0 if nothing fails or there is none, 1 if something fails, 2 for wrong usage."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from cld_core.errors import CldError

from .findings import Context, Finding, counted, without_card
from .registry import CHECKS, find


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.list:
        print("\n".join(f"{check.name}{'  (quick)' if check.quick else ''}" for check in CHECKS))
        return 0
    # Training prints its progress; stdout is for findings.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from . import running

    try:
        checks = find(arguments.checks, quick=arguments.quick)
        card = running.card() if arguments.device == "cuda" else "the CPU"
        _announce(answers, card, len(checks), as_json=arguments.json)
        if card is None:
            return 0
        failed = False
        with tempfile.TemporaryDirectory(prefix="gpu-checks-", dir=arguments.work, ignore_cleanup_errors=True) as work:
            context = Context(work=Path(work), device=arguments.device, scale=arguments.scale)
            for check in checks:
                finding = running.run(check, context, catch=not arguments.debug)
                _print(answers, finding, as_json=arguments.json)
                failed = failed or finding.verdict == "fail"
    except CldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cld_core.gpu_checks", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="names of checks (default: all)")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument("--quick", action="store_true", help="only the quick checks")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--debug", action="store_true", help="let a check raise, to see where")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the checks themselves")
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: networks for a CPU")
    parser.add_argument("--work", type=Path, help="folder for data and checkpoints, 6 GB (default: that of tempfile)")
    return parser


def _announce(answers: TextIO, card: str | None, checks: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"card": card, "checks": checks}), file=answers)
    elif card is None:
        print(without_card(checks), file=answers)
    else:
        print(f"{counted(checks)} on {card}", file=answers)


def _print(answers: TextIO, finding: Finding, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(finding.to_dict()), file=answers)
        return
    print(f"{finding.verdict:4}  {finding.name}: {finding.found}", file=answers)
    if finding.advice:
        print(f"      {finding.advice}", file=answers)


if __name__ == "__main__":
    sys.exit(main())
