"""NF4, FP4 and int8 of bitsandbytes: its own values, twins in fractions, planted mistakes, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.audit.formula import evaluate
from lepton_ref.plain.formats import round_to
from lepton_ref.storage import Dense, RowView, bnb4, bnb8
from lepton_ref.storage.bnb4 import TABLES, BitsAndBytes4, Nested
from lepton_ref.storage.bnb8 import BitsAndBytes8

SEEDS = st.integers(0, 2**32 - 1)
GOLDENS = GOLDEN / "storage_packed" / "packed.npz"


def f32(values: Any) -> Dense:
    return Dense(np.asarray(values, dtype="<f4"), format="F32")


def nested_of(codes: Any, table: Any, absmax: Any, *, offset: float, blocksize: int = 256) -> Nested:
    return Nested(np.asarray(codes, dtype=np.uint8), f32(table), f32(absmax), offset=offset, blocksize=blocksize)


def read_golden(name: str, module: Any = bnb4) -> tuple[Any, NDArray[np.float32], dict[str, NDArray[Any]]]:
    """The weight, bitsandbytes' values of its last rows, and the parts."""
    with np.load(GOLDENS, allow_pickle=False) as file:
        part = {key.removeprefix(f"{name}_"): file[key] for key in file.files if key.startswith(f"{name}_")}
    state = json.loads(part["quant_state"].tobytes())
    nested = None
    if "nested_offset" in state:
        nested = module.Nested(
            part["absmax"], f32(part["nested_quant_map"]), f32(part["nested_absmax"]),
            offset=state["nested_offset"], blocksize=state["nested_blocksize"],
        )  # fmt: skip
    weight = module.BitsAndBytes4(
        part["weight"], None if nested is not None else f32(part["absmax"]), shape=tuple(state["shape"]),
        kind=state["quant_type"], blocksize=state["blocksize"], nested=nested,
    )  # fmt: skip
    return weight, part["value"], part


SHAPES = ("2x128", "7x45", "2x256")
SIMPLE = [f"{kind}_{shape}_simple" for kind in TABLES for shape in SHAPES]
NESTED = [f"{kind}_{shape}_nested" for kind in TABLES for shape in SHAPES] + ["nf4_260x32_nested"]


@pytest.mark.parametrize("name", [*SIMPLE, *NESTED])
def test_the_tables_are_those_that_bitsandbytes_stores(name: str) -> None:
    weight, _, part = read_golden(name)
    assert weight.table.tobytes() == part["quant_map"].tobytes()


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_blocks_are_what_bitsandbytes_decodes(name: str) -> None:
    weight, value, _ = read_golden(name)
    np.testing.assert_array_equal(weight.decode()[-len(value) :], value)


def test_blocks_run_on_over_the_ends_of_rows() -> None:
    """bitsandbytes' CPU decoder starts them anew with each row; its quantiser's codes are nearest if they run on."""
    with np.load(GOLDENS, allow_pickle=False) as file:
        packed, absmax, numbers = (file[f"straddling_{name}"] for name in ("weight", "absmax", "numbers"))
    weight = BitsAndBytes4(packed, f32(absmax), shape=numbers.shape, kind="nf4")
    block = np.arange(numbers.size).reshape(numbers.shape) // 64
    choices = weight.table.astype(np.float64) * absmax[block][..., np.newaxis]
    least = np.abs(choices - numbers[..., np.newaxis]).min(axis=-1)
    np.testing.assert_array_equal(np.abs(weight.unrounded(np.arange(4)) - numbers), least)


def in_float32(part: dict[str, NDArray[Any]], offset: float, elements: NDArray[np.int64], size: int) -> Any:
    """bitsandbytes' own three roundings, step by step."""
    block = elements // size
    scale = part["nested_quant_map"][part["absmax"][block]] * part["nested_absmax"][block // 256]
    byte = part["weight"].reshape(-1)[elements // 2]
    code = np.where(elements % 2 == 0, byte >> 4, byte & 15)
    return part["quant_map"][code] * (scale + np.float32(offset))


@pytest.mark.parametrize("name", NESTED)
def test_nested_blocks_are_bitsandbytes_but_for_its_roundings(name: str) -> None:
    """The bytes mean the same: its values come out of its three roundings, and ours is within them of it."""
    weight, value, part = read_golden(name)
    state = json.loads(part["quant_state"].tobytes())
    elements = np.arange(weight.shape[0] * weight.shape[1]).reshape(weight.shape)[-len(value) :]
    np.testing.assert_array_equal(in_float32(part, state["nested_offset"], elements, state["blocksize"]), value)
    ours = weight.unrounded(np.arange(weight.shape[0]))[-len(value) :]
    scales = np.abs(part["nested_absmax"]).max() + abs(state["nested_offset"])  # no step's result is larger
    assert (np.abs(ours - value) <= 4 * 2.0**-24 * scales).all()
    if name == "nf4_260x32_nested":
        assert np.mean(np.float32(ours) != value) > 0.1


def test_int8_is_bitsandbytes_but_for_its_roundings() -> None:
    with np.load(GOLDENS, allow_pickle=False) as file:
        codes, scb, value = (file[f"int8_{name}"] for name in ("weight", "SCB", "value"))
    weight = BitsAndBytes8(codes, f32(scb))
    steps = codes.astype(np.float32) * scb[:, np.newaxis] * np.float32(7.874015718698502e-3)
    np.testing.assert_array_equal(steps, value)
    for o, i in np.ndindex(*weight.shape):
        exact = Fraction(int(codes[o, i])) * Fraction(float(scb[o])) / 127
        assert float(weight.take(np.array([o]))[0, i]) == round_to(exact, "fp32")


# --- twins -----------------------------------------------------------------------------------------------------------


def exact(weight: Any, e: int) -> Fraction:
    """Element e of the flat matrix in fractions, from the constructor's arguments alone."""
    byte = int(weight.packed[e // 2])
    q = byte // 16 if e % 2 == 0 else byte % 16
    block = e // weight.blocksize
    if weight.absmax is not None:
        scale = Fraction(float(weight.absmax.array[block]))
    else:
        nested = weight.nested
        scale = Fraction(float(nested.table.array[nested.codes[block]]))
        scale = scale * Fraction(float(nested.absmax.array[block // nested.blocksize])) + Fraction(nested.offset)
    return Fraction(float(np.float32(TABLES[weight.kind][q]))) * scale


def differences(weight: Any) -> int:
    got, wide = weight.decode().reshape(-1), weight.unrounded(np.arange(weight.shape[0])).reshape(-1)
    wrong = 0
    for e in range(got.size):
        value = exact(weight, e)
        close = abs(Fraction(float(wide[e])) - value) <= abs(value) / 2**51
        wrong += float(got[e]) != round_to(value, "fp32") or not close
    return wrong


def drawn(
    rng: np.random.Generator, shape: tuple[int, int], size: int, kind: str, nested: bool, module: Any = bnb4
) -> Any:
    count = shape[0] * shape[1]
    packed = rng.integers(0, 256, -(-count // 2)).astype(np.uint8)
    blocks = -(-count // size)
    if not nested:
        scales = np.exp2(rng.uniform(-140, 127, blocks)).astype(np.float32)
        return module.BitsAndBytes4(packed, f32(scales), shape=shape, kind=kind, blocksize=size)
    few = int(rng.integers(1, 4))
    table = rng.choice(np.array([0.5, 1.0, -0.25, 1.0 / 3], dtype=np.float32), 256)
    table = np.where(rng.random(256) < 0.5, table, rng.uniform(-1, 1, 256).astype(np.float32))
    absmax = np.exp2(rng.uniform(-40, 20, -(-blocks // few)) * rng.integers(0, 2)).astype(np.float32)
    offset = float(np.float32(rng.choice([0.0, 1.0, rng.uniform(0, 1), 2.0**-30])))
    inner = module.Nested(
        rng.integers(0, 256, blocks).astype(np.uint8), f32(table), f32(absmax), offset=offset, blocksize=few
    )
    return module.BitsAndBytes4(packed, None, shape=shape, kind=kind, blocksize=size, nested=inner)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)), size=st.sampled_from([32, 64]),
    kind=st.sampled_from(sorted(TABLES)), nested=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_blocks_and_their_twin_agree(shape: tuple[int, int], size: int, kind: str, nested: bool, seed: int) -> None:
    assert differences(drawn(np.random.default_rng(seed), shape, size, kind, nested)) == 0


def beside_a_tie(module: Any = bnb4) -> Any:
    """±(1 + 2⁻²³ + 2⁻²⁴·(1 − 2⁻⁴⁶)): a part in 2⁷⁰ below the midpoint that float64 makes of it."""
    table = np.full(256, 1 + 2.0**-23)
    inner = module.Nested(
        np.zeros(2, dtype=np.uint8), f32(table), f32([2.0**-24 * (1 - 2.0**-23)]), offset=1 + 2.0**-23
    )
    packed = np.full(32, 0xF0, dtype=np.uint8)
    return module.BitsAndBytes4(packed, None, shape=(2, 32), kind="nf4", blocksize=32, nested=inner)


def test_a_nested_scale_beside_a_tie_is_rounded_by_what_decides_it() -> None:
    value = 1 + 2.0**-23
    assert np.float32(value + 2.0**-24 * (1 - 2.0**-46)) == np.float32(1 + 2.0**-22)
    assert beside_a_tie().decode().tolist() == [[value, -value] * 16] * 2
    tie = nested_of([0, 0], np.ones(256), [2.0**-24], offset=value)
    weight = BitsAndBytes4(np.full(32, 0xF0, dtype=np.uint8), None, shape=(2, 32), kind="nf4", blocksize=32, nested=tie)
    assert weight.decode()[0, 0] == 1 + 2.0**-22  # to even


@given(outputs=st.integers(1, 4), inputs=st.integers(1, 20), seed=SEEDS)
def test_int8_and_its_twin_agree(outputs: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    scb = np.exp2(rng.uniform(-149, 127, outputs)).astype(np.float32)
    got = BitsAndBytes8(codes, f32(scb)).decode()
    for o, i in np.ndindex(outputs, inputs):
        value = Fraction(int(codes[o, i])) * Fraction(float(scb[o])) / 127
        assert float(got[o, i]) == round_to(value, "fp32")


def test_literal_blocks() -> None:
    packed = np.zeros(16, dtype=np.uint8)
    packed[:2] = [0xF0, 0x7E]
    got = BitsAndBytes4(packed, f32([2.0]), shape=(1, 32), kind="nf4", blocksize=32).decode()[0]
    assert got[:4].tolist() == [2.0, -2.0, 0.0, float(2 * np.float32(TABLES["nf4"][14]))]
    got = BitsAndBytes4(packed, f32([-2.0]), shape=(1, 32), kind="fp4", blocksize=32).decode()[0]
    assert got[:4].tolist() == [0.5, -0.0, -0.5, float(np.float32(1 / 3))]
    assert np.signbit(got[1])
    codes = np.array([[127, -128, 0]], dtype=np.int8)
    assert BitsAndBytes8(codes, f32([1.0])).decode().tolist() == [[1.0, float(np.float32(-128 / 127)), 0.0]]


def test_nan_and_infinity_spread() -> None:
    packed = np.full(32, 0x7F, dtype=np.uint8)  # codes 0 and 1 of NF4
    got = BitsAndBytes4(packed, f32([np.nan, np.inf]), shape=(2, 32), kind="nf4", blocksize=32).decode()
    assert np.isnan(got[0]).all()
    assert np.isnan(got[1, 0])
    assert got[1, 1] == np.inf
    nested = nested_of([0, 1], np.linspace(-1, 1, 256), [np.inf], offset=1.0)
    got = BitsAndBytes4(packed, None, shape=(2, 32), kind="nf4", blocksize=32, nested=nested).decode()
    assert np.isnan(got[0, 0])
    assert got[0, 1] == -np.inf


HALVES = "np.stack([self.table[every >> 4], self.table[every & 15]], axis=-1)"
SCALE = "blocks // self.blocksize].astype(np.float64) + self.offset"
NARROW = "self.nested.scales(blocks)[:, np.newaxis]"
WRONG = (
    (
        "the first element in the low nibble",
        HALVES,
        HALVES.replace(">> 4", "& 16").replace("& 15", ">> 4").replace("& 16", "& 15"),
    ),
    ("the first in the low nibble of odd rows", "high = flat % 2 == 0", "high = flat % 2 == 1"),
    ("blocks of a row", "np.unique(flat // self.blocksize", "np.unique(flat % inputs // self.blocksize"),
    ("the offset forgotten", SCALE, SCALE.removesuffix(" + self.offset")),
    ("no scale of scales", "self.absmax.array[blocks // self.blocksize]", "self.absmax.array[0 * blocks]"),
    ("float32 on the way", NARROW, NARROW + ".astype(np.float32)"),
    ("no second look at ties", "for n, q in np.argwhere(", "for n, q in np.argwhere(False & "),
)


@pytest.mark.parametrize(("what", "text", "bug"), WRONG, ids=[what for what, *_ in WRONG])
def test_a_wrong_decoder_is_caught(what: str, text: str, bug: str) -> None:
    def all_of(module: Any) -> int:
        rng = np.random.default_rng(5)
        shapes = ((9, 64), (9, 45), (30, 32))
        weights = [drawn(rng, shape, 32, "nf4", nested, module) for shape in shapes for nested in (False, True)]
        return sum(differences(weight) for weight in [*weights, beside_a_tie(module)])

    assert all_of(bnb4) == 0
    assert all_of(mutated(bnb4, text, bug)) > 0


def test_an_int8_by_128_is_caught() -> None:
    wrong = mutated(bnb8, "out /= 127.0", "out /= 128.0")
    codes = np.array([[127]], dtype=np.int8)
    assert wrong.BitsAndBytes8(codes, f32([1.0])).decode()[0, 0] != 1.0


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 64), (9, 45), (6, 32)], ids=str)
@pytest.mark.parametrize("nested", [False, True])
def test_rows_take_and_views_agree(shape: tuple[int, int], nested: bool) -> None:
    weight = drawn(np.random.default_rng(1), shape, 32, "nf4", nested)
    whole = weight.decode()
    index = np.array([5, 0, 5, 3])
    np.testing.assert_array_equal(weight.rows(2, 5), whole[2:5])
    np.testing.assert_array_equal(weight.take(index), whole[index])
    np.testing.assert_array_equal(RowView(weight, index).decode(), whole[index])
    assert weight.rows(2, 2).shape == (0, shape[1])
    for row, column in ((0, 0), (3, 31), (5, 7)):
        parts = {part.name: part for part in weight.read(row, column)}
        assert set(parts) == set(weight.tensors)
        byte, low = (row * shape[1] + column) // 2, 0 if (row * shape[1] + column) % 2 else 4
        assert parts["q"].where == (bnb4.Bits(byte, low, 4),)
        scale = parts["c"].value * parts["m"].value + parts["offset"].value if nested else parts["a"].value
        assert parts["q"].value * scale == weight.unrounded(np.array([row]))[0, column]
        exact_value = evaluate(weight.formula, {name: part.value for name, part in parts.items()})
        assert exact_value == exact(weight, row * shape[1] + column)
    with pytest.raises(ValueError, match=r"no element \(9, 0\)"):
        weight.read(9, 0)


def test_int8_rows_and_bits() -> None:
    codes = np.random.default_rng(2).integers(-128, 128, (5, 8)).astype(np.int8)
    weight = BitsAndBytes8(codes, f32(np.arange(1, 6)))
    np.testing.assert_array_equal(weight.take(np.array([4, 1])), weight.decode()[[4, 1]])
    q, scale = weight.read(3, 2)
    assert (q.value, q.where[0].byte, scale.value, scale.where[0].byte) == (float(codes[3, 2]), 26, 4.0, 12)
    assert q.code == int(codes[3, 2]) % 256
    assert weight.nbytes == 40 + 20


def test_bytes_are_counted_over_all_parts() -> None:
    assert drawn(np.random.default_rng(1), (8, 64), 64, "nf4", False).nbytes == 256 + 64 + 32
    nested = nested_of(np.zeros(8), np.zeros(256), [1.0], offset=0.0)
    weight = BitsAndBytes4(np.zeros(256, dtype=np.uint8), None, shape=(8, 64), kind="fp4", nested=nested)
    assert weight.nbytes == 256 + 64 + 8 + 1024 + 4
    assert weight.format == "FP4_DQ"


GOOD: dict[str, Any] = {"packed": np.zeros(64, dtype=np.uint8), "absmax": f32([1, 1]), "shape": (2, 64), "kind": "nf4"}
REFUSED = (
    ({"kind": "int4"}, "quant_type must be 'nf4' or 'fp4', got 'int4'"),
    ({"blocksize": 48}, "blocksize must be one of 32, 64, 128, 256, 512, 1024, 2048, 4096, got 48"),
    ({"shape": (2, 66)}, "weight must be 66 bytes for shape (2, 66), got uint8 (64,)"),
    ({"shape": (128,)}, "shape must be (O, I), got (128,)"),
    ({"packed": np.zeros(64, dtype=np.int8)}, "weight must be 64 bytes for shape (2, 64), got int8 (64,)"),
    ({"absmax": None}, "a 4-bit weight has either absmax or nested scales; give one of the two"),
    ({"absmax": f32([1])}, "absmax must be F32 of shape (2,), got F32 (1,)"),
    ({"absmax": Dense(np.ones(2, dtype="<f2"), format="F16")}, "absmax must be F32 of shape (2,), got F16 (2,)"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    def make(packed: Any, absmax: Any, **rest: Any) -> BitsAndBytes4:
        return BitsAndBytes4(packed, absmax, **rest)

    assert make(**GOOD).shape == (2, 64)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        make(**{**GOOD, **changes})
    assert message in str(error.value)


def test_nested_scales_and_int8_that_cannot_be_are_refused() -> None:
    table = np.zeros(256)
    with pytest.raises(ValueError, match=r"nested_absmax must be F32 of shape \(2,\), got F32 \(1,\)"):
        nested_of(np.zeros(300), table, [1.0], offset=0.0)
    with pytest.raises(ValueError, match=r"nested_quant_map must be F32 of shape \(256,\), got F32 \(16,\)"):
        nested_of(np.zeros(3), table[:16], [1.0], offset=0.0)
    with pytest.raises(ValueError, match=r"nested_offset 0\.1 is no float32 number"):
        nested_of(np.zeros(3), table, [1.0], offset=0.1)
    with pytest.raises(ValueError, match="nested_blocksize must be positive, got 0"):
        nested_of(np.zeros(3), table, [1.0], offset=0.0, blocksize=0)
    with pytest.raises(ValueError, match=r"absmax must be a uint8 vector, got float32 \(3,\)"):
        Nested(np.zeros(3, dtype=np.float32), f32(table), f32([1.0]), offset=0.0)
    nested = nested_of(np.zeros(3), table, [1.0], offset=0.0)
    with pytest.raises(ValueError, match=r"absmax must be uint8 of shape \(2,\), got \(3,\)"):
        BitsAndBytes4(GOOD["packed"], None, shape=(2, 64), kind="nf4", nested=nested)
    with pytest.raises(ValueError, match=r"weight must be an int8 matrix, got uint8 \(2, 3\)"):
        BitsAndBytes8(np.zeros((2, 3), dtype=np.uint8), f32([1, 1]))
    with pytest.raises(ValueError, match=r"SCB must be F32 of shape \(2,\), got F32 \(3,\)"):
        BitsAndBytes8(np.zeros((2, 3), dtype=np.int8), f32([1, 1, 1]))
