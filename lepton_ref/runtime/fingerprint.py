"""Which model this is, and how it computes: what a file of keys and values must agree with to be used again."""

from __future__ import annotations

import hashlib

from lepton_ref.files.stored import small_floats, stored
from lepton_ref.interface import Backend
from lepton_ref.numerics import Precision
from lepton_ref.runtime.parts import Parts


def fingerprint(parts: Parts) -> str:
    """SHA-256 of the program and of all tensors as they are stored: every byte of the file's data is read."""
    seen = hashlib.sha256()
    for op in parts.program.ops:
        fields = (op.kind, op.name, op.inputs, sorted(op.weights.items()), sorted(op.options.items()), op.width)
        seen.update(repr(fields).encode())
    tensors = {name: stored(name, weight) for name, weight in parts.file.tensors.items()}
    tensors |= {name: stored(name, array) for name, array in parts.file.integers.items()}
    tensors |= {name: small_floats(kind, array) for name, (kind, array) in parts.file.codes.items()}
    for name in sorted(tensors):
        seen.update(repr((name, tensors[name].format, tensors[name].shape)).encode())
        for piece in tensors[name].pieces():
            seen.update(piece)
    return seen.hexdigest()


def is_proven(precision: Precision) -> bool:
    """Whether every op gives the same bits on any backend and in any batch."""
    return all(each.proven for each in (precision, *(how for _, how in precision.overrides)))


def arithmetic(precision: Precision, backend: Backend) -> str:
    """SHA-256 of a precision; of the backend's name too where nothing is proven, so that its bits are its own."""
    return hashlib.sha256(repr((precision, "" if is_proven(precision) else backend.name)).encode()).hexdigest()
