"""From a file's names to a program's weights: rows, orders, old names, copies; what is missing is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.models import names
from lepton_ref.models.llama import halves_of_pairs
from lepton_ref.models.names import NameTable, Part, WeightsError, bind
from lepton_ref.models.program import Program
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, RowView, Weight

V, D, F = 7, 4, 6


def dense(*shape: int, seed: int = 0) -> Dense:
    return Dense(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), format="F32")


def program(*, layers: int = 2, tied: bool = False) -> Program:
    p = Program()
    x = p.embed("embed", V, D)
    for layer in range(layers):
        x = p.at(f"layers.{layer}").linear("up", x, D, bias=True)
    p.linear("head", x, V, tied_to="embed" if tied else None)
    return p


TABLE = NameTable(
    {"embed": "model.tokens", "layers.{l}.up": "model.h.{l}.up", "head": "lm_head"},
    prefix="model.",
    ignored=(r"(model\.)?h\.\d+\.mask", r"lm_head\.old\..*"),
    older={"up.weight": "up.gamma", "up.bias": "up.beta"},
    copies={"lm_head.weight": "embed.weight"},
)


def tensors(*, layers: int = 2, head: bool = True) -> dict[str, Weight]:
    found: dict[str, Weight] = {"model.tokens.weight": dense(V, D, seed=1)}
    for layer in range(layers):
        found[f"model.h.{layer}.up.weight"] = dense(D, D, seed=2 + layer)
        found[f"model.h.{layer}.up.bias"] = dense(D, seed=20 + layer)
    return found | ({"lm_head.weight": dense(V, D, seed=9)} if head else {})


def bound(p: Program, table: NameTable, found: dict[str, Weight], **more: Any) -> dict[str, Weight]:
    return bind(p, table, found, config=None, where="file", **more)


def refusal(p: Program, table: NameTable, found: dict[str, Weight], **more: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        bound(p, table, found, **more)
    message = str(caught.value)
    assert message.startswith("file: ")
    assert "\n" not in message
    return message


# --- names -----------------------------------------------------------------------------------------------------------


def test_each_weight_is_the_tensor_of_its_name() -> None:
    found = tensors()
    got = bound(program(), TABLE, found)
    assert got.keys() == program().weights.keys()
    assert got["embed.weight"] is found["model.tokens.weight"]
    assert got["layers.1.up.weight"] is found["model.h.1.up.weight"]
    assert got["layers.1.up.bias"] is found["model.h.1.up.bias"]
    assert got["head.weight"] is found["lm_head.weight"]


def test_twelve_layers_are_not_confused() -> None:
    found = tensors(layers=12)
    got = bound(program(layers=12), TABLE, found)
    for layer in range(12):
        assert got[f"layers.{layer}.up.weight"] is found[f"model.h.{layer}.up.weight"]


def test_a_bare_file_has_no_prefix() -> None:
    found = {name.removeprefix("model."): tensor for name, tensor in tensors().items()}
    assert bound(program(), TABLE, found)["layers.0.up.weight"] is found["h.0.up.weight"]


def test_a_layer_number_that_is_lost_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = NameTable.source

    def source(self: NameTable, weight: str) -> tuple[Part, str]:
        part, name = honest(self, weight)
        return part, name.replace("h.11.", "h.1.")

    monkeypatch.setattr(NameTable, "source", source)
    message = refusal(program(layers=12), TABLE, tensors(layers=12))
    assert "model.h.1.up.weight: 4 outputs, but the config needs 4 + 4" in message


def test_half_a_prefix_is_not_a_bare_file() -> None:
    found = tensors()
    found["tokens.weight"] = found.pop("model.tokens.weight")
    assert "tensor model.tokens.weight missing" in refusal(program(), TABLE, found)


def test_older_names_serve_where_the_name_is_absent() -> None:
    found = tensors()
    found["model.h.0.up.gamma"] = found.pop("model.h.0.up.weight")
    found["model.h.1.up.beta"] = found.pop("model.h.1.up.bias")
    got = bound(program(), TABLE, found)
    assert got["layers.0.up.weight"] is found["model.h.0.up.gamma"]
    assert got["layers.1.up.bias"] is found["model.h.1.up.beta"]


def test_an_older_name_beside_the_new_is_left_over() -> None:
    found = tensors() | {"model.h.0.up.gamma": dense(D, D)}
    assert "tensor model.h.0.up.gamma left over" in refusal(program(), TABLE, found)


def test_a_table_without_the_op_is_said() -> None:
    p = program()
    p.embed("extra", 3, D)
    with pytest.raises(WeightsError, match=r"the family's table has no name for 'extra\.weight'"):
        bound(p, TABLE, tensors())


# --- missing, left over, of another shape ----------------------------------------------------------------------------


def test_every_missing_tensor_is_named() -> None:
    whole = tensors()
    for name in whole:
        found = {other: tensor for other, tensor in whole.items() if other != name}
        assert refusal(program(), TABLE, found).startswith(f"file: tensor {name} missing")


def test_five_are_named_and_the_rest_counted() -> None:
    message = refusal(program(layers=4), TABLE, tensors(layers=1))
    assert "tensors model.h.1.up.weight, model.h.1.up.bias, " in message
    assert "model.h.3.up.weight and 1 more missing" in message
    assert message.count("model.h.") == 5


def test_what_is_left_over_is_named() -> None:
    assert "tensor strange left over" in refusal(program(), TABLE, tensors() | {"strange": dense(2)})
    message = refusal(program(layers=1), TABLE, tensors(layers=2))
    assert "tensors model.h.1.up.weight, model.h.1.up.bias left over" in message


def test_tensors_that_are_no_weights_are_left_over_too() -> None:
    assert "tensor steps left over" in refusal(program(), TABLE, tensors(), others=["steps"])
    assert bound(program(), TABLE, tensors(), others=["model.h.0.mask"])


@pytest.mark.parametrize("name", ["model.h.0.mask", "h.11.mask", "lm_head.old.weight"])
def test_what_carries_no_weight_is_ignored(name: str) -> None:
    assert bound(program(), TABLE, tensors() | {name: dense(2)}).keys() == program().weights.keys()


@pytest.mark.parametrize("name", ["model.h.0.masks", "amodel.h.0.mask", "model.h.x.mask"])
def test_what_only_looks_like_it_is_not(name: str) -> None:
    assert "left over" in refusal(program(), TABLE, tensors() | {name: dense(2)})


def test_a_table_that_ignores_nothing_ignores_nothing() -> None:
    table = NameTable(TABLE.names, prefix="model.")
    assert "tensor  left over" in refusal(program(), table, tensors() | {"": dense(2)})


@pytest.mark.parametrize("shape", [(D + 1, D), (D, D + 1), (D,), (D, D, 1)])
def test_another_shape_is_named(shape: tuple[int, ...]) -> None:
    found = tensors() | {"model.h.1.up.weight": dense(*shape)}
    message = refusal(program(), TABLE, found)
    assert message.startswith(f"file: model.h.1.up.weight: shape is {shape}, but the config needs {(D, D)}")


# --- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_tied_weight_must_be_equal() -> None:
    found = tensors()
    found["lm_head.weight"] = found["model.tokens.weight"]
    assert "head.weight" not in bound(program(tied=True), TABLE, found)
    changed = found["model.tokens.weight"].decode().copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    found["lm_head.weight"] = Dense(changed, format="F32")
    message = refusal(program(tied=True), TABLE, found)
    assert "tensor lm_head.weight differs from model.tokens.weight" in message
    assert "set tie_word_embeddings to false" in message


def test_copies_that_are_not_compared_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_equal", lambda a, b: True)
    assert bound(program(tied=True), TABLE, tensors())


@pytest.mark.parametrize("shape", [(V + 1, D), (V, D + 1), (V,)])
def test_a_copy_of_another_shape_differs(shape: tuple[int, ...]) -> None:
    found = tensors(head=False) | {"lm_head.weight": dense(*shape)}
    assert "lm_head.weight differs" in refusal(program(tied=True), TABLE, found)


def test_nan_in_both_is_equal() -> None:
    array = np.full((V, D), np.nan, dtype=np.float32)
    found = tensors() | {name: Dense(array, format="F32") for name in ("lm_head.weight", "model.tokens.weight")}
    assert bound(program(tied=True), TABLE, found)


def test_a_head_of_its_own_is_no_copy() -> None:
    assert bound(program(tied=False), TABLE, tensors())["head.weight"].shape == (V, D)


def test_large_copies_are_compared_to_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 4096 * 2 + 3
    array = np.zeros((rows, 1), dtype=np.float32)
    other = array.copy()
    assert names._equal(Dense(array, format="F32"), Dense(other, format="F32"))
    for row in (0, 4095, 4096, rows - 1):
        other[:] = 0
        other[row] = 1
        assert not names._equal(Dense(array, format="F32"), Dense(other, format="F32"))


# --- parts -----------------------------------------------------------------------------------------------------------


def fused() -> tuple[Program, NameTable]:
    p = Program()
    x = p.embed("embed", V, D)
    p.linear("gate", x, F)
    p.linear("up", x, F)
    table = NameTable(
        {
            "embed": "tokens",
            "gate": Part("gate_up", lambda config: np.arange(F)),
            "up": Part("gate_up", lambda config: np.arange(F, 2 * F)),
        }
    )
    return p, table


def test_parts_of_a_fused_tensor() -> None:
    p, table = fused()
    whole = dense(2 * F, D)
    got = bound(p, table, {"tokens.weight": dense(V, D), "gate_up.weight": whole})
    assert isinstance(got["gate.weight"], RowView)
    np.testing.assert_array_equal(got["gate.weight"].decode(), whole.array[:F])
    np.testing.assert_array_equal(got["up.weight"].decode(), whole.array[F:])
    np.testing.assert_array_equal(got["up.weight"].take(np.array([3, 0])), whole.array[[F + 3, F]])


@pytest.mark.parametrize("rows", [2 * F + 1, 2 * F - 1, F - 1, 0])
def test_a_fused_tensor_of_another_height_is_refused(rows: int) -> None:
    p, table = fused()
    assert "gate_up.weight" in refusal(p, table, {"tokens.weight": dense(V, D), "gate_up.weight": dense(rows, D)})


def test_a_fused_tensor_of_another_width_is_refused() -> None:
    p, table = fused()
    found: dict[str, Weight] = {"tokens.weight": dense(V, D), "gate_up.weight": dense(2 * F, D + 1)}
    assert "gate_up.weight: shape" in refusal(p, table, found)


def test_rows_are_not_made_for_a_config_that_asks_for_more_than_there_are() -> None:
    def never(config: Any) -> NDArray[np.int64]:
        raise AssertionError("rows were made")

    p = Program()
    p.embed("embed", 10**15, D)
    message = refusal(p, NameTable({"embed": Part("tokens", never)}), {"tokens.weight": dense(V, D)})
    assert "the config needs 1000000000000000 rows" in message


def test_a_tensor_stored_the_other_way_round() -> None:
    p = Program()
    p.linear("up", p.embed("embed", V, D), F, bias=True)
    table = NameTable({"embed": "tokens", "up": Part("up", transpose=True)})
    whole = dense(D, F)
    found: dict[str, Weight] = {"tokens.weight": dense(V, D), "up.weight": whole, "up.bias": dense(F)}
    got = bound(p, table, found)
    np.testing.assert_array_equal(got["up.weight"].decode(), whole.array.T)
    assert got["up.bias"] is found["up.bias"]
    assert "(4, 6)" in refusal(p, table, found | {"up.weight": dense(F, D)})


@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "F64"])
def test_every_dense_format_can_be_turned(format: str) -> None:
    p = Program()
    p.linear("up", p.embed("embed", V, D), F)
    table = NameTable({"embed": "tokens", "up": Part("up", transpose=True)})
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}[format]
    whole = Dense(np.arange(D * F).reshape(D, F).astype(kind), format=format)
    got = bound(p, table, {"tokens.weight": dense(V, D), "up.weight": whole})
    np.testing.assert_array_equal(got["up.weight"].decode(), whole.decode().T)


def test_blocks_cannot_be_turned() -> None:
    q8 = FORMATS["Q8_0"]
    p = Program()
    p.linear("up", p.embed("embed", V, 32), 32)
    table = NameTable({"embed": "tokens", "up": Part("up", transpose=True)})
    blocks = BlockQuantised(np.zeros((32, q8.nbytes), dtype=np.uint8), format=q8)
    message = refusal(p, table, {"tokens.weight": dense(V, 32), "up.weight": blocks})
    assert "up.weight: stored (in, out) as Q8_0; only dense tensors can be transposed" in message


# --- the order of GGUF's rows ----------------------------------------------------------------------------------------


def as_gguf(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """What llama.cpp's converter does to q and k: the halves of each head, interleaved."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, 2, width // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def test_the_order_of_one_head_of_six() -> None:
    assert halves_of_pairs(1, 6).tolist() == [0, 2, 4, 1, 3, 5]
    assert halves_of_pairs(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@given(st.integers(1, 6), st.integers(1, 8))
def test_it_undoes_the_converter(heads: int, half: int) -> None:
    rows = np.arange(heads * 2 * half)
    stored = as_gguf(rows, heads)
    np.testing.assert_array_equal(stored[halves_of_pairs(heads, 2 * half)], rows)
    np.testing.assert_array_equal(np.sort(stored), rows)


WRONG_ORDERS: dict[str, Callable[[int, int], NDArray[np.int64]]] = {
    "as it stands": lambda heads, width: np.arange(heads * width),
    "the converter's own": lambda heads, width: as_gguf(np.arange(heads * width), heads),
    "one head of all": lambda heads, width: halves_of_pairs(1, heads * width),
}


@pytest.mark.parametrize("wrong", WRONG_ORDERS)
def test_a_wrong_order_would_be_seen(wrong: str) -> None:
    rows = np.arange(3 * 8)
    assert (as_gguf(rows, 3)[WRONG_ORDERS[wrong](3, 8)] != rows).any()
