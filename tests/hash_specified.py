"""The SHA-256 of a tiny golden's output by the specification in plain Python, on whatever Python runs this file.

    python tests/hash_specified.py CHECKPOINT PRECISION

It is that of the golden hashes for the checkpoint's two texts of equal length. NumPy only reads and hands over numbers.
"""

from __future__ import annotations

import sys

from lepton_ref.golden import hash_goldens


def main(name: str, precision: str) -> None:
    """Print the hash."""
    texts = hash_goldens.tiny_texts(name)["equal"]
    outputs = [hash_goldens.specified(hash_goldens.TINY / name, text, precision) for text in texts]
    sys.stdout.write(hash_goldens.digest(outputs) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
