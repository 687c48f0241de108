"""`lepton-ref explain FILE TENSOR ROW COL`: one number from its bytes to its value."""

from __future__ import annotations

import argparse

from lepton_ref.cli_report import to_json
from lepton_ref.runtime.find import find


def explain(args: argparse.Namespace) -> int:
    """One number -> 0, or 1 where what `decode` gives is not what its bits mean."""
    from lepton_ref.audit.explain import exact_text
    from lepton_ref.audit.explain import explain as explained
    from lepton_ref.audit.open_file import open_file

    found = explained(open_file(find(args.file)), args.tensor, args.row, args.column)
    if not args.json:
        print(found)
        return 0 if found.agrees else 1
    parts = [
        {
            "name": one.name,
            "code": one.code,
            "value": one.value,
            "bits": [{"byte": bits.byte, "low": bits.low, "width": bits.width} for bits in one.where],
        }
        for one in found.parts
    ]
    report = {
        "tensor": found.tensor,
        "format": found.format,
        "shape": list(found.shape),
        "row": found.row,
        "column": found.column,
        "file": found.path,
        "offset": found.offset,
        "block": found.block.hex(),
        "element": found.element,
        "parts": parts,
        "formula": found.formula,
        "substituted": found.substituted,
        "exact": exact_text(found.exact),
        "value": found.value,
        "agrees": found.agrees,
    }
    print(to_json(report))
    return 0 if found.agrees else 1
