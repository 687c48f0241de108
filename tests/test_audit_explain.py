"""Explaining an element: the formula over the named bits is what decode gives, in every format; files say where."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from tiny_models import Stored, write_stored

from lepton_ref.audit import explain as page
from lepton_ref.audit import formula as formulas
from lepton_ref.audit.explain import Explanation, exact_text, explain
from lepton_ref.audit.formula import FormulaError, evaluate, substitute
from lepton_ref.audit.open_file import open_file
from lepton_ref.files import read_gguf, read_safetensors, write_gguf, write_safetensors
from lepton_ref.plain.formats import round_to
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockFormat, BlockQuantised, Dense, RowView, Weight, decode

READ = [each for each in FORMATS.values() if each.read is not None]


def bits(value: float) -> int:
    number = np.float32(np.nan) if value != value else np.float32(value)
    return int(number.view(np.uint32))


def raw_row(each: BlockFormat, seed: int, blocks: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=(1, blocks * each.nbytes), dtype=np.uint8)


def check_block(each: BlockFormat, raw: NDArray[np.uint8], elements: Any, explain: Any = explain) -> None:
    """The explained value is decode's, bit for bit, and the exact value rounded once is it."""
    weight = BlockQuantised(raw, format=each)
    want = each.values(raw)[0]
    for column in elements:
        found = explain(weight, "w", 0, int(column))
        assert bits(found.value) == bits(want[column])
        if found.exact is None:
            assert not math.isfinite(want[column])
        else:
            assert round_to(found.exact, "fp32") == want[column]
        assert found.agrees


# --- literals ---------------------------------------------------------------------------------------------------------


def test_a_number_of_q4_1_in_every_step() -> None:
    raw = np.zeros((2, 40), dtype=np.uint8)
    raw[1, 20:24] = [0x1A, 0x2D, 0x50, 0xB8]  # d = 0x2d1a, m = 0xb850
    raw[1, 24 + 13] = 0xFA
    found = explain(BlockQuantised(raw, format=FORMATS["Q4_1"]), "w", 1, 32 + 13)
    assert (found.element, found.block, found.offset) == (13, raw[1, 20:].tobytes(), None)
    assert {one.name: one.value for one in found.parts} == {"d": 0x51A * 2.0**-14, "m": -0.5390625, "q": 10.0}
    assert found.exact == Fraction(1057, 4096)
    assert found.value == 1057 / 4096
    assert found.substituted == "0.0797119140625·10 + (−0.5390625)"
    text = str(found)
    assert "w [1, 45] of (2, 64), Q4_1" in text
    assert "q = 1010 = 10, of [17] bits 0…3" in text
    assert "exact    1057/2^12 = 0.258056640625" in text
    assert "float32  0.25805664 (0x3e842000)" in text
    assert "<code>1057/2^12 = 0.258056640625</code>" in found._repr_html_()


def test_a_value_that_is_rounded_shows_both() -> None:
    raw = np.zeros((1, 20), dtype=np.uint8)
    raw[0, :4] = [0x01, 0x00, 0xFF, 0x7B]  # d is the least fp16, m the largest
    raw[0, 4] = 1
    found = explain(BlockQuantised(raw, format=FORMATS["Q4_1"]), "w", 0, 0)
    assert found.exact == 65504 + Fraction(1, 2**24)
    assert found.value == 65504.0
    assert found.agrees


@pytest.mark.parametrize(
    ("format_", "stored", "formula", "value"),
    [
        ("F32", 0x3FC00000, "(−1)^0·2^(127 − 127)·(1 + 4194304/2^23)", 1.5),
        ("F32", 0x80000001, "(−1)^1·2^(−126)·(1/2^23)", -(2.0**-149)),
        ("F16", 0xC500, "(−1)^1·2^(17 − 15)·(1 + 256/2^10)", -5.0),
        ("BF16", 0x0001, "(−1)^0·2^(−126)·(1/2^7)", 2.0**-133),
        ("F64", 0x3FF8000000000000, "(−1)^0·2^(1023 − 1023)·(1 + 2251799813685248/2^52)", 1.5),
        ("F32", 0xFF800000, "(−1)^1·∞", -math.inf),
    ],
)
def test_dense_numbers(format_: str, stored: int, formula: str, value: float) -> None:
    dtype = DENSE_FORMATS[format_]
    array = np.array([[stored]], dtype=f"<u{dtype.itemsize}").view(dtype)
    found = explain(Dense(array, format=format_), "w", 0, 0)
    assert (found.substituted, found.value) == (formula, value)
    assert found.exact == (Fraction(value) if math.isfinite(value) else None)
    assert found.agrees
    assert found.substituted in str(found)


def test_a_dense_nan() -> None:
    found = explain(Dense(np.array([np.nan], dtype="<f2"), format="F16"), "w", 0, 0)
    assert math.isnan(found.value)
    assert found.agrees
    assert "NaN" in str(found)


# --- every format -----------------------------------------------------------------------------------------------------


def test_there_is_something_to_read() -> None:
    assert {"Q4_0", "Q4_K", "Q6_K"} <= {each.name for each in READ}


@pytest.mark.parametrize("each", READ, ids=lambda each: each.name)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_formula_over_the_named_bits_is_what_decode_gives(each: BlockFormat, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_block(each, raw_row(each, seed), rng.integers(0, each.length, size=12))


@pytest.mark.parametrize("each", READ, ids=lambda each: each.name)
def test_every_element_of_a_block_and_what_the_text_says(each: BlockFormat) -> None:
    raw = raw_row(each, 3, blocks=2)
    check_block(each, raw, range(2 * each.length))
    found = explain(BlockQuantised(raw, format=each), "w", 0, each.length)
    assert found.block == raw[0, each.nbytes :].tobytes()
    lines = dict(reversed(found.lines()))
    assert lines["formula"].startswith(f"{each.formula} = ")
    assert [heading for heading, _ in found.lines()].count("field") == len(each.fields)
    assert "WRONG" not in lines


@pytest.mark.parametrize("format_", ["F32", "F16", "BF16", "F64"])
@given(seed=st.integers(0, 2**32 - 1))
def test_dense_bits(format_: str, seed: int) -> None:
    dtype = DENSE_FORMATS[format_]
    raw = np.random.default_rng(seed).integers(0, 256, size=(1, 8 * dtype.itemsize), dtype=np.uint8)
    weight = Dense(raw.view(dtype), format=format_)
    for column, value in enumerate(decode(format_, raw)[0]):
        found = explain(weight, "w", 0, column)
        assert found.value == value or (math.isnan(value) and math.isnan(found.value))
        assert found.agrees
        assert found.exact is None or found.exact == Fraction(float(value))


# --- where it lies ----------------------------------------------------------------------------------------------------


def test_the_offset_is_where_the_bytes_lie_in_the_file(tmp_path: Path) -> None:
    raw = np.random.default_rng(1).integers(0, 256, size=(3, 2, 34), dtype=np.uint8)
    tensors = {"a": np.ones(5, dtype="<f4"), "b": BlockQuantised(raw, format=FORMATS["Q8_0"])}
    write_gguf(tmp_path / "x.gguf", tensors, {"general.architecture": "none"})
    file = read_gguf(tmp_path / "x.gguf")
    found = explain(file, "b", 5, 31)
    assert (found.row, found.shape, found.path) == (5, (3, 2, 32), str(tmp_path / "x.gguf"))
    data = (tmp_path / "x.gguf").read_bytes()
    assert found.offset is not None
    assert data[found.offset : found.offset + 34] == raw[2, 1].tobytes() == found.block
    one = explain(file, "a", 0, 4)
    assert one.offset is not None
    assert data[one.offset : one.offset + 4] == np.float32(1).tobytes()
    write_safetensors(tmp_path / "x.safetensors", {"a": np.arange(6, dtype="<f2").reshape(2, 3)})
    other = explain(read_safetensors(tmp_path / "x.safetensors"), "a", 1, 2)
    assert other.offset == (tmp_path / "x.safetensors").stat().st_size - 2
    assert other.value == 5


def test_a_view_of_rows_is_followed() -> None:
    raw = raw_row(FORMATS["Q8_0"], 1, blocks=3).reshape(3, 34)
    view = RowView(BlockQuantised(raw, format=FORMATS["Q8_0"]), np.array([2, 0]))
    assert explain(view, "w", 0, 1).block == raw[2].tobytes()


def test_packed_matrices_name_the_tensor_of_each_part(tmp_path: Path) -> None:
    words = np.random.default_rng(2).integers(0, 2**32, (8, 32), dtype=np.uint32)
    tensors: dict[str, Stored] = {
        "a.qweight": ("I32", (8, 32), words.tobytes()),
        "a.qzeros": ("I32", (1, 4), np.full(4, 0x88888888, dtype=np.uint32).tobytes()),
        "a.scales": ("F16", (1, 32), np.linspace(0.1, 1, 32).astype("<f2").tobytes()),
        "a.g_idx": ("I32", (64,), np.zeros(64, "<i4").tobytes()),
    }
    write_stored(tmp_path / "model.safetensors", tensors)
    config = {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "checkpoint_format": "gptq_v2"}
    text = json.dumps({"model_type": "llama", "quantization_config": config})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    file = open_file(tmp_path)
    for row, column in ((0, 0), (3, 17), (31, 63)):
        found = explain(file, "a.weight", row, column)
        code = int(words[column // 8, row] >> 4 * (column % 8)) & 15
        scale = Fraction(float(np.linspace(0.1, 1, 32).astype("<f2")[row]))
        assert found.exact == scale * (code - 8)
        assert found.value == file.tensors["a.weight"].decode()[row, column]
        assert found.agrees
        assert f"q = {code:04b} = {code}, of [{4 * (32 * (column // 8) + row) + column % 8 // 2}]" in str(found)
        assert "of qweight" in str(found)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_tensor_that_is_not_there_and_what_is_near(tmp_path: Path) -> None:
    names = ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "output_norm.weight"]
    write_gguf(tmp_path / "x.gguf", {n: np.ones((2, 2), "<f4") for n in names}, {"general.architecture": "none"})
    with pytest.raises(ValueError, match=r"has no tensor 'blk.0.attn_q'; near: blk.0.attn_q.weight, .* of 3"):
        explain(read_gguf(tmp_path / "x.gguf"), "blk.0.attn_q", 0, 0)


@pytest.mark.parametrize(("row", "column"), [(2, 0), (-1, 0), (0, 32), (0, -1), (True, 0), (0.0, 0)])
def test_a_place_outside(row: Any, column: Any) -> None:
    weight = BlockQuantised(np.zeros((2, 34), np.uint8), format=FORMATS["Q8_0"])
    with pytest.raises(ValueError, match=r"(row|column) .* is outside of w \(2, 32\); give 0 to (1|31)"):
        explain(weight, "w", row, column)


def test_a_class_that_says_nothing() -> None:
    class Silent(Weight):
        format, shape, nbytes = "X", (1, 1), 1

        def rows(self, start: int, stop: int, /) -> Any: ...
        def take(self, index: Any, /) -> Any: ...

    with pytest.raises(ValueError, match=r"w is X \(Silent\), which does not say where its elements lie"):
        explain(Silent(), "w", 0, 0)


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a·b − c", Fraction(5)), ("a·(b − 8)", Fraction(-10)), ("d·(2s + 1)/8·G[q]·sign", Fraction(21, 2)),
        ("2^(e − 127)·q", Fraction(3, 2)), ("−a + b", Fraction(1)), ("a − b − c", Fraction(-2)),
        ("½·b", Fraction(3, 2)), ("(a + b)·(a − b)", Fraction(-5)), ("a/b/b", Fraction(2, 9)),
    ],
)  # fmt: skip
def test_formulas(formula: str, value: Fraction) -> None:
    values = {"a": 2, "b": 3, "c": 1, "d": 4, "s": 3, "q": 3, "sign": 1, "e": 126}
    assert evaluate(formula, values) == value


def test_formulas_with_numbers() -> None:
    assert substitute("d·(2s + 1)/8·G[q]", {"d": -0.5, "s": 3, "q": -7}) == "(−0.5)·(2·3 + 1)/8·(−7)"
    assert evaluate("d·q", {"d": math.inf, "q": 0}) is None
    assert evaluate("d·q", {"d": math.nan, "q": 0}) is None


@pytest.mark.parametrize("formula", ["d·", "d·(q", "d)·q", "d·z", "d % q", "", "d^q", "d^(1/2)"])
def test_what_is_no_formula(formula: str) -> None:
    with pytest.raises(FormulaError, match=r"formula"):
        evaluate(formula, {"d": 0.5, "q": 0.5})


def test_exact_numbers_in_full() -> None:
    assert exact_text(Fraction(3)) == "3"
    assert exact_text(Fraction(-3, 8)) == "-3/2^3 = -0.375"
    assert exact_text(Fraction(1, 3)).startswith("1/3 = 0.3333")
    assert exact_text(Fraction(1, 2**149)).endswith("…")
    assert exact_text(None) == "no finite number"


# --- planted mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("number, element = divmod(column, format_.length)", "number, element = 0, column % format_.length"),
        ("value=float(format_.values(raw)[element])", "value=float(format_.values(raw)[element - 1])"),
        ("format_.read(block, element)", "format_.read(block, element ^ 1)"),
    ],
)
def test_a_mistaken_explanation_is_found(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug)
    each = FORMATS["Q4_K"]
    with pytest.raises(AssertionError):
        check_block(each, raw_row(each, 5, blocks=2), range(2 * each.length), explain=wrong.explain)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("if self.take() == \"+\" else value - self.term()", "if self.take() == \"+\" else value + self.term()"),
        ("value *= self.power()", "value += self.power()"),
        ("return -self.power()", "return self.power()"),
    ],
)  # fmt: skip
def test_a_mistaken_reader_of_formulas_is_found(text: str, bug: str) -> None:
    wrong = mutated(formulas, text, bug)
    values = {"a": 2.0, "b": 3.0, "c": 1.0}
    assert any(wrong.evaluate(f, values) != evaluate(f, values) for f in ("a·b − c", "−a + b"))


def test_a_formula_that_is_not_the_formats_is_said() -> None:
    each = dataclasses.replace(FORMATS["Q4_0"], formula="d·(q − 7)")
    found: Explanation = explain(BlockQuantised(np.full((1, 18), 0x3C, np.uint8), format=each), "w", 0, 0)
    assert not found.agrees
    assert "WRONG    decode gives" in str(found)
