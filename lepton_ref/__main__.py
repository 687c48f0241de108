"""`python -m lepton_ref`: the command `lepton-ref`."""

from __future__ import annotations

import sys

from lepton_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
