"""K-quants: blocks of 256 numbers in groups that have small scales, in units that the block has.

The bytes are those of the formats' files beside `lepton_ref.storage`; the search is not ggml's own: see `k_affine` and
`k_symmetric`. A block of zeros is zero bytes, as ggml makes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders import k_affine, k_symmetric
from lepton_ref.storage.encoders.search import Floats, groups, relative

Bytes = NDArray[np.uint8]


def _flat(q: Floats) -> Bytes:
    """`(g, G, N) -> (N, elements)` as unsigned bytes."""
    return np.ascontiguousarray(q.transpose(2, 1, 0)).reshape(q.shape[2], -1).astype(np.uint8)


def _half(d: Floats) -> Bytes:
    """`(N,) -> (N, 2)` as fp16; −0 becomes 0."""
    return (d + np.float32(0)).astype("<f2")[:, np.newaxis].view(np.uint8)


def _pairs_of_six(sc: Bytes, mn: Bytes) -> Bytes:
    """`(N, 8), (N, 8) -> (N, 12)` six-bit scales and minima as Q4_K and Q5_K pack them."""
    first = sc[:, :4] | ((sc[:, 4:] >> np.uint8(4)) << np.uint8(6))
    second = mn[:, :4] | ((mn[:, 4:] >> np.uint8(4)) << np.uint8(6))
    return np.concatenate(
        [first, second, (sc[:, 4:] & np.uint8(15)) | ((mn[:, 4:] & np.uint8(15)) << np.uint8(4))], axis=1
    )


def _nibbles(q: Bytes) -> Bytes:
    """`(N, 256) -> (N, 128)` the low bits of one group of 32 beside the next one's."""
    apart = q.reshape(-1, 4, 2, 32)
    return ((apart[:, :, 0] & np.uint8(15)) | ((apart[:, :, 1] & np.uint8(15)) << np.uint8(4))).reshape(-1, 128)


def encode_q4_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 144)`: d, dmin, sc and mn [12], qs[128]."""
    at, codes = k_affine.search(groups(x, 32), relative(weights, 32), nmax=15, kmax=63)
    sc, mn = at.sc.T.astype(np.uint8), at.mn.T.astype(np.uint8)
    return np.concatenate([_half(at.d), _half(at.dmin), _pairs_of_six(sc, mn), _nibbles(_flat(codes))], axis=1)


def encode_q5_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 176)`: d, dmin, sc and mn [12], qh[32], qs[128]."""
    at, codes = k_affine.search(groups(x, 32), relative(weights, 32), nmax=31, kmax=63)
    sc, mn, q = at.sc.T.astype(np.uint8), at.mn.T.astype(np.uint8), _flat(codes)
    fifth = np.packbits((q >> np.uint8(4)).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([_half(at.d), _half(at.dmin), _pairs_of_six(sc, mn), fifth, _nibbles(q)], axis=1)


def _quarters(q: Bytes) -> Bytes:
    """`(N, 256) -> (N, 64)` the low two bits of elements 128h + l, +32, +64, +96 in one byte."""
    apart = (q & np.uint8(3)).reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], dtype=np.uint8)[:, np.newaxis]
    packed: Bytes = np.bitwise_or.reduce(apart, axis=2)
    return packed.reshape(-1, 64)


def encode_q2_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 84)`: sc and mn [16], qs[64], d, dmin."""
    at, codes = k_affine.search(groups(x, 16), relative(weights, 16), nmax=3, kmax=15)
    sc, mn = at.sc.T.astype(np.uint8), at.mn.T.astype(np.uint8)
    return np.concatenate([sc | (mn << np.uint8(4)), _quarters(_flat(codes)), _half(at.d), _half(at.dmin)], axis=1)


def encode_q3_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 110)`: hmask[32], qs[64], sc[12], d."""
    d, scales, codes = k_symmetric.search(groups(x, 16), relative(weights, 16), half=4, kmax=32)
    q, sc = _flat(codes + np.float32(4)), (scales.T + np.float32(32)).astype(np.uint8)
    third = np.packbits((q >> np.uint8(2)).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    high = (sc >> np.uint8(4)).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], dtype=np.uint8)[:, np.newaxis]
    low = (sc[:, :8] & np.uint8(15)) | ((sc[:, 8:] & np.uint8(15)) << np.uint8(4))
    out = np.concatenate([third, _quarters(q), low, np.bitwise_or.reduce(high, axis=1), _half(d)], axis=1)
    out[~x.any(axis=1)] = 0
    return out


def encode_q6_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 210)`: ql[128], qh[64], i8 sc[16], d."""
    d, scales, codes = k_symmetric.search(groups(x, 16), relative(weights, 16), half=32, kmax=128)
    q, sc = _flat(codes + np.float32(32)), np.ascontiguousarray(scales.T).astype(np.int8).view(np.uint8)
    low = (q & np.uint8(15)).reshape(-1, 2, 2, 64)
    packed = (low[:, :, 0] | (low[:, :, 1] << np.uint8(4))).reshape(-1, 128)
    out = np.concatenate([packed, _quarters(q >> np.uint8(4)), sc, _half(d)], axis=1)
    out[~x.any(axis=1)] = 0
    return out
