"""Codes of a grid as a weight of `lepton_ref.storage`, which a model can run on."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from lepton_ref.compress.grid import Coded
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.byte_codes import pack
from lepton_ref.storage.scales import scales_of

STORED = MappingProxyType({"fp16": "F16", "bf16": "BF16", "fp32": "F32"})
"""A grid's format of scales → as it is stored."""


def affine_of(coded: Coded, /) -> Affine:
    """The same values as integers with scales and zero points, a tile for each row and group.

    Raises:
        ValueError: zero points that are no codes: HQQ's, unless they were asked for as whole numbers.
    """
    zeros = coded.zeros.astype(np.uint8)
    if (zeros != coded.zeros).any() or (coded.zeros > coded.grid.last).any():
        worst = coded.zeros[(zeros != coded.zeros) | (coded.zeros > coded.grid.last)][0]
        raise ValueError(f"a zero point of {worst:g} is no code of {coded.grid.bits} bits; quantise with whole=True")
    columns = coded.codes.shape[1]
    scales = scales_of(coded.scales, STORED[coded.grid.stored])
    tile = (1, coded.grid.length(columns))
    return Affine(pack(coded.codes, coded.grid.bits), scales, zeros, bits=coded.grid.bits, columns=columns, tile=tile)
