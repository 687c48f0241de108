"""The lattice tables of the IQ formats: which points of a small grid each code stands for, and the 7-bit sign codes.

Seven formats round four or eight weights at a time to one point of a table; the code q is the point's number, and G[q]
in the formula of element e is the point's coordinate e mod 4 or e mod 8, counted from 0.

    table            points × coordinates   a coordinate is one of                 used by
    IQ2_XXS           256 × 8               8 25 43                                IQ2_XXS
    IQ2_XS            512 × 8               8 25 43                                IQ2_XS
    IQ2_S            1024 × 8               8 25 43                                IQ2_S
    IQ1_S            2048 × 8               −1 0 1                                 IQ1_S, IQ1_M
    IQ3_XXS           256 × 4               4 12 20 28 36 44 52 62                 IQ3_XXS
    IQ3_S             512 × 4               1 3 5 7 9 11 13 15                     IQ3_S

What is regular: let k be the position of each coordinate among its levels, l levels in all. Every table is numbered by
increasing Σ kᵢ·lⁱ, so that a table is a set, and is stored here as one: a bit for each of the l⁸ or l⁴ possible points,
the lowest bit of each byte first, in base 64. In IQ2_* and IQ3_XXS every Σ kᵢ is even. Take (2kᵢ + 1)/2 for each level,
which it nearly is but for a factor: with an even number of minus signs, as the sign codes below make them, eight such
coordinates are a point of the lattice E8 (half-integers of even sum). IQ2_S has free signs, IQ3_S and IQ1_S odd Σ kᵢ
too. Which points were kept follows no rule, and no table of a family contains another: they are those that weights of
real models were seen to need. So the sets are facts, those of ggml's ggml-common.h.

Sign codes: seven bits give the signs of elements 0 … 6, 1 is minus; element 7 is minus where an odd number of the
others is, so that the number of minus signs is even.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """A table of lattice points.

    Attributes:
        count: how many points.
        width: coordinates of a point.
        levels: what a coordinate may be, in increasing order.
        members: the set, base 64.
    """

    count: int
    width: int
    levels: tuple[int, ...]
    members: str


@cache
def points(name: str) -> NDArray[np.int8]:
    """`(points, coordinates)` the table of this name, in the order of the codes; read-only.

    Raises:
        ValueError: no such table.
    """
    table = _table(name)
    held = np.frombuffer(base64.b64decode(table.members), dtype=np.uint8)
    which = np.nonzero(np.unpackbits(held, bitorder="little"))[0]
    digits = which[:, np.newaxis] // len(table.levels) ** np.arange(table.width) % len(table.levels)
    out: NDArray[np.int8] = np.array(table.levels, dtype=np.int8)[digits]
    out.flags.writeable = False
    return out


@cache
def listed(name: str) -> tuple[tuple[int, ...], ...]:
    """The same table for one element at a time, read bit by bit.

    Raises:
        ValueError: no such table.
    """
    table = _table(name)
    held, order = base64.b64decode(table.members), range(table.width)
    found: list[tuple[int, ...]] = []
    for number in range(len(table.levels) ** table.width):
        if held[number // 8] >> (number % 8) & 1:
            found.append(tuple(table.levels[number // len(table.levels) ** i % len(table.levels)] for i in order))
    return tuple(found)


@cache
def packed(name: str) -> NDArray[np.uint64 | np.uint32]:
    """`(points,)` each point as one word of 64 or 32 bits, a coordinate an int8: a look-up then moves one word."""
    table = points(name)
    return table.view(np.uint64).reshape(-1) if table.shape[1] == 8 else table.view(np.uint32).reshape(-1)


@cache
def packed_shifted(name: str) -> NDArray[np.uint64]:
    """`(2·points,)` eight times each point, one added to every coordinate, then the same with one subtracted."""
    eight = 8 * points(name)
    return np.concatenate([eight + 1, eight - 1]).astype(np.int8).view(np.uint64).reshape(-1)


@cache
def signs() -> NDArray[np.uint64]:
    """`(256,)` the signs +1 and −1, int8, of eight elements as one word, for a byte that has a bit for each of them."""
    minus = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little")
    return (1 - 2 * minus.astype(np.int8)).view(np.uint64).reshape(-1)


@cache
def even_signs() -> NDArray[np.uint64]:
    """`(128,)` the same for a sign code."""
    code = np.arange(128, dtype=np.uint8)
    return signs().take(code | (np.bitwise_count(code) & 1) << 7)


def even_sign(code: int, e: int) -> int:
    """The sign of element e mod 8 under a 7-bit sign code."""
    minus = code.bit_count() if e % 8 == 7 else code >> (e % 8)
    return -1 if minus & 1 else 1


def _table(name: str) -> Table:
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; known: {', '.join(TABLES)}")
    return TABLES[name]


_IQ2_XXS = (
    "VRUUVRBEQUEABBREABAAAAAEQAAUAEAAAAAABAAAUBBAQREAARQEQFAEQAAQAAAFEAAAUAAAAQAAQAAAQRQEQBQUAAAEAAAEAAAEAAAAAAAABBAA"
    "AAAAAAAAABQEEBAAQAAEEQAEARAAQEAAAQAAAAAAAQQAAAAAABAEQARAAAAEAAAAABAAAAAQAAAAQAAQAAAAAAAAAAAFAQAEAABAAAAAEQAAAAAA"
    "AAAAAQAAAABAAAAAAAAUBAAAAQABBQAAAAAAEBAAAAAAAFAAAAAAAAAAAABAQQAAAUAAAAAAQAAAAAQAQAAAAAAAAAAAAAAAQAAAQAAEAAAAAAAE"
    "AAAAAAAAAAAAAAAAAAAAAQAAAAAAUBBEQRAQARQEABAAQAAAAAREAABAQAAAQEAAAQAAQBAAAQAAABAAEAAABBAAAAAAAAAAAQAAAAAAAAAAABQE"
    "ABABAAAAAAAEAAAAABABBAAAAAAAAAQAAAAEABBEUAAAAAAEAQAAAQAABAAAAAAAAQAAAAAAAABAAAAAAAAAAAAAQAEAAAEAAAAAAAAAAAQAAAAA"
    "AQAAAAAEEAQAAAAEAAAAAAAAQAAAAAAAAAAEAAAAAAAAAAAAQQAAAQAAAQAAQAAAAABAAAAAAAAAQAAAABAAAAAAEQAAAAAAAAAAAAAUAAAAAAAE"
    "AAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQEEAAAQAAEAAAAAEQAAEAAAAAAAAAAQAAAAAAAAAABREABAAQAAAAAAE"
    "AAAABAAAABAAAAQAQAAAAQAAAEAAAAAAAAAAAAAAAQAAAAAAAAAAAAABAAAAAAAAAAAEARAEAAAAAAABAEAAAAAAQAAAAAAAAAABAAAAAAAEAEAA"
    "AQAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAABAAAABAAAAQAAAABAAAAAAAAAAAEAAAAAAAA"
    "AAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)
_IQ2_XS = (
    "VVVVUVVFQRVFAVRVVVBFQRAFAQBUURBAQQQAAQEAUFVFQRUVARQEAFBFQQAFAQQEAABAQQAQBQAAQAAAQFUFERQEARAAQEAFAQAEAABAEAAAAQAE"
    "AQAAAAAQAVRVUVBFQUAFAQBUURBAQQAAAVAAUBEAQAAAAQAAAFBFQQBFARAEAABAQQAAAQAAAAAAQAAEAAABAAAAAAAFBQAEQAAABAAAEQAAAAAA"
    "BAAAAAAAAABAAAAAAABVVRBAQQAAAQAEUBAAQBAAEAAAABAAAAEAAAAEAABEQQBAAQAAAAAAQAAAAAQQAAAAEAABAAEAAAAAAAAQQQEEAAABABAA"
    "BAAAAAAAABAAAQAAARAAAAAARAEAUFVFQVUFERQEAFBFQQAFAQBEAEBAQQFAAQAAAAAAQBVFARQEABAAAQAFARAEAAAAAEAAAQEAQBAAAAAAABQE"
    "ABABAQEAAAAEEAAAQQBAAAAAQAAAAAAAAAAAAFBFQRAFAQAEAABAQQQABQAAAAAAQAAAABAAAAAAAEAFAQQEABBAAAABQQAAAAAAQBAAAAAAEAAA"
    "ABAAAAQEQABAQAAAAAABAAAQQAEAAAAAAAAAAAAAAABAAABAQQAAARAQAAEAUAAAAAAAAAAAAAAAABAABAAAAAEAAUAAAAAAAAAAAAAEABABAAAA"
    "ABAAAAAAAAAAAAAAEAAAAAAAAAEAAAAAAAQAAAAAAAAABAAAABAQAAAAQBUFARUEAFAAAFAVAQAEEAQAAAAAAQAEAAAAQAEAQRRUABAAQABAAAAE"
    "AAAAAQAAAABAAAAEAAAAAAEAABAEAAQAAAEUAAAEBAAAAAAAAAAAAAAABAAAABAEBBAFAQAEAAEAAQAAAQAQAAAAAQAAAAAAAAAABABAAABEAAAA"
    "QRAAAAAAAAAAEAAAAAAUAAAAAAABAAAAAAAAAAAAAAQAAAAABAAAAAABAAAAAAAAEAAAABAAAAAARQEEBAAAAAAAAQAAAABAEAAAAEAUAQAQAAAA"
    "AQAEAAAAQAAAAABAAAAAAAAAAAAAAAAAAAAAAABAAAAEAEAARQAAAAAAQBAEAAAAAAAABQAAAAAABQAAAAABAAE="
)
_IQ2_S = (
    "VVVVUVVFVRUFEVVVUVBFVRQFFRRUURBQVQQAEREQUFVFVVVVFVRFUVBVVRRVVRRUURBAVQQAURQEUBAAQBVVEVVVURABAUAFVQREURBAQAAAARQQ"
    "BRAAAABAAFRVUVFFVRUVURRUVVVFVRUFVRQAUBRBQQQFABQEAFBFVRRVVRRUURBAVRUFVRQEUBAAQBQFARQEABAAAEBVUQRUURBAAQAAVRQEUBAA"
    "EAAABBAEABAABAAAAABUURVRQQUEAREAVFBBQAUFARQEABAQAFEEAQAABQBEVRQFVRQEUBAAQBQFARQEABEAAAAFAQAEAAQAAAAAERQAUBAAAEAA"
    "ABUEAAAAAAAAEAAABEAAAAAEQAEAUFVVRVVVFRREUVBFVQVVVRRUURBAQRUEURQEUAAAQFVVVVRVUVBFQQBVVRRUURBQQQAAVRQEUBAAQAAAEBRV"
    "UVBFQQAEAQBUURBAQQAAAUAAUBAAQAAAAAAAAFBFVRVVVRRUUQBAVRUFVRQEUBAAQBQFARQEABQAAABVVRRUURBAQQAAVRQEUBAAQAAAABQEABEA"
    "AAAAAABUURBAQUAAAQAAUBAAQAAAAAAAABAAEAAAAABAAABERRUFURQEQBAAQBUFARQEABAAEAAEAQAEAAEAAAABURQEUBAAQAAAABQEABAQABAA"
    "BAAEAAAAAAAAABAAUBAAAAAAEAAAARAAAEAAAAAAAAAAAAAABAAAAABAQBVFERRUERBBAQBFVRRUUQBAQQBAERUAUBAAAAAAAFRVEVBFQQAFAQBU"
    "URBAQQAAAQEAUBAAUAAAAAAAABBBAQAFAQAAAEBAAQAAAQBAAAAAAAAABAAABUAAAAFFVRBUURBAQQAAERQAUBAQAAAAABQEABAAAAAAAEBUURBA"
    "QQAAAUAAUBAAQAAAAAAAERAAAAAQABAAAABAQQAQAQAAAAAAUAAAAAARAAAAAAAAAAAAAAAAQAAAEREQVBAAAAAABAEAABAAAAQAAAAQBEAUAAAA"
    "RAEAURAAQAAAAAABQBAAEAAAAAAAAAAAAAAAAAQAAAAAAEAAQAAAAAAAAAEAAAAAQAAABAAAQAEUAQAAABAAAAE="
)
_IQ1_S = (
    "VSUUhaACQlEIRTGohiCKohoIKiAUhVAUgiBERSUVBaACgiCIGAAIgqADKqCIu6oKkKoLACIACqqMgqAIQFEIRSGIgFAUQlEIijAImKAIgCoIRSEU"
    "hSBIQlUIRQEswqAgiiYAKiSoqqII4q8ICCgoAKACQiiqKCCogCAKmwi5uqggyq6Joq6qOnzr6rq7gg64IrrK0w6SAiIAIiCoiroKggIIACpK4KI7"
    "IiArogCBQIGqiigIIgEUhVAVgiAJRSFUhaAIAiOoOiCEgiBUQlEIoiAIlVAUAioIuKiCgKBIAiAIgqJoogIoqyoIhSAIgjAIRUAARSEUhaAAQlEA"
    "RQEpggCKgioIoTAUBVAUgigIRSEUhSACAiCqKgAgErGKriiouqGqqHAAggoIAigiAoQAggBIgKDqsCqqwiCLuiLq2qeLi26okrAqqnKLikQMKiBI"
    "hEAoiioIqiDIzKIioq+aoOioAgACACqoiAAggKCLoqIouqCAgjIKur64uv7roqArogiKCijqogChMgIM+qTq3u8rqC6Nvn7r+vd/v+Z9ut5p+yf/"
    "vyb6EunhiiIQqr4OhKoIsqgLgq7/uiTpg4AEYixo8qgKpCsAAioICOKqEgACgioKpiDJgomQgigAogCMgBMAgggIAGyKqqq7Aqa+iqDKAoBrly7Q"
    "sukQghAuqt4oFdGlBAAKggCKgiAIAaEggqo5uiIyhKAJgBgAiqJiAoEURFEARSGsglAUQlEIqiAoqocKEioIRSEUBaAIQlEIRQEgAqBAoiIAiAAI"
    "oghqim64qqqAACAKguLIIiEIRFAUQlEJiiAVhVAUhgoIqioqgAAKQlEIRSGoAFAUQlEI4iCIggoYgioIqqKqirCLAgoqqiAogoCqCigIKACpiAIi"
    "oL4LKLgIirpLsq7/uqT4rqogUihotqAw5oAKAigIImpigCAKAqqqK6rqoqmgoggIECCgiiIAgg4ARSEUhaAKQFEIRSGpBgBKqgIIpQAQDUQUgigI"
    "RSEUBQAIgoKs8iAAAACqCigKuiDqogIAgkgJKOkUABFLRVEARQGoAlAUQlEIiCQIiCgKQAgARQEUBaACQFEIRQE="
)
_IQ3_XXS = (
    "FYoFAgQAACgKBSIFAhAAARUCBYoAggAgggUgAAAAAAEACACAEIAAKIIAAAQABAAAAAAAIAAAEAAAUQAACAACAAoFChWAAQAABQIFAAAAAAAKBQIB"
    "AAAABAUAAQJAAEAAIgAAAAABAAAAABEAQAAAAiAAAAAAAAAAAAAEAAEAAAAFCkUCBAAAACoFAgEAAIgBBYIFgAEgAAACEQAAAAAAEQAAACAACAAA"
    "CACAAAIAABAAAAAAAAAAAApAAAAgAAAAAgUKAAABIAQFAAECUAAAAAoBIAAABAAEAAIACAAAAAAAAAABgAAABEEABAAAIAAAABAAQAAACAAAAAAI"
    "AAABABCAAKAAiAAAAAAAAAAAABAAAAGAAQBBAIAAAAAgAAAAEAAAAAACEAAAACAACAAAAQAAAAAAAAAAIAUAAQAAAAAABAAAAgAAAUEAQAAAIAAA"
    "ABAABAAAAAQEAAAAAAgAAAABiAAAAAAEBAAAAgAAAAAAAAAAAAEAAAAAEAAEAAAAAAAQAFAAEAAAAAIAAAACAACAAAAAABAAAAAAQQAAAAAAAAAA"
    "EAAAACAAAAAABAAAAAAACAAAAAAIAAIAAAAAAKgBAAQABAAAAABAAAEAAAAABAAAIAQAAAEgAAgAAAEAAAACAAIAAAAFABAAAAAAAAAAAAEAAAAA"
    "AAAAAAAAAAA="
)
_IQ3_S = (
    "p1cjCKUKBZIXI4kiEAAiBKNJIhGkCgAJCCIFShAFgCIBiBIECQIAARQARQiiAEAIQAoAAgAEAAIVAEUIABEAABerBVIAUAIESxECCQIFAEEBpBEE"
    "CSABBJIJghECAAQBKBQACkQRAAACCQIFAAIAAAAAkQBQAAAACgUCIAIABAGrVYoFKgWAKQWJJBIEAgAAkgAKgQKIABIlAhQKBAFAAIIACSQCAAAk"
    "EAIEgAEIAAGFAAIAACACACACQAEIAQAABKoEKpQCCAIqEAoAAQABRAEEARQAAQAAAhGKAYogAAgIQgQCAAQRAAIFIAQQQAAIAEAAAAIAAAAKAAUg"
    "AAAAABEEkQQCAQABhAoEIQgiAAAKIQIIAYAEARAKBSIAAAAABQAQgAEAAAKgAAIAAAAEAAAIABAAAAEAACEAAQgCAAAEEQQAkQRAECoEAgQAAAAE"
    "AQIIQQAIAACEAYAAEAIgCBIAAQRAAAAAAARAAAAKAAAAAAAABAAAABQABAAAAAAAACoACgAAAQABAIEAAAAQAAAEABAEIAQBARACAAEAAAAAACAA"
    "CAAEAAkAABAAAAEAIAAAAAEAAAAACgAAAAAAAJEABUABEAQABAIQACgAAAASQQIBAAIAAAQAACQACAAAIggBAAABAAAAAAQABAAAAAQAAAIAAAAA"
    "AQAAAAAAAAA="
)

TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "IQ2_XXS": Table(256, 8, (8, 25, 43), _IQ2_XXS),
        "IQ2_XS": Table(512, 8, (8, 25, 43), _IQ2_XS),
        "IQ2_S": Table(1024, 8, (8, 25, 43), _IQ2_S),
        "IQ1_S": Table(2048, 8, (-1, 0, 1), _IQ1_S),
        "IQ3_XXS": Table(256, 4, (4, 12, 20, 28, 36, 44, 52, 62), _IQ3_XXS),
        "IQ3_S": Table(512, 4, (1, 3, 5, 7, 9, 11, 13, 15), _IQ3_S),
    }
)
"""Name → table."""
