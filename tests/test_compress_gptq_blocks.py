"""GPTQ in GGUF's blocks: decoded bits, the theorems of a diagonal Hessian and of the objective, planted mistakes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gptq_theorems import drawn, is_the_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.compress import gptq_blocks as page
from lepton_ref.compress.gptq import gptq
from lepton_ref.compress.gptq_blocks import BLOCKS, UNUSED, gptq_blocks, levels_of, nearest
from lepton_ref.compress.grid import Grid
from lepton_ref.compress.hessian import damped, layer_error
from lepton_ref.compress.quantise import effective_settings, quantise_weight
from lepton_ref.storage import FORMATS, decode, encode
from lepton_ref.storage.block_codes import codes, lines, with_codes
from lepton_ref.storage.encoders import WEIGHTED

Reals = NDArray[np.float64]

WAYS: list[dict[str, Any]] = [{}, {"act_order": False}, {"act_order": False, "follow": True}]

each = pytest.mark.parametrize("name", BLOCKS)
each_way = pytest.mark.parametrize("way", WAYS, ids=["act-order", "in place", "scales follow"])


def layer(name: str, seed: int, blocks: int | None = None, outputs: int = 4) -> tuple[Reals, Reals]:
    """(weight, Hessian) whose rows are so many blocks; about 128 numbers where None."""
    length = FORMATS[name].length
    inputs = max(length, 128) if blocks is None else blocks * length
    return drawn(seed, tokens=inputs + 50, inputs=inputs, outputs=outputs)


def encoded(name: str, w: Reals, h: Reals) -> NDArray[np.uint8]:
    """By the encoder alone, weighted as GPTQ weighs."""
    return encode(name, w, **({"weights": np.diag(h).astype(np.float32)} if name in WEIGHTED else {}))


# --- by hand -------------------------------------------------------------------------------------------------------


def test_a_block_by_hand() -> None:
    # Two inputs matter. H = [[5, 2], [2, 1]] = U·D·Uᵀ with U = [[1, 2], [0, 1]]: the error of the first column comes
    # twofold on the second. The block's largest number is −8, so d = 1: the first column wants 0.25 and takes 0, the
    # second wants 0.25 + 0.5 and takes 1, where rounding to nearest takes 0.
    w = np.zeros((1, 32))
    w[0, :3] = 0.25, 0.25, -8
    h = np.eye(32)
    h[:2, :2] = [[5, 2], [2, 1]]
    done = gptq_blocks(w, h, "Q4_0", damp=0.0, act_order=False, importance=np.ones(32))
    assert done.values[0, :4].tolist() == [0, 1, -8, 0]
    assert codes("Q4_0", done.raw)[0, :4].tolist() == [8, 9, 0, 8]
    assert done.objective == 0.25**2 + 0.25**2 == layer_error(w - done.values, h)


def test_ties_take_the_lower_level() -> None:
    s, m = np.array([1.0, -1.0]), np.array([0.0, 0.0])
    chosen, values = nearest(np.array([0.5, 0.5]), s, m, levels_of("Q4_0"))
    assert chosen.tolist() == [0, 0]  # of 0 and 1; of 0 and −1
    assert values.tolist() == [0, 0]
    chosen, values = nearest(np.array([100.0, -100.0]), s, m, levels_of("Q4_0"))
    assert chosen.tolist() == [15, 15]
    chosen, _ = nearest(np.array([-0.1, 0.3]), np.array([1.0, 1.0]), m, levels_of("MXFP4"))
    assert chosen.tolist() == [0, 0]  # not code 8, which is zero too


def test_levels_that_no_encoder_writes_are_left_out() -> None:
    assert levels_of("Q8_0").values.min() == -127
    assert levels_of("TQ2_0").values.tolist() == [0, 1, 2]
    assert len(levels_of("NVFP4").values) == 15
    for name in UNUSED:
        w, _ = layer(name, 1)
        every = codes(name, encode(name, np.concatenate([w, 2.0**10 * w])))
        assert set(np.unique(every)) <= set(levels_of(name).codes.tolist())


# --- theorems ------------------------------------------------------------------------------------------------------


@each
@each_way
def test_the_file_decodes_to_what_was_chosen(name: str, way: dict[str, Any]) -> None:
    w, h = layer(name, 1)
    done = gptq_blocks(w, h, name, **way)
    got = decode(name, done.raw).astype(np.float64) + 0.0  # a zero has one sign
    np.testing.assert_array_equal(got.view(np.int64), (done.values + 0.0).view(np.int64))


def test_scales_may_follow_from_super_block_to_super_block() -> None:
    w, h = layer("Q4_K", 8, blocks=2)
    done = gptq_blocks(w, h, "Q4_K", act_order=False, follow=True)
    np.testing.assert_array_equal(decode("Q4_K", done.raw), done.values)
    plain, none = encoded("Q4_K", w, h), np.zeros(w.shape, dtype=np.uint8)
    same = with_codes("Q4_K", done.raw, none) == with_codes("Q4_K", plain, none)
    assert same[:, :144].all()
    assert not same[:, 144:].all()


@each
def test_scales_are_the_encoders(name: str) -> None:
    w, h = layer(name, 2)
    none = np.zeros(w.shape, dtype=np.uint8)
    plain, done = encoded(name, w, h), gptq_blocks(w, h, name).raw
    np.testing.assert_array_equal(with_codes(name, done, none), with_codes(name, plain, none))
    assert not np.array_equal(done, plain)


def away(w: Reals, name: str, raw: NDArray[np.uint8]) -> list[Fraction]:
    """|w − v| of every element, v the closed form."""
    closed = FORMATS[name].values(raw, rounded=False).astype(np.float64)
    return [abs(Fraction(a) - Fraction(b)) for a, b in zip(w.ravel().tolist(), closed.ravel().tolist(), strict=True)]


@each
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), way=st.sampled_from(WAYS), size=st.sampled_from([1.0, 1e-3, 1e-6, 100.0]))
def test_a_diagonal_hessian_takes_the_nearest_of_all_codes(
    name: str, seed: int, way: dict[str, Any], size: float
) -> None:
    rng = np.random.default_rng(seed)
    w = (size * rng.standard_normal((1, FORMATS[name].length))).astype(np.float32).astype(np.float64)
    h = np.diag(np.exp(rng.standard_normal(w.shape[1])))
    done = gptq_blocks(w, h, name, damp=0.0, **way)
    assert distances_are_least(w, h, name, done.raw)


def distances_are_least(w: Reals, h: Reals, name: str, raw: NDArray[np.uint8]) -> bool:
    """For each element, of all codes that are used, and so at most the encoder's.

    Of more than 32 codes those of the next levels are tried, which is enough: the distance is convex in the level.
    """
    got, upwards = away(w, name, raw), levels_of(name).codes
    if len(upwards) <= 32:
        tried = [np.full(w.shape, q, dtype=np.uint8) for q in upwards]
    else:
        place = np.zeros(256, dtype=np.int64)
        place[upwards] = np.arange(len(upwards))
        at = place[codes(name, raw)]
        tried = [upwards[np.clip(at + step, 0, len(upwards) - 1)] for step in (-1, 1)]
    others = [away(w, name, with_codes(name, raw, each)) for each in tried]
    others += [away(w, name, encoded(name, w, h))]
    return all(mine <= min(theirs) for mine, *theirs in zip(got, *others, strict=True))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4"])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_objective_is_the_trace_of_what_is_decoded(name: str, act_order: bool) -> None:
    w, h = layer(name, 3, blocks=1, outputs=2)
    done = gptq_blocks(w, h, name, act_order=act_order)
    delta = w - decode(name, done.raw).astype(np.float64)
    assert is_the_trace(done.objective, delta, damped(h, 0.01), act_order=act_order)
    assert not is_the_trace(done.objective * (1 + 1e-6), delta, damped(h, 0.01), act_order=act_order)


def errs_less(page: ModuleType, name: str, seed: int, way: dict[str, Any]) -> bool:
    """Not a theorem: on fixed seeds."""
    w, h = layer(name, seed)
    fed, plain = (
        layer_error(w - decode(name, raw).astype(np.float64), h)
        for raw in (page.gptq_blocks(w, h, name, **way).raw, encoded(name, w, h))
    )
    return bool(fed < plain)


@each
@each_way
def test_it_errs_less_than_the_encoder_on_fixed_seeds(name: str, way: dict[str, Any]) -> None:
    assert all(errs_less(page, name, seed, way) for seed in range(2))


@pytest.mark.parametrize("name", ["Q4_0", "Q3_K", "IQ4_XS"])
@each_way
def test_a_row_alone_has_the_same_bytes(name: str, way: dict[str, Any]) -> None:
    w, h = layer(name, 4)
    whole = gptq_blocks(w, h, name, **way).raw
    np.testing.assert_array_equal(gptq_blocks(w[2:3], h, name, **way).raw, whole[2:3])


@each
def test_zeros_are_stored_as_the_encoder_stores_them(name: str) -> None:
    w, h = layer(name, 5)
    w[1] = 0
    w[2, : FORMATS[name].length] = -0.0
    done = gptq_blocks(w, np.diag(np.diag(h)), name)
    plain = encoded(name, w, h)
    np.testing.assert_array_equal(done.raw[1], plain[1])
    assert (lines(name, done.raw)[0][1] == lines(name, plain)[0][1]).all()


def test_a_weight_by_name_and_method() -> None:
    w, h = layer("Q4_0", 6)
    by_name = quantise_weight(w, "Q4_0", method="gptq", hessian=h)
    assert (by_name.format, by_name.method, by_name.coded) == ("Q4_0", "gptq", None)
    np.testing.assert_array_equal(by_name.raw, gptq_blocks(w, h, "Q4_0").raw)
    following = quantise_weight(w, "Q4_0", method="gptq", hessian=h, follow=True, importance=np.ones(len(h)))
    alone = gptq_blocks(w, h, "Q4_0", act_order=False, follow=True, importance=np.ones(len(h)))
    np.testing.assert_array_equal(following.raw, alone.raw)


@pytest.mark.parametrize("how", [{}, {"damp": 0.1}, {"act_order": True}, {"act_order": False}, {"follow": True}])
def test_settings_that_are_told_are_those_gone_by(how: dict[str, Any]) -> None:
    w, h = layer("Q4_0", 9)
    told = effective_settings("Q4_0", "gptq", **how)
    order = how.get("act_order", not how.get("follow", False))
    block = {} if how.get("follow") else {"block": 128}
    assert told == {"damp": 0.01, "follow": False, **how, "act_order": order, **block}
    by_name = quantise_weight(w, "Q4_0", method="gptq", hessian=h, **how)
    np.testing.assert_array_equal(by_name.raw, gptq_blocks(w, h, "Q4_0", **told).raw)
    told = effective_settings("int4-g32", "gptq", scales="clip", **how)
    assert told == {
        "scales": "clip", "damp": 0.01, "follow": False, "act_order": False, **how, **block,
    }  # fmt: skip
    coded = quantise_weight(w, "int4-g32", method="gptq", hessian=h, scales="clip", **how).coded
    assert coded is not None
    np.testing.assert_array_equal(coded.codes, gptq(w, h, Grid(4, 32), **told).codes)


def test_settings_of_methods_that_have_few() -> None:
    assert effective_settings("int4-g32", "rtn") == effective_settings("int4-g32", "awq") == {"scales": "minmax"}
    for format_, method in (("int4-g32", "hqq"), ("Q4_K", "rtn"), ("fp8-128x128", "rtn")):
        assert effective_settings(format_, method, scales="clip") == {}
    with pytest.raises(ValueError, match="unknown method 'best'; known: rtn"):
        effective_settings("Q4_K", "best")


# --- bad input -----------------------------------------------------------------------------------------------------

W, H = np.ones((2, 32)), np.eye(32)
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: gptq_blocks(W, H, "IQ3_S"), "GPTQ has no 'IQ3_S', whose elements have no codes of their own; take Q1_0"),
    (lambda: gptq_blocks(W, H, "F16"), "GPTQ has no 'F16'"),
    (lambda: gptq_blocks(W, H, "Q4_K"), "rows of 32 are no whole blocks of Q4_K, which have 256"),
    (lambda: gptq_blocks(W, np.eye(31), "Q4_0"), "a Hessian of shape (31, 31); give (32, 32)"),
    (lambda: gptq_blocks(W, np.triu(np.ones((32, 32))), "Q4_0"), "the Hessian is not symmetric"),
    (lambda: gptq_blocks(W, np.full((32, 32), np.nan), "Q4_0"), "the Hessian holds NaN"),
    (lambda: gptq_blocks(W, np.ones((32, 32)), "Q4_0", damp=0.0), "not positive definite: 0 is left of column"),
    (lambda: gptq_blocks(W, -np.eye(32), "Q4_0"), "importance holds -1; give numbers that are finite"),
    (lambda: gptq_blocks(np.full((2, 32), np.nan), H, "Q4_0"), "the weight is nan at (0, 0)"),
    (lambda: gptq_blocks(np.ones(32), H, "Q4_0"), "give floats of shape (outputs, inputs)"),
    (lambda: gptq_blocks(W / 3, H, "Q4_0"), "numbers that float32 does not hold"),
    (lambda: gptq_blocks(1e7 * W, H, "Q8_0"), "the weight reaches 1e+07, beyond the scales of Q8_0; take BF16"),
    (lambda: gptq_blocks(W, H, "Q4_0", act_order=True, follow=True), "leave act_order or the following"),
    (lambda: gptq_blocks(W, H, "Q4_0", damp=-1.0), "damp=-1.0; give a share"),
    (lambda: gptq_blocks(W, H, "Q4_0", block=0), "block=0; give at least 1"),
    (lambda: gptq_blocks(W, H, "Q4_0", importance=np.ones(3)), "importance has shape (3,)"),
    (lambda: quantise_weight(W, "Q4_0", method="gptq"), "gptq needs the Hessian of the weight's inputs"),
    (lambda: quantise_weight(W, "Q4_0", method="awq"), "no awq; take method='rtn' or 'gptq', or a grid"),
    (lambda: quantise_weight(W, "IQ3_S", method="gptq", hessian=H), "no gptq; take method='rtn', or a grid"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- planted mistakes ----------------------------------------------------------------------------------------------


def test_feedback_that_is_lost_is_seen() -> None:
    wrong = mutated(page, "w64, damped(h, damp), closest", "w64, np.diag(np.diag(damped(h, damp))), closest")
    assert errs_less(page, "Q3_K", 1, {})
    found = [
        layer_error(w - decode("Q3_K", each.gptq_blocks(w, h, "Q3_K").raw).astype(np.float64), h)
        for w, h in [layer("Q3_K", 1)]
        for each in (page, wrong)
    ]
    assert found[0] < found[1] / 2


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("np.where(s > 0, 2 * wanted > both, 2 * wanted < both)", "2 * wanted > both"),
        ("both = low + high", "both = 2 * low"),
        ("np.divide(wanted - m, s,", "np.divide(wanted, s,"),
    ],
    ids=["the sign of the scale", "no middle", "the minimum"],
)
def test_a_code_that_is_not_the_nearest_is_seen(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug)
    found = []
    for module in (page, wrong):
        fits = []
        for name in ("Q4_0", "Q4_1"):
            w, h = layer(name, 7)
            alone = np.diag(np.diag(h))
            fits.append(distances_are_least(w, alone, name, module.gptq_blocks(w, alone, name, damp=0.0).raw))
        found.append(all(fits))
    assert found == [True, False]


@each
@pytest.mark.parametrize("share", [0.2, -0.2])
def test_a_midpoint_that_is_shifted_is_seen(name: str, share: float) -> None:
    wrong = mutated(page, "both = low + high", f"both = low + high + {share} * (high - low)")
    w, h = layer(name, 7)
    alone = np.diag(np.diag(h))
    assert distances_are_least(w, alone, name, page.gptq_blocks(w, alone, name, damp=0.0).raw)
    assert not distances_are_least(w, alone, name, wrong.gptq_blocks(w, alone, name, damp=0.0).raw)


def test_a_code_that_a_zero_scale_changes_is_seen() -> None:
    wrong = mutated(page, "np.where(s[:, column] == 0, encoded[:, column], chosen)", "chosen")
    w, h = np.zeros((1, 32)), np.eye(32)
    np.testing.assert_array_equal(gptq_blocks(w, h, "Q4_0").raw, encode("Q4_0", w))
    assert not np.array_equal(wrong.gptq_blocks(w, h, "Q4_0").raw, encode("Q4_0", w))


# --- the same bytes on any machine's BLAS --------------------------------------------------------------------------

HASH = """
import hashlib
import numpy as np
from lepton_ref.compress.gptq_blocks import gptq_blocks
from lepton_ref.compress.hessian import hessian
rng = np.random.default_rng(0)
x = (rng.standard_normal((700, 256)) @ rng.standard_normal((256, 256))).astype(np.float32)
w = rng.standard_normal((64, 256)).astype(np.float32)
for name, follow in (("Q4_K", False), ("Q4_0", True)):
    done = gptq_blocks(w, hessian([x]), name, act_order=not follow, follow=follow)
    print(hashlib.sha256(done.raw.tobytes()).hexdigest(), float(done.objective).hex())
"""


def test_threads_and_kernels_of_blas_change_nothing() -> None:
    hashes = set()
    for setting in ({"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "4"}, {"OPENBLAS_CORETYPE": "Haswell"}):
        done = subprocess.run(
            [sys.executable, "-c", HASH], env={**os.environ, **setting}, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1
