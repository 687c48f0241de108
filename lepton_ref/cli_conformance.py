"""`lepton-ref conformance BACKEND`: the suite on one backend, or one kept failure again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.runtime.progress import track


def conformance(args: argparse.Namespace) -> int:
    """Whether a backend computes what it must -> 0, or 1 where it does not."""
    from lepton_ref.conformance import run

    if args.replay is not None:
        return _replayed(args)
    if args.out is not None and not args.out.is_dir():
        raise FileNotFoundError(f"{args.out}: no such folder; make it, what fails is kept there")
    report = run(
        args.backend,
        ops=args.op,
        precisions=args.precision or ["reference"],
        seed=args.seed,
        examples=args.examples,
        progress=lambda work: track(work, "conformance", wanted=not args.json),
    )
    kept: list[Path] = [] if args.out is None else [failure.save(args.out) for failure in report.failures]
    if args.json:
        print(to_json({**report.facts(), "kept": [str(path) for path in kept]}))
    else:
        records(report.rows(), as_json=False)
        for line in report.notes():
            print(line)
        for path in kept:
            note(f"{path}: to be run again with --replay")
    return 0 if report.passed else 1


def _replayed(args: argparse.Namespace) -> int:
    """One kept failure on this backend."""
    from lepton_ref.conformance import load_capsule, replay

    capsule = load_capsule(args.replay)
    verdict = replay(capsule, args.backend)
    found: dict[str, Any] = {
        "check": capsule.check,
        "precision": capsule.case.precision,
        "numbers": verdict.elements,
        "then": capsule.message,
        "now": "passed" if verdict.wrong is None else verdict.wrong,
    }
    facts({**found, "passed": verdict.wrong is None} if args.json else found, as_json=args.json)
    return 0 if verdict.wrong is None else 1
