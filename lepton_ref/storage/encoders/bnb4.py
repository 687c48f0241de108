"""From numbers to bitsandbytes' NF4, without double quantisation.

    a = max|x| of each flat block
    q = the code whose T[q] is nearest to x/a; of two as near, the lower

x/a is not computed: x is compared with a·(T[q] + T[q+1])/2, which is exact in float64, having at most 24 + 26 bits. A
block of zeros has a = 0 and the code of 0. bitsandbytes divides in float32 first, and its kernels compare with
midpoints rounded to float32: its codes differ where x/a is next to one.
"""

from __future__ import annotations

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.storage.bnb4 import BLOCK_SIZES, NF4, BitsAndBytes4
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.encoders.tile_scales import AT_ONCE, matrix


def encode_nf4(array: HostArray, /, *, blocksize: int = 64) -> BitsAndBytes4:
    """`(O, I) -> (O, I)` the nearest NF4 numbers.

    Args:
        array: float32, or what float32 holds exactly, all finite.
        blocksize: elements of a block, which runs on over the ends of rows: one of `BLOCK_SIZES`.

    Raises:
        ValueError: another block size, or numbers that are not finite or not float32's.
    """
    if blocksize not in BLOCK_SIZES:
        raise ValueError(f"blocksize must be one of {', '.join(map(str, BLOCK_SIZES))}, got {blocksize!r}")
    x = matrix("the weight", array)
    count = -(-x.size // blocksize)
    blocks = np.zeros((count, blocksize), dtype=np.float32)
    blocks.reshape(-1)[: x.size] = x.reshape(-1)
    absmax = np.abs(blocks).max(axis=1)
    table = np.array(NF4, dtype=np.float32).astype(np.float64)
    bounds = (table[:-1] + table[1:]) / 2
    codes = np.zeros(blocks.shape, dtype=np.uint8)
    step = max(1, AT_ONCE // blocksize)
    for start in range(0, count, step):
        here = slice(start, start + step)
        a = absmax[here, np.newaxis].astype(np.float64)
        for bound in bounds:
            codes[here] += blocks[here] > a * bound
    codes[absmax == 0] = NF4.index(0.0)
    flat = codes.reshape(-1)[: x.size + x.size % 2].copy()
    flat[x.size :] = 0
    packed = (flat[::2] << np.uint8(4)) | flat[1::2]
    shape = (x.shape[0], x.shape[1])
    return BitsAndBytes4(packed, Dense(absmax, format="F32"), shape=shape, kind="nf4", blocksize=blocksize)
