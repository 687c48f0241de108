"""What the `read` functions of the IQ formats share: bits that run over bytes, points of a table, signs."""

from __future__ import annotations

from lepton_ref.storage.iq_grids import even_sign, listed
from lepton_ref.storage.layout import Bits, Part, part


def span(at: int, low: int, width: int) -> tuple[Bits, ...]:
    """Bits `low` … `low + width − 1` of the little-endian number that begins at byte `at`."""
    pieces = []
    while width:
        within = low % 8
        here = min(width, 8 - within)
        pieces.append(Bits(at + low // 8, within, here))
        low, width = low + here, width - here
    return tuple(pieces)


def point(block: bytes, where: tuple[Bits, ...], table: str, e: int) -> Part:
    """The code of a point as part q, whose value is the coordinate of element e."""
    q = part(block, "q", where)
    chosen = listed(table)[q.code]
    return Part("q", where, q.code, chosen[e % len(chosen)])


def free_sign(block: bytes, at: int, e: int) -> Part:
    """The sign of element e, a bit of its own: the signs of each eight are a byte, from byte `at` on."""
    sign = part(block, "sign", (Bits(at + e // 8, e % 8, 1),))
    return Part("sign", sign.where, sign.code, 1 - 2 * sign.code)


def coded_sign(block: bytes, at: int, low: int, e: int) -> Part:
    """The sign of element e under a sign code, which begins at bit `low` of the number at byte `at`.

    The last of eight has the parity of all seven bits, each of the others one of them.
    """
    i = e % 8
    sign = part(block, "sign", span(at, low, 7) if i == 7 else span(at, low + i, 1))
    return Part("sign", sign.where, sign.code, even_sign(sign.code if i == 7 else sign.code << i, e))


def shift(block: bytes, where: Bits) -> Part:
    """The shift δ of an IQ1 format: its bit is set for −1/8, clear for 1/8."""
    return part(block, "δ", (where,), -0.125 if where.of(block) else 0.125)
