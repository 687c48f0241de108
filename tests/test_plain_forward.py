"""The forward pass in plain Python: by hand, without NumPy, and bit for bit what the package gives for every family."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType, ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import mutated
from strategies import SPECIAL
from tiny_models import BACKEND

import lepton_ref
from lepton_ref.models.execute import HANDLERS
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Program
from lepton_ref.ops import Rope
from lepton_ref.plain import forward as page
from lepton_ref.plain.forward import Forward, forward
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.operands import operands
from lepton_ref.storage import Dense

Rows = list[list[float]]
PRECISIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "reference": ("fp32", "stored"),
        "bf16": ("bf16", "stored"),
        "fp16": ("fp16", "stored"),
        "fp8": ("fp32", "fp8"),
        "w8a8": ("fp32", "w8a8"),
        "w4a8": ("fp32", "w4a8"),
    }
)
"""Precision → the format of activations, and what linear layers multiply."""


def run(module: ModuleType, program: Program, weights: dict[str, Any], ids: list[int], **how: Any) -> dict[str, Rows]:
    integers = {"input_ids": ids, "position_ids": list(range(len(ids)))}
    return module.forward(module.Forward(weights, integers, **how), program.ops)


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]
TABLE = [[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]]


def a_small_program_by_hand(module: ModuleType) -> None:
    """Two tokens through every kind of op whose numbers can be done on paper."""
    p = Program()
    x = p.embed("embed", 3, 2, scale=2.0)
    y = p.linear("down", x, 2, bias=True)
    r = p.add("sum", x, y)
    p.activate("act", r, "relu")
    g = p.gated("gated", r, x, "relu")
    n = p.rms_norm("norm", g, eps=0.0, heads=2, offset=1.0)
    p.linear("head", p.last("last", n), 3, tied_to="embed")
    weights = {
        "embed.weight": TABLE, "down.weight": [[0.0, 1.0], [-1.0, 0.0]], "down.bias": [0.5, -0.5], "norm.weight": [1.0],
    }  # fmt: skip
    got = run(module, p, weights, [0, 1])
    assert got["embed"] == [[2.0, 4.0], [6.0, -8.0]]
    assert got["down"] == [[4.5, -2.5], [-7.5, -6.5]]
    assert got["sum"] == [[6.5, 1.5], [-1.5, -14.5]]
    assert got["act"] == [[6.5, 1.5], [0.0, 0.0]]
    assert got["gated"] == [[13.0, 6.0], [0.0, 0.0]]
    assert got["norm"][0] == [2.0, 2.0]  # each half by itself, times 1 + 1
    assert got["norm"][1][0] != got["norm"][1][0]  # 0/0
    assert got["head"][0] == [6.0, -2.0, 1.0]
    assert list(got) == ["embed", "down", "sum", "act", "gated", "norm", "last", "head"]


def everything_is_rounded(module: ModuleType) -> None:
    """1 + 2⁻²⁰ is a float32 and no bfloat16; a linear layer reads what was rounded, and multiplies int8 where asked."""
    p = Program()
    p.linear("again", p.linear("once", p.embed("embed", 1, 1), 1), 1)
    weights = {"embed.weight": [[1 + 2.0**-20]], "once.weight": [[1.0]], "again.weight": [[1 + 2.0**-8]]}
    got = run(module, p, weights, [0])
    assert got["once"] == [[1 + 2.0**-20]]
    assert got["again"] == [[1 + 2.0**-8 + 2.0**-20]]
    narrow = run(module, p, weights, [0], format="bf16")
    assert narrow["embed"] == [[1.0]]
    assert narrow["again"] == [[1.0]]
    p = Program()
    p.linear("only", p.embed("embed", 1, 2), 1)

    def only(x: list[float], w: list[Any], **how: Any) -> float:
        return run(module, p, {"embed.weight": [x], "only.weight": [w]}, [0], **how)["only"][0][0]

    assert only([127.0, 0.4], [127.0, 1.0], operands="w8a8") == 127.0**2  # 0.4 is activation 0
    assert only([127.0, 1.0], [127.0, 0.4], operands="w8a8") == 127.0**2  # and weight 0
    assert only([127.0, 1.0], [127.0, 0.5], operands="w8a8", encoded={"only.weight"}) == 127.0**2 + 0.5
    assert only([127.0, 1.0], [Fraction(1, 3), 0.0], operands="w8a8", encoded={"only.weight"}) == float(
        np.float32(127 / 3)
    )


def attend(module: ModuleType, width: int, heads: int, kv_heads: int, n: int, **how: Any) -> Rows:
    """Attention whose queries are 0 and whose values are the tokens' own rows: plain means of what is seen."""
    p = Program()
    v = p.embed("v", 4, width * kv_heads // heads)
    q = p.embed("q", 1, width, of="zeros")
    k = p.embed("k", 1, width * kv_heads // heads, of="zeros")
    p.attention("attn", q, k, v, heads=heads, kv_heads=kv_heads, scale=1.0, **how)
    size = width * kv_heads // heads
    weights = {"v.weight": [[float(2**t + 16 * j) for j in range(size)] for t in range(4)]}
    weights |= {"q.weight": [[0.0] * width], "k.weight": [[0.0] * size]}
    integers = {"input_ids": list(range(n)), "zeros": [0] * n, "position_ids": list(range(n))}
    return module.forward(module.Forward(weights, integers), p.ops)["attn"]


def who_sees_whom(module: ModuleType) -> None:
    def firsts(**how: Any) -> list[float]:
        return [row[0] for row in attend(module, 2, 2, 2, 4, **how)]

    assert firsts(causal=True) == [1.0, 1.5, float(np.float32(7 / 3)), 3.75]
    assert firsts(causal=False) == [3.75] * 4
    assert firsts(causal=True, window=2) == [1.0, 1.5, 3.0, 6.0]
    assert firsts(causal=False, window=2) == [1.5, float(np.float32(7 / 3)), float(np.float32(14 / 3)), 6.0]


def heads_are_grouped(module: ModuleType) -> None:
    """Of four query heads on two of keys and values, 0 and 1 read the first, 2 and 3 the second."""
    assert attend(module, 8, 4, 2, 1, causal=True) == [[1.0, 17.0, 1.0, 17.0, 33.0, 49.0, 33.0, 49.0]]
    assert attend(module, 4, 4, 4, 1, causal=True) == [[1.0, 17.0, 33.0, 49.0]]
    assert attend(module, 4, 4, 1, 1, causal=True) == [[1.0] * 4]


def rope_turns_each_head_by_its_position(module: ModuleType) -> None:
    """A head of two numbers at position t is (cos t, sin t) where it was (1, 0)."""
    p = Program()
    x = p.embed("x", 1, 4)
    p.rope("turned", x, Rope(theta=10000.0, width=2), heads=2)
    positions = [0, 3, 1]
    integers = {"input_ids": [0, 0, 0], "position_ids": positions}
    got = module.forward(module.Forward({"x.weight": [[1.0, 0.0, 0.0, 2.0]]}, integers), p.ops)["turned"]
    for t, row in zip(positions, got, strict=True):
        want = [np.cos(t), np.sin(t), -2 * np.sin(t), 2 * np.cos(t)]
        assert np.abs(np.float32(want) - row).max() <= 2.0**-22
    default = module.forward(module.Forward({"x.weight": [[1.0, 0.0, 0.0, 2.0]]}, {"input_ids": [0] * 4}), p.ops)
    assert default["turned"][3] == got[1]


def length_dependent_rope(module: ModuleType) -> None:
    """A length that is given, otherwise the number of positions."""
    p = Program()
    rope = Rope(
        theta=100.0, width=4, kind="longrope", short_factors=(1.0, 1.0), long_factors=(1.0, 2.0), original_length=2
    )
    p.rope("turned", p.embed("x", 1, 4), rope, heads=1)
    weights = {"x.weight": [[0.0, 1.0, 0.0, 0.0]]}

    def last(n: int, **how: Any) -> list[float]:
        return run(module, p, weights, [0] * n, **how)["turned"][1]

    assert last(2) != last(3)
    assert last(2, rope_length=3) == last(3)
    assert last(3, rope_length=2) == last(2)


def embeddings_read_what_they_name(module: ModuleType) -> None:
    p = Program()
    p.embed("of_types", 3, 1, of="token_type_ids", offset=1)
    integers = {"input_ids": [0, 0], "token_type_ids": [1, 0]}
    assert module.forward(module.Forward({"of_types.weight": [[5.0], [6.0], [7.0]]}, integers), p.ops) == {
        "of_types": [[7.0], [6.0]]
    }


def the_first_position_alone(module: ModuleType) -> None:
    p = Program()
    p.layer_norm("norm", p.first("first", p.embed("embed", 3, 2)), eps=0.0, affine=False)
    got = run(module, p, {"embed.weight": TABLE}, [1, 0])
    assert got["first"] == [[3.0, -4.0]]
    assert got["norm"] == [[1.0, -1.0]]


def layer_norms_and_caps(module: ModuleType) -> None:
    p = Program()
    x = p.layer_norm("norm", p.embed("embed", 3, 2), eps=0.0)
    p.softcap("cap", x, 1e6)
    got = run(module, p, {"embed.weight": TABLE, "norm.weight": [2.0, 4.0], "norm.bias": [1.0, 0.5]}, [1])
    assert got["norm"] == [[3.0, -3.5]]
    assert got["cap"] == [[3.0, -3.5]]


CHECKS = [
    a_small_program_by_hand, everything_is_rounded, who_sees_whom, heads_are_grouped, rope_turns_each_head_by_its_position,
    length_dependent_rope, embeddings_read_what_they_name, the_first_position_alone, layer_norms_and_caps,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_forward(check: Callable[[ModuleType], None]) -> None:
    check(page)


BUGS = {
    "the scale is lost": ('table, scale=op.options["scale"])', "table)", a_small_program_by_hand),
    "the bias is lost": ("quantise.activations(row, run.operands), matrix, bias)", "quantise.activations(row, run.operands), matrix)", a_small_program_by_hand),
    "the norm takes all heads together": ('split(row, o["heads"])]', "split(row, 1)]", a_small_program_by_hand),
    "the norm's offset is lost": ('eps=o["eps"], offset=o["offset"])', 'eps=o["eps"])', a_small_program_by_hand),
    "gate and up change places": ("ops.gated(g, u,", "ops.gated(u, g,", a_small_program_by_hand),
    "nothing is rounded to the format": ("ops.rounded(y, run.format)", 'ops.rounded(y, "fp64")', everything_is_rounded),
    "weights are never encoded": ("if name not in run.encoded:", "if False:", everything_is_rounded),
    "weights are always encoded": ("if name not in run.encoded:", "if True:", everything_is_rounded),
    "activations are never quantised": ("ops.linear(quantise.activations(row, run.operands)", "ops.linear(row", everything_is_rounded),
    "a query does not see itself": ("(s <= t or not causal)", "(s < t or not causal)", who_sees_whom),
    "all are causal": ("(s <= t or not causal)", "s <= t", who_sees_whom),
    "the window is one too wide": ("abs(t - s) < window", "abs(t - s) <= window", who_sees_whom),
    "the window has one side": ("abs(t - s) < window", "t - s < window", who_sees_whom),
    "key and value heads are tiled": ("g = h * kv_heads // heads", "g = h % kv_heads", heads_are_grouped),
    "every position is the first": ("ops.rope(head, position, rope, length=length)", "ops.rope(head, 0, rope, length=length)", rope_turns_each_head_by_its_position),
    "positions are counted": ("zip(run.positions, x, strict=True)", "zip(range(len(x)), x, strict=True)", rope_turns_each_head_by_its_position),
    "heads are turned as one": ("for head in split(row, heads))", "for head in split(row, 1))", rope_turns_each_head_by_its_position),
    "the given length is ignored": ("if run.rope_length is None else run.rope_length", "", length_dependent_rope),
    "the length is the last position": ("max(run.positions) + 1 if", "max(run.positions) if", length_dependent_rope),
    "embeddings read ids alone": ('run.integers[op.options["of"]]', 'run.integers["input_ids"]', embeddings_read_what_they_name),
    "the offset is lost": ("ops.embed(number + offset, table", "ops.embed(number, table", embeddings_read_what_they_name),
    "the first position is the last": ("return x[:1]", "return x[-1:]", the_first_position_alone),
    "a norm without a weight has none": ("[1.0] * op.width", "[0.0] * op.width", the_first_position_alone),
    "the norm's bias is lost": ("ops.layer_norm(row, w, b, eps", "ops.layer_norm(row, w, None, eps", layer_norms_and_caps),
    "the cap is lost": ('ops.softcap(row, op.options["cap"])', "ops.softcap(row, 1.0)", layer_norms_and_caps),
    "the residual is one-sided": ("ops.add(a, b)", "ops.add(a, a)", a_small_program_by_hand),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ValueError, KeyError)):
        check(mutated(page, text, replacement))


def test_every_kind_of_op_is_known() -> None:
    assert set(page.HANDLERS) == set(HANDLERS)


WITHOUT_NUMPY = """
import json, sys
sys.modules["numpy"] = None  # any import of it fails
from types import SimpleNamespace as Op
from lepton_ref.plain.forward import Forward, forward
rope = Op(theta=100.0, width=2, kind="default", interleaved=False)
rope = type("Rope", (), vars(rope))()
options = dict(heads=1, kv_heads=1, scale=0.5, causal=True, window=None, cap=None)
program = [
    Op(kind="embed", name="x", inputs=(), weights={"w": "E"}, options={"of": "input_ids", "offset": 0, "scale": 1.0}, width=2),
    Op(kind="rms_norm", name="n", inputs=("x",), weights={"w": "g"}, options={"eps": 1e-5, "offset": 0.0, "heads": 1}, width=2),
    Op(kind="rope", name="r", inputs=("n",), weights={}, options={"rope": rope, "heads": 1}, width=2),
    Op(kind="attention", name="a", inputs=("r", "r", "n"), weights={}, options=options, width=2),
    Op(kind="gated", name="s", inputs=("a", "n"), weights={}, options={"activation": "gelu"}, width=2),
    Op(kind="linear", name="y", inputs=("s",), weights={"w": "E"}, options={}, width=3),
]
weights = {"E": [[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]], "g": [1.0, 0.75]}
out = forward(Forward(weights, {"input_ids": [2, 0, 1]}, operands=sys.argv[1]), program)
loaded = sorted(name for name in sys.modules if name.startswith("lepton_ref."))
print(json.dumps({"y": [[v.hex() for v in row] for row in out["y"]], "loaded": loaded}))
"""


def test_it_runs_where_numpy_cannot_be_imported() -> None:
    """And imports nothing of the package but its own part; the numbers are those of the engine."""
    for how, precision in (("stored", "reference"), ("w8a8", "w8a8")):
        done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY, how], capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        assert all(name.startswith("lepton_ref.plain") for name in report["loaded"])
        p = Program()
        x = p.embed("x", 3, 2)
        n = p.rms_norm("n", x, eps=1e-5)
        r = p.rope("r", n, Rope(theta=100.0, width=2), heads=1)
        a = p.attention("a", r, r, n, heads=1, kv_heads=1, scale=0.5)
        p.linear("y", p.gated("s", a, n, "gelu"), 3, tied_to="x")
        weights = {
            "x.weight": Dense(np.float32(TABLE), format="F32"),
            "n.weight": Dense(np.float32([1.0, 0.75]), format="F32"),
        }
        parts = replace(golden("llama", precision).parts, program=p, weights=weights, config=TinyConfig)
        got = logits(with_weights(golden("llama", precision), parts), [2, 0, 1])
        assert [[float(v).hex() for v in row] for row in got] == report["y"]


class TinyConfig:
    """What the engine asks of a config."""

    vocab_size = 3
    max_position_embeddings = 16


# The twin of the engine


def golden(name: str, precision: str) -> Model:
    return lepton_ref.load(golden_cases.GOLDEN / "tiny" / name, backend=BACKEND, precision=precision)


def with_weights(model: Model, parts: Any) -> Model:
    """The same model with other parts, its linear layers' weights encoded as its precision asks."""
    used = operands(parts.program, parts.weights, model.precision)
    return Model(replace(parts, weights={**parts.weights, **used}), backend=BACKEND, precision=model.precision)


def logits(model: Model, ids: list[int]) -> np.ndarray:
    return np.asarray(model.forward([ids]))[0].astype(np.float32)


def twin(model: Model, ids: list[int], precision: str) -> Forward:
    """The engine's model for the plain page: stored weights, integers as its inputs make them."""
    batch = make_batch(
        model.program, model.config, [ids], attention_mask=None, position_ids=None, token_type_ids=None, cache=None, last_only=False,
    )  # fmt: skip
    weights = {name: weight.decode().astype(np.float64).tolist() for name, weight in model.parts.weights.items()}
    how, multiplied = PRECISIONS[precision]
    integers = {name: row[0].tolist() for name, row in batch.integers.items()}
    return Forward(weights, integers, format=how, operands=multiplied)


def expect_the_engine(model: Model, ids: list[int], precision: str) -> None:
    got = np.float32(forward(twin(model, ids, precision), model.program.ops)[model.program.output])
    want = logits(model, ids)
    got = got.reshape(want.shape)
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert same.all(), f"{model.parts.path.name}, {precision}, ids {ids}: {(~same).sum()} of {same.size} differ"


CASES = golden_cases.names()
FAMILIES = [name for name in CASES if name in {case.split("_")[0] for case in CASES} | {"gpt_neox"}]
EACH_UNDER_ONE = [(name, list(PRECISIONS)[number % len(PRECISIONS)]) for number, name in enumerate(FAMILIES)]


@pytest.mark.parametrize(("name", "precision"), EACH_UNDER_ONE)
def test_a_tiny_model_of_every_family_has_the_engines_bits(name: str, precision: str) -> None:
    expect_the_engine(golden(name, precision), [5, 17], precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_tiny_model_has_the_engines_bits_under_every_precision(name: str, precision: str) -> None:
    expect_the_engine(golden(name, precision), [5, 17, 3, 9, 5, 1, 2, 30], precision)


KINDS = ("ties", "wild", "spread", "sparse")


def drawn(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    """Numbers that make ties and zeros; special values among others; many orders of magnitude; zeros of both signs."""
    plain = rng.standard_normal(shape) * 0.5
    if kind == "ties":
        plain = rng.choice([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 4.0], shape)
    elif kind == "spread":
        plain = plain * np.exp2(rng.uniform(-40, 20, shape))
    elif kind == "sparse":
        plain = np.where(rng.random(shape) < 0.8, rng.choice([0.0, -0.0], shape), plain)
    elif kind == "wild":
        plain = np.where(rng.random(shape) < rng.choice([0.0005, 0.01]), rng.choice(SPECIAL, shape), plain)
    return plain.astype(np.float32)


def expect_the_engine_with_drawn_weights(name: str, precision: str, kind: str, seed: int) -> None:
    rng, model = np.random.default_rng(seed), golden(name, precision)
    stored = {weight: Dense(drawn(w.shape, kind, rng), format="F32") for weight, w in model.parts.weights.items()}
    ids = rng.integers(0, model.config.vocab_size, rng.integers(1, 4)).tolist()
    engine = with_weights(model, replace(model.parts, weights=stored))
    plain = Model(replace(model.parts, weights=stored), backend=BACKEND, precision=model.precision)
    got = np.float32(forward(twin(plain, ids, precision), model.program.ops)[model.program.output])
    want = logits(engine, ids)
    got = got.reshape(want.shape)
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert same.all(), f"{name}, {precision}, {kind}, seed {seed}: {got[~same][:3]}, not {want[~same][:3]}"


anything = (
    st.sampled_from(CASES),
    st.sampled_from(list(PRECISIONS)),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(*anything)
def test_drawn_models_have_the_engines_bits(name: str, precision: str, kind: str, seed: int) -> None:
    expect_the_engine_with_drawn_weights(name, precision, kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_drawn_models_of_every_family_have_the_engines_bits(name: str) -> None:
    for number, precision in enumerate(PRECISIONS):
        kind = KINDS[(number + CASES.index(name)) % len(KINDS)]
        expect_the_engine_with_drawn_weights(name, precision, kind, seed=1000 * number + CASES.index(name))


def test_a_changed_weight_is_seen() -> None:
    """The comparison with the engine fails where one of thousands of weights is larger by a thousandth."""
    model = golden("llama", "reference")
    name, weight = next((n, w) for n, w in model.parts.weights.items() if n.endswith("q.weight"))
    moved = np.array(weight.decode())
    moved[0, 0] *= np.float32(1.001)
    other = with_weights(model, replace(model.parts, weights={**model.parts.weights, name: Dense(moved, format="F32")}))
    got = forward(twin(model, [5, 17, 3], "reference"), model.program.ops)[model.program.output]
    assert not np.array_equal(np.float32(got), logits(other, [5, 17, 3]))


def test_bad_runs_are_refused_in_one_line() -> None:
    for call, message in (
        (lambda: Forward({}, {"input_ids": [1]}, format="fp12"), "^unknown number format 'fp12'; known: fp64, fp32"),
        (lambda: Forward({}, {"input_ids": [1]}, operands="int3"), "^unknown operands 'int3'; known: stored, w8a8"),
        (
            lambda: Forward({}, {"input_ids": []}),
            r"^the inputs must be of one length, at least 1, got \{'input_ids': 0\}$",
        ),
        (
            lambda: Forward({}, {"input_ids": [1], "position_ids": [0, 1]}),
            "^the inputs must be of one length, at least 1",
        ),
        (lambda: Forward({}, {}), r"^the inputs must be of one length, at least 1, got \{\}$"),
        (lambda: page.split([1.0, 2.0, 3.0], 2), "^3 numbers cannot be split into 2 equal heads$"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    p = Program()
    p.embed("embed", 1, 1)
    unknown = replace(p.ops[0], kind="convolve")
    with pytest.raises(ValueError, match=r"^op 'embed' is of unknown kind 'convolve'; known: embed, linear, rms_norm"):
        forward(Forward({}, {"input_ids": [0]}), [unknown])
