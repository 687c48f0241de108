"""GPTQ, AWQ and pack-quantized: their packages' values, twins in fractions, planted mistakes, and what is refused."""

from __future__ import annotations

import itertools
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import packed_cases as cases
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.audit.formula import evaluate
from lepton_ref.storage import Dense, RowView, Weight, awq, bitstream, gptq, pack_quantized
from lepton_ref.storage.awq import AWQ, pack_awq
from lepton_ref.storage.bitstream import pack, pick, places, unpack, words_for
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.packed import Packed

PACKED = GOLDEN / "storage_packed" / "packed.npz"
SCALES = st.sampled_from(["F16", "BF16", "F32"])
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(PACKED, allow_pickle=False) as file:
        return dict(file)


# --- words -----------------------------------------------------------------------------------------------------------


@given(
    bits=st.integers(1, 8), count=st.integers(0, 75), axis=st.sampled_from([0, 1]), aligned=st.booleans(), seed=SEEDS
)
def test_pack_and_unpack_are_inverse_and_follow_the_definition(
    bits: int, count: int, axis: int, aligned: bool, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, count) if axis == 1 else (count, 3))
    words = pack(codes, bits, axis=axis, aligned=aligned)
    assert words.dtype == np.int32
    assert words.shape[axis] == words_for(count, bits, aligned=aligned)
    if count:
        np.testing.assert_array_equal(words, cases.pack_along(codes, bits, axis, aligned=aligned))
    np.testing.assert_array_equal(unpack(words, bits, count, axis=axis, aligned=aligned), codes)
    index = np.arange(count)[::-2]
    picked = pick(words, bits, index, axis=axis, aligned=aligned)
    np.testing.assert_array_equal(picked, codes.take(index, axis))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("aligned", [False, True])
def test_places_name_the_bits_of_a_code(bits: int, aligned: bool) -> None:
    for axis in (0, 1):
        codes = np.random.default_rng(bits).integers(0, 2**bits, (40, 40))
        words = pack(codes, bits, axis=axis, aligned=aligned)
        raw = words.tobytes()
        for e in range(40):
            where = places(words.shape, bits, e, 7, axis=axis, aligned=aligned)
            assert sum(part.width for part in where) == bits
            value = shift = 0
            for part in where:
                value, shift = value | part.of(raw) << shift, shift + part.width
            assert value == (codes[e, 7] if axis == 0 else codes[7, e])


def test_the_straddling_codes_of_three_bits() -> None:
    codes = np.zeros(32, dtype=np.int64)
    codes[10], codes[21] = 0b101, 0b110
    assert [int(word) % 2**32 for word in pack(codes, 3)] == [0b01 << 30, 0b1 | 0 << 31, 0b11]


WRONG_WORDS = (
    ("np.uint32(WORD - low)\n        codes[", "np.uint32(WORD - 1 - low)\n        codes["),
    ("divmod(bits * e, WORD)\n        code =", "divmod(bits * (period - 1 - e), WORD)\n        code ="),
    ("codes[..., e::period] = code & mask", "codes[..., e::period] = code"),
)


@pytest.mark.parametrize(("text", "bug"), WRONG_WORDS)
def test_a_wrong_unpacking_is_caught(text: str, bug: str) -> None:
    wrong = mutated(bitstream, text, bug)
    codes = np.random.default_rng(0).integers(0, 8, (4, 64))
    assert not np.array_equal(wrong.unpack(cases.pack_along(codes, 3, 1), 3, 64), codes)


def test_words_that_cannot_be_are_refused() -> None:
    words = np.zeros((2, 3), dtype=np.int32)
    for bits in (0, 9, True, 2.0):
        with pytest.raises(ValueError, match="codes have 1 to 8 bits, got"):
            unpack(words, bits, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="packed in 32-bit words, got an array of int64"):
        unpack(words.astype(np.int64), 4, 24)
    with pytest.raises(ValueError, match="25 codes of 4 bits take 4 words, got 3"):
        unpack(words, 4, 25)
    with pytest.raises(ValueError, match="has no axis 2"):
        unpack(words, 4, 24, axis=2)
    with pytest.raises(ValueError, match=r"a line of 3 words has codes 0 … 31 of 3 bits, got 32"):
        pick(words, 3, np.array([32]))
    with pytest.raises(ValueError, match="a code of 3 bits is 0 … 7, got 8"):
        pack(np.array([1, 8]), 3)
    with pytest.raises(ValueError, match="a code of 3 bits is 0 … 7, got -1"):
        pack(np.array([-1, 8]), 3)
    with pytest.raises(ValueError, match="got an array of float64"):
        pack(np.array([0.5]), 3)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", gptq.BITS)
def test_gptq_is_what_autogptq_multiplies_by(golden: dict[str, NDArray[Any]], bits: int) -> None:
    """Its zeros are stored as z − 1; its layer has multiplied the identity, so a zero has lost its sign."""
    part = {name: golden[f"gptq{bits}_{name}"] for name in ("qweight", "qzeros", "scales", "g_idx", "value")}
    scales = Dense(part["scales"], format="F32")
    weight = GPTQ(part["qweight"], part["qzeros"], scales, bits=bits, version=1, g_idx=part["g_idx"])
    np.testing.assert_array_equal(weight.decode(), part["value"])
    other = GPTQ(part["qweight"], part["qzeros"], scales, bits=bits, version=2, g_idx=part["g_idx"])
    unordered = GPTQ(part["qweight"], part["qzeros"], scales, bits=bits, version=1, group_size=8)
    assert not np.array_equal(other.decode(), part["value"])
    assert not np.array_equal(unordered.decode(), part["value"])


def test_awq_is_what_autoawq_decodes(golden: dict[str, NDArray[Any]]) -> None:
    weight = AWQ(golden["awq_qweight"], golden["awq_qzeros"], Dense(golden["awq_scales"], format="F16"))
    np.testing.assert_array_equal(weight.decode().astype(np.float16), golden["awq_value"])


KINDS = [(bits, kind) for bits in range(1, 9) for kind in ("group", "group_asymmetric")]


@pytest.mark.parametrize(("bits", "kind"), [*KINDS, (3, "channel_asymmetric"), (3, "tensor")])
def test_pack_quantized_is_what_compressed_tensors_decodes(
    golden: dict[str, NDArray[Any]], bits: int, kind: str
) -> None:
    part = {name: golden.get(f"pack{bits}_{kind}_{name}") for name in ("weight_packed", "weight_zero_point", "value")}
    assert part["weight_packed"] is not None
    weight = PackQuantized(
        part["weight_packed"], Dense(golden[f"pack{bits}_{kind}_weight_scale"], format="F32"),
        shape=tuple(golden[f"pack{bits}_{kind}_weight_shape"]), bits=bits, zero_point=part["weight_zero_point"],
    )  # fmt: skip
    assert (part["weight_zero_point"] is not None) == kind.endswith("asymmetric")
    np.testing.assert_array_equal(weight.decode()[-4:], part["value"])


@given(
    bits=st.sampled_from(gptq.BITS), version=st.sampled_from([1, 2]), outputs=st.integers(1, 11),
    inputs=st.integers(1, 37), groups=st.integers(1, 3), order=st.sampled_from(["none", "plain", "act", "any"]),
    format=SCALES, seed=SEEDS,
)  # fmt: skip
def test_gptq_and_its_twin_agree(
    bits: int, version: int, outputs: int, inputs: int, groups: int, order: str, format: str, seed: int
) -> None:
    fills = inputs * bits % 32 == 0 or order != "none"  # without g_idx the words alone say how many inputs there are
    inputs = inputs if fills else 32
    groups = min(groups, inputs)
    groups = -(-inputs // -(-inputs // groups)) if order == "none" else groups
    case = cases.gptq(
        np.random.default_rng(seed), bits=bits, version=version, outputs=outputs, inputs=inputs, groups=groups,
        order=order, format=format,
    )  # fmt: skip
    assert cases.differences(GPTQ(**case.parts), case) == 0


@given(eights=st.integers(1, 3), size=st.integers(1, 5), groups=st.integers(1, 4), format=SCALES, seed=SEEDS)
def test_awq_and_its_twin_agree(eights: int, size: int, groups: int, format: str, seed: int) -> None:
    case = cases.awq(np.random.default_rng(seed), eights=eights, inputs=size * groups, groups=groups, format=format)
    assert cases.differences(AWQ(**case.parts), case) == 0


@given(
    bits=st.integers(1, 8), outputs=st.integers(1, 9), inputs=st.integers(1, 40), groups=st.integers(0, 3),
    zeros=st.sampled_from(["none", "packed", "int8"]), order=st.sampled_from(["none", "act", "any"]),
    aligned=st.booleans(), format=SCALES, seed=SEEDS,
)  # fmt: skip
def test_pack_quantized_and_its_twin_agree(
    bits: int, outputs: int, inputs: int, groups: int, zeros: str, order: str, aligned: bool, format: str, seed: int
) -> None:
    groups = min(groups, inputs)
    groups = groups and -(-inputs // -(-inputs // groups))
    if groups == 0:  # one number for the tensor has no order, and its zero is not packed
        order, zeros = "none", "int8" if zeros == "packed" else zeros
    case = cases.compressed(
        np.random.default_rng(seed), bits=bits, outputs=outputs, inputs=inputs, groups=groups, zeros=zeros, order=order,
        aligned=aligned, format=format,
    )  # fmt: skip
    assert cases.differences(PackQuantized(**case.parts), case) == 0


def test_literal_words() -> None:
    one = Dense(np.array([[0.5]], dtype="<f2"), format="F16")
    qweight, qzeros = np.array([[0x76543210]], dtype=np.int32), np.array([[7]], dtype=np.int32)
    expected = [(q - 8) / 2 for q in range(8)]
    assert GPTQ(qweight, qzeros, one, bits=4, version=1, group_size=-1).decode().tolist() == [expected]
    eight = Dense(np.full((1, 8), 0.5, dtype="<f2"), format="F16")
    column = AWQ(qweight, np.zeros((1, 1), dtype=np.int32), eight).decode()
    assert column[:, 0].tolist() == [0.0, 2.0, 0.5, 2.5, 1.0, 3.0, 1.5, 3.5]
    signed = PackQuantized(qweight, one, shape=(1, 8), bits=4)
    assert signed.decode().tolist() == [expected]


def test_a_zero_has_the_sign_of_the_scale_and_nan_and_infinity_spread() -> None:
    scales = np.array([[-1.0, np.nan, np.inf, 2.0]], dtype="<f2")
    codes = np.array([[3, 3, 3, 3], [4, 4, 4, 4]])
    weight = GPTQ(
        pack(np.repeat(codes, 16, axis=0), 4, axis=0), pack(np.full((1, 4), 3), 4), Dense(scales, format="F16"),
        bits=4, version=2, group_size=-1,
    )  # fmt: skip
    got = weight.decode()
    assert np.signbit(got[0, 0])
    assert got[0, 0] == 0
    assert np.isnan(got[1]).all()
    assert np.isnan(got[2, 0])  # 0·∞
    assert got[2, 16] == np.inf
    assert weight.decode()[3, [0, 16]].tolist() == [0.0, 2.0]


ONE_ADDED = "(stored + 1) & ((1 << self.bits) - 1) if self.version == 1 else stored"
INVERSE = "NIBBLE = tuple(ORDER.index(output) for output in range(8))"
AWQ_ZEROS = "pick_awq(self.qzeros, index).astype(np.int16)\n"
COLUMN = "pick(self.zero_point, self.bits, index, axis=0"
WRONG: tuple[tuple[str, ModuleType, str, str], ...] = (
    ("the 1 of version 1 forgotten", gptq, ONE_ADDED, "stored"),
    ("the 1 added in version 2 too", gptq, "if self.version == 1 else stored", ""),
    ("no modulus", gptq, "(stored + 1) & ((1 << self.bits) - 1)", "stored + 1"),
    ("g_idx ignored", gptq, "index), self.groups, dtype", "index), np.sort(self.groups), dtype"),
    (
        "packed along the outputs",
        gptq,
        "self.qweight[:, index].T",
        "self.qweight.reshape(-1, len(self.qweight))[index]",
    ),
    ("nibbles in order", awq, INVERSE, "NIBBLE = tuple(range(8))"),
    ("the order for its inverse", awq, INVERSE, "NIBBLE = ORDER"),
    ("zeros as GPTQ's", awq, AWQ_ZEROS, AWQ_ZEROS.replace("\n", " + 1\n")),
    ("codes as two's complement", pack_quantized, "zeros = 1 << (self.bits - 1) if", "zeros = 0 if"),
    ("zeros by the row below", pack_quantized, COLUMN, COLUMN.replace("index", "(index + 1) % self.shape[0]")),
    ("always dense", pack_quantized, "self.bits, self.shape[1], aligned=self.aligned)", "self.bits, self.shape[1])"),
    ("g_idx ignored here", pack_quantized, "index), self.groups, dtype", "index), np.sort(self.groups), dtype"),
)


def wrong_or_raises(make: Any, case: cases.Case) -> bool:
    """Whether the check sees it; shapes that no longer fit are seen too."""
    try:
        return cases.differences(make(**case.parts), case) > 0
    except ValueError:
        return True


@pytest.mark.parametrize(("what", "module", "text", "bug"), WRONG, ids=[what for what, *_ in WRONG])
def test_a_wrong_format_is_caught(what: str, module: ModuleType, text: str, bug: str) -> None:
    rng = np.random.default_rng(3)
    of_compressed = [
        cases.compressed(rng, bits=b, outputs=6, inputs=40, groups=4, order="act", zeros=z, aligned=a)
        for b, z, a in itertools.product((3, 4), ("none", "packed"), (False, True))
    ]
    of_gptq = [
        cases.gptq(rng, bits=b, version=v, outputs=8, inputs=32, groups=4, order="act")
        for b, v in itertools.product((2, 3, 4), (1, 2))
    ]
    drawn = {
        gptq: ("GPTQ", of_gptq),
        awq: ("AWQ", [cases.awq(rng, eights=2, inputs=8, groups=2)]),
        pack_quantized: ("PackQuantized", of_compressed),
    }
    name, all_cases = drawn[module]
    right, wrong = getattr(module, name), getattr(mutated(module, text, bug), name)
    assert not any(wrong_or_raises(right, case) for case in all_cases)
    assert any(wrong_or_raises(wrong, case) for case in all_cases)


# --- weights ---------------------------------------------------------------------------------------------------------


def examples() -> list[Packed]:
    rng = np.random.default_rng(9)
    return [
        GPTQ(**cases.gptq(rng, bits=3, version=1, outputs=16, inputs=64, groups=4, order="act").parts),
        AWQ(**cases.awq(rng, eights=2, inputs=24, groups=3).parts),
        PackQuantized(**cases.compressed(rng, bits=5, outputs=16, inputs=30, groups=5, zeros="packed").parts),
        PackQuantized(**cases.compressed(rng, bits=3, outputs=16, inputs=30, groups=0, zeros="int8").parts),
    ]


@pytest.mark.parametrize("weight", examples(), ids=lambda weight: weight.format)
def test_rows_take_and_views_agree(weight: Packed) -> None:
    whole = weight.decode()
    index = np.array([5, 0, 5, 15])
    np.testing.assert_array_equal(weight.rows(3, 7), whole[3:7])
    np.testing.assert_array_equal(weight.rows(14, 99), whole[14:])
    np.testing.assert_array_equal(weight.take(index), whole[index])
    np.testing.assert_array_equal(RowView(weight, index).decode(), whole[index])
    np.testing.assert_array_equal(RowView(weight, index).unrounded(np.array([3])), weight.unrounded(index[[3]]))
    np.testing.assert_array_equal(weight.operand(index), whole[index])
    assert weight.rows(2, 2).shape == (0, weight.shape[1])
    assert str(weight.shape) in repr(weight)


@pytest.mark.parametrize("weight", examples(), ids=lambda weight: weight.format)
def test_read_names_the_bits_that_the_value_depends_on(weight: Packed) -> None:
    """The formula over the parts is the value, the parts' codes are those bits, and flipping one changes the value."""
    files = {
        GPTQ: ("qweight", "qzeros", "scales", "g_idx"), AWQ: ("qweight", "qzeros", "scales"),
        PackQuantized: ("packed", "zero_point", "stored_scales", "g_idx"),
    }[type(weight)]  # fmt: skip
    tensor = dict(zip(("qu", "z", "s", "g"), files, strict=False))
    for row, column in ((0, 0), (7, 11), (15, weight.shape[1] - 1)):
        value = {}
        for part in weight.read(row, column):
            name = next(file for letters, file in tensor.items() if part.name in letters)
            stored = getattr(weight, name)
            raw = (stored.array if isinstance(stored, Weight) else stored).tobytes()
            bits = [bit.of(raw) << shift for bit, shift in shifted(part.where)]
            assert sum(bits) == part.code
            assert part.name in weight.tensors
            value[part.name] = part.value
        assert evaluate(weight.formula, value) == Fraction(weight.unrounded(np.array([row]))[0, column])
    for row, column in ((16, 0), (-1, 0), (0, weight.shape[1])):
        with pytest.raises(ValueError, match=r"no element \("):
            weight.read(row, column)


def shifted(where: tuple[Any, ...]) -> list[tuple[Any, int]]:
    return [(bit, sum(earlier.width for earlier in where[:n])) for n, bit in enumerate(where)]


def test_bytes_are_counted_over_all_parts() -> None:
    weight = examples()[0]
    assert weight.nbytes == 64 * 3 // 32 * 16 * 4 + 4 * 2 * 4 + 4 * 16 * 2 + 64 * 4
    assert examples()[1].nbytes == 24 * 2 * 4 + 3 * 2 * 4 + 3 * 16 * 2


def test_awq_packs_what_it_unpacks() -> None:
    codes = np.random.default_rng(1).integers(0, 16, (5, 24))
    np.testing.assert_array_equal(awq.pick_awq(pack_awq(codes), np.arange(24)).T, codes)
    with pytest.raises(ValueError, match=r"8·n columns, got int64 \(5, 23\)"):
        pack_awq(codes[:, :23])
    with pytest.raises(ValueError, match="AWQ codes are 0 … 15"):
        pack_awq(codes + 1)
