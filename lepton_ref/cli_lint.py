"""`lepton-ref lint FILE`: what is wrong with a file, or cannot be told of it."""

from __future__ import annotations

import argparse

from lepton_ref.cli_progress import progress
from lepton_ref.cli_report import note, records
from lepton_ref.runtime.find import find


def lint(args: argparse.Namespace) -> int:
    """Findings -> 0 where there are none, else 1."""
    from lepton_ref.audit.lint import lint as linted

    found = linted(find(args.file), progress=progress("lint", wanted=not args.json))
    rows = [one.row() for one in found]
    records(rows, as_json=args.json)
    if not args.json and not rows:
        note("nothing found")
    return 1 if any(one.severity in ("error", "warning") for one in found) else 0
