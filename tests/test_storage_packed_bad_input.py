"""Packed matrices that contradict themselves are refused in one line; what decides between layouts says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import packed_cases as cases
import pytest

from lepton_ref.storage import Dense
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.bitstream import pack
from lepton_ref.storage.detect import alignment, ambiguous_zeros, gptq_version, mean_shift, packing
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.pack_quantized import PackQuantized


def gptq(**changes: Any) -> GPTQ:
    rng = np.random.default_rng(0)
    case = cases.gptq(rng, bits=4, version=2, outputs=16, inputs=32, groups=4, order="act")
    return GPTQ(**{**case.parts, **changes})


def awq(**changes: Any) -> AWQ:
    return AWQ(**{**cases.awq(np.random.default_rng(0), eights=2, inputs=32, groups=4).parts, **changes})


def compressed(**changes: Any) -> PackQuantized:
    rng = np.random.default_rng(0)
    case = cases.compressed(rng, bits=4, outputs=16, inputs=32, groups=4, zeros="packed", order="act")
    return PackQuantized(**{**case.parts, **changes})


def numbers(*shape: int, format: str = "F16") -> Dense:
    return cases.dense(np.ones(shape, dtype=np.float32), format)


def words(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.int32)


F64 = Dense(np.ones((4, 16)), format="F64")

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (gptq, {"bits": 5}, "GPTQ codes have 2, 3, 4 or 8 bits, got 5"),
    (gptq, {"version": 3}, "GPTQ has versions 1 (z − 1 is stored) and 2 (z is), got 3"),
    (gptq, {"qweight": words(4, 16).astype(np.int64)}, "qweight must be an int32 matrix, got int64 (4, 16)"),
    (gptq, {"qweight": words(64)}, "qweight must be an int32 matrix, got int32 (64,)"),
    (gptq, {"qzeros": words(4, 3)}, "qzeros (4, 3) must have 2 columns for 16 outputs of 4 bits"),
    (gptq, {"scales": numbers(4, 15)}, "scales must have shape (4, 16), got (4, 15)"),
    (gptq, {"scales": F64}, "scales must be stored as F16, BF16, F32, got F64"),
    (gptq, {"scales": np.ones((4, 16))}, "scales must be stored as F16, BF16, F32, got ndarray"),
    (gptq, {"g_idx": np.full(32, 4, dtype=np.int32)}, "g_idx names group 4, but there are 4: 0 … 3"),
    (gptq, {"g_idx": np.full(32, -1, dtype=np.int32)}, "g_idx names group -1, but there are 4: 0 … 3"),
    (gptq, {"g_idx": np.zeros(40, dtype=np.int32)}, "qweight (4, 16) of 4 bits does not hold 40 inputs, as g_idx says"),
    (gptq, {"g_idx": np.zeros(32, dtype=np.float32)}, "g_idx must be 32 integers, got float32 (32,)"),
    (gptq, {"g_idx": None, "group_size": None}, "without g_idx group_size must be positive, or -1 for all inputs"),
    (gptq, {"g_idx": None, "group_size": 16}, "32 inputs in groups of 16 make 2 groups, but scales have 4"),
    (gptq, {"qweight": words(32, 2)}, "qweight (32, 2) beside scales (4, 16) is AWQ's layout; set quant_method"),
    (awq, {"qweight": words(4, 16)}, "qweight (4, 16) beside scales (4, 16) is GPTQ's layout; set quant_method"),
    (awq, {"qzeros": words(4, 3)}, "qzeros (4, 3) must have the 2 columns of qweight"),
    (awq, {"qzeros": words(5, 2), "scales": numbers(5, 16)}, "32 inputs are not 5 whole groups, as qzeros (5, 2) says"),
    (awq, {"scales": numbers(4, 8)}, "scales must have shape (4, 16), got (4, 8)"),
    (compressed, {"bits": 9}, "codes have 1 to 8 bits, got 9"),
    (compressed, {"shape": (16, 33)}, "weight_packed (16, 4) does not hold 33 codes of 4 bits a row"),
    (
        compressed,
        {"shape": (16, 33), "aligned": None},
        "weight_packed: 33 codes of 4 bits take 5 words, got 4; is it an",
    ),
    (compressed, {"shape": (17, 32)}, "weight_shape is [17, 32], which weight_packed (16, 4) cannot hold"),
    (compressed, {"shape": (16, 32, 1)}, "weight_shape is [16, 32, 1], which weight_packed (16, 4) cannot hold"),
    (compressed, {"scale": numbers(15, 4)}, "weight_scale must have shape (16, groups), (16,) or (1,), got (15, 4)"),
    (compressed, {"scale": F64}, "weight_scale must have shape"),
    (
        compressed,
        {"zero_point": words(3, 4)},
        "weight_zero_point must be int32 (2, 4) or int8 like the scale, got int32",
    ),
    (compressed, {"g_idx": np.full(32, 9, dtype=np.int32)}, "weight_g_idx names group 9, but there are 4: 0 … 3"),
    (compressed, {"g_idx": None, "group_size": 16}, "32 inputs in groups of 16 make 2, but weight_scale has 4"),
    (
        compressed,
        {"g_idx": None, "group_size": None, "scale": numbers(16, 5), "zero_point": None},
        "32 inputs are not 5 equal groups; pass group_size or weight_g_idx",
    ),
]


@pytest.mark.parametrize(("make", "changes", "message"), REFUSED, ids=[message[:50] for *_, message in REFUSED])
def test_what_cannot_be_is_refused_by_name(make: Any, changes: dict[str, Any], message: str) -> None:
    assert make().shape == (16, 32)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        make(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- GPTQ's version --------------------------------------------------------------------------------------------------


def layers(*codes: int) -> list[Any]:
    return [np.full((2, 8), code) for code in codes]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_zeros_of_symmetric_codes_tell_the_version(bits: int) -> None:
    middle = 2 ** (bits - 1)
    for symmetric in (True, None):
        assert gptq_version(layers(middle - 1, middle - 1), bits, symmetric=symmetric).answer == 1
        assert gptq_version(layers(middle, middle), bits, symmetric=symmetric).answer == 2
    assert "version 1 stores" in gptq_version(layers(middle - 1), bits).reason


@pytest.mark.parametrize(
    ("zeros", "how", "reason"),
    [
        (layers(7), {"symmetric": False}, "zeros of asymmetric quantisation may be any code in both versions"),
        (layers(7, 8), {}, "zeros of asymmetric quantisation may be any code in both versions"),
        (layers(7, 8), {"symmetric": True}, "sym is true, but the stored zeros are not all 7 or all 8: [7, 8]"),
        (layers(3), {"symmetric": True}, "sym is true, but the stored zeros are not all 7 or all 8: [3]"),
        (layers(), {}, "there are no zeros to look at"),
        (layers(7), {"stated": "marlin"}, "checkpoint_format is 'marlin', neither 'gptq' nor 'gptq_v2'"),
        (layers(8), {"stated": "gptq", "symmetric": True}, "which stores every zero as 7, but the stored zeros are 8"),
        (layers(7), {"stated": "gptq_v2", "symmetric": True}, "stores every zero as 8, but the stored zeros are 7"),
    ],
)
def test_what_does_not_decide_the_version_gives_none_and_a_remedy(zeros: Any, how: Any, reason: str) -> None:
    verdict = gptq_version(zeros, 4, **how)
    assert verdict.answer is None
    assert reason in verdict.reason
    assert '"checkpoint_format": "gptq"' in verdict.remedy


def test_a_stated_version_counts_where_nothing_contradicts_it() -> None:
    assert gptq_version(layers(3, 9), 4, stated="gptq").answer == 1
    assert gptq_version(layers(3, 9), 4, stated="gptq_v2", symmetric=False).answer == 2
    assert gptq_version(layers(8), 4, stated="gptq_v2", symmetric=True).answer == 2


def test_ambiguous_zeros_are_counted_and_the_mean_is_evidence() -> None:
    assert ambiguous_zeros([np.array([15, 14]), np.array([[15]])], 4) == 2
    rng = np.random.default_rng(0)
    zeros = rng.integers(5, 11, (64, 4))
    groups = rng.permutation(128) // 32
    codes = np.clip(np.rint(rng.normal(size=(64, 128)) * 1.5 + zeros[:, groups]), 0, 15).astype(np.uint8)
    one, two = mean_shift(codes, zeros, groups, 4)
    assert abs(two) < 0.1
    assert one == two - 1


# --- orientation and gaps --------------------------------------------------------------------------------------------


def test_shapes_tell_gptq_from_awq() -> None:
    assert packing((4, 16), (4, 16), 4).answer == "gptq"
    assert packing((32, 2), (4, 16), 4).answer == "awq"
    assert packing((32, 1), (4, 1), 4).answer is None
    assert "fits both" in packing((32, 1), (4, 1), 4).reason
    assert "fits neither" in packing((32, 3), (4, 16), 4).reason
    assert packing((32,), (4, 16), 4).answer is None


def test_the_number_of_words_tells_streams_from_whole_codes() -> None:
    assert alignment(3, 32, 3).answer == "dense"
    assert alignment(4, 32, 3).answer == "aligned"
    assert alignment(2, 11, 3).answer is None
    assert alignment(1, 10, 3).answer == "dense"
    assert alignment(4, 32, 4).answer == "dense"
    assert alignment(5, 32, 4).answer is None
    assert "take 3 or, 10 a word, 4 words, got 5" in alignment(5, 32, 3).reason


def test_both_packings_are_read_and_an_undecided_one_is_refused() -> None:
    rng = np.random.default_rng(2)
    for bits in (3, 5, 6, 7):
        for aligned in (False, True):
            case = cases.compressed(rng, bits=bits, outputs=5, inputs=96, groups=3, zeros="packed", aligned=aligned)
            weight = PackQuantized(**{**case.parts, "aligned": None})
            assert weight.aligned == aligned
            assert cases.differences(weight, case) == 0
    codes = rng.integers(0, 8, (2, 11))
    with pytest.raises(ValueError, match="11 codes of 3 bits take 2 words with or without gaps; say which: aligned="):
        PackQuantized(pack(codes, 3), numbers(2, 1), shape=(2, 11), bits=3)
