"""Linear ops that read the same value run as one: the same bits, and nothing joined that does not lie together."""

from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from golden_cases import case
from wide_model import wide_gguf, wide_tensors

import lepton_ref
from lepton_ref import registry
from lepton_ref.runtime.memory import keep
from lepton_ref.runtime.model import Model
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, encode
from lepton_ref.storage.encoded import ggml_operand
from lepton_ref.storage.kept import Joined, Kept, join

NUMPY = registry.get("numpy")


def dense(rows: int, width: int, seed: int = 0) -> Dense:
    values = np.random.default_rng(seed).standard_normal((rows, width))
    return Dense(values.astype(np.float32), format="F32")


def kept(*shapes: tuple[int, int]) -> list[Kept]:
    found = keep({str(n): dense(*shape, seed=n) for n, shape in enumerate(shapes)}, True, backend=NUMPY)
    return [weight for weight in found.values() if isinstance(weight, Kept)]


def test_a_joined_weight_is_its_parts_one_below_the_other() -> None:
    parts = kept((3, 5), (4, 5), (2, 5))
    whole = join(parts)
    assert whole is not None
    assert whole.shape == (9, 5)
    assert whole.nbytes == 4 * 9 * 5
    assert whole.format == "F32"
    expected = np.concatenate([part.base.decode() for part in parts]).astype(np.float64)
    assert np.array_equal(whole.rows(2, 8), expected[2:8])
    assert np.array_equal(whole.take(np.array([8, 0, 3])), expected[[8, 0, 3]])
    (panel,) = whole.panels(backend=NUMPY)
    assert (panel.start, panel.stop) == (0, 9)
    assert np.array_equal(panel.rows, expected)
    assert np.shares_memory(panel.rows, parts[1].room)  # nothing is held twice


def test_what_does_not_lie_together_is_not_joined() -> None:
    a, b, c = kept((3, 5), (4, 5), (2, 5))
    other = kept((4, 5))[0]
    narrow = kept((3, 4), (3, 5))
    assert join([a, c]) is None  # b lies between
    assert join([b, a]) is None  # the wrong way round
    assert join([a, other]) is None  # another allocation
    assert join(narrow) is None  # of different widths
    assert join([a, b.base]) is None  # not kept
    assert isinstance(join([a, b]), Joined)


def test_another_backend_is_refused() -> None:
    whole = join(kept((3, 5), (4, 5)))
    assert whole is not None
    with pytest.raises(ValueError, match="kept on backend 'numpy', not on 'numpy'"):
        next(whole.panels(backend=registry.get("numpy")))


def model_of(name: str, *, keep_decoded: bool) -> Model:
    return lepton_ref.load(case(name).folder, keep_decoded=keep_decoded)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "gpt2", "bert", "distilbert"])
def test_joining_changes_no_bit(name: str) -> None:
    ids = case(name).expected["input_ids"]
    joined, apart = model_of(name, keep_decoded=True), model_of(name, keep_decoded=False)
    assert joined._joins
    assert not apart._joins
    one, other = joined.run_with_trace(ids), apart.run_with_trace(ids)
    assert list(one) == list(other)
    for op in one:
        assert one[op].tobytes() == other[op].tobytes(), op


@pytest.mark.parametrize("formats", [("Q4_1",), ("Q5_1", "Q4_1"), ("Q4_0", "Q4_1"), ("Q4_K", "Q6_K"), ("Q4_K",)])
def test_joining_under_ggml_changes_no_bit(formats: tuple[str, ...], tmp_path: Path) -> None:
    ids = [[1, 5, 9, 3, 60]]
    arrays = {name: array for name, array in wide_tensors().items() if array.ndim == 2}
    blocks = {
        name.replace(".", "__"): BlockQuantised(encode(format_, array), format=FORMATS[format_])
        for (name, array), format_ in zip(arrays.items(), cycle(formats), strict=False)
    }
    path = wide_gguf(tmp_path / "blocks.gguf", **blocks)
    joined, apart = (lepton_ref.load(path, precision="ggml", keep_decoded=kept) for kept in (True, False))
    assert bool(joined._joins) == (len(formats) == 1)  # what multiplies a row depends on the row's format
    assert not apart._joins
    one, other = joined.run_with_trace(ids), apart.run_with_trace(ids)
    for op in one:
        assert one[op].tobytes() == other[op].tobytes(), op


def test_a_joined_weight_with_minima_gives_its_values_and_what_is_multiplied() -> None:
    stored = [BlockQuantised(encode("Q4_1", dense(3, 64, seed).decode()), format=FORMATS["Q4_1"]) for seed in (0, 1)]
    parts = keep({str(n): ggml_operand(one) for n, one in enumerate(stored)}, True, backend=NUMPY)
    whole = join([*parts.values()])
    assert whole is not None
    assert (whole.shape, whole.operand_width, whole.format) == ((6, 64), 66, "Q4_1")
    rows = np.array([5, 0, 3])
    expected = np.concatenate([one.unrounded(np.arange(3)) for one in stored])[rows]
    assert np.array_equal(whole.take(rows), expected)
    operand = whole.operand(rows)
    assert np.array_equal(operand[:, :64], expected)
    for row, (one, number) in enumerate([(stored[1], 2), (stored[0], 0), (stored[1], 0)]):
        assert np.array_equal(operand[row], ggml_operand(one).operand(np.array([number]))[0])


def test_q_k_v_and_gate_up_are_what_is_joined() -> None:
    found = model_of("llama", keep_decoded=True)._joins
    assert [op.name for op in found["layers.0.attn.q"].ops] == [f"layers.0.attn.{x}" for x in "qkv"]
    assert [op.name for op in found["layers.0.mlp.gate"].ops] == ["layers.0.mlp.gate", "layers.0.mlp.up"]
    layers = model_of("llama", keep_decoded=True).config.num_hidden_layers
    assert len(found) == 2 * layers


@pytest.mark.parametrize("planted", ["ops reversed", "bias forgotten"])
def test_a_wrong_join_is_seen(planted: str) -> None:
    ids = case("qwen2").expected["input_ids"]
    right, wrong = model_of("qwen2", keep_decoded=True), model_of("qwen2", keep_decoded=True)
    change = {"ops": lambda j: j.ops[::-1], "bias": lambda j: None}
    field = planted.split(maxsplit=1)[0]
    wrong.__dict__["_joins"] = {name: replace(j, **{field: change[field](j)}) for name, j in wrong._joins.items()}
    with np.errstate(all="ignore"):
        try:
            assert wrong.forward(ids).tobytes() != right.forward(ids).tobytes()
        except ValueError:  # shapes that no longer fit are seen too
            assert planted == "ops reversed"
