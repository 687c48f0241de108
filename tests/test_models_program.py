"""The op list: what the builder writes down and refuses; what running it gives, names and forgets."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import golden_cases
import numpy as np
import pytest
from numpy.typing import NDArray
from strict_backend import StrictBackend

import lepton_ref
from lepton_ref import registry
from lepton_ref.models import execute as execution
from lepton_ref.models.batch import Batch
from lepton_ref.models.execute import HANDLERS, Run, execute
from lepton_ref.models.program import KeyValueLayer, Op, Program, Value
from lepton_ref.numerics import get_precision
from lepton_ref.ops import Rope
from lepton_ref.storage import Dense

ROPE = Rope(theta=100.0, width=4)

# --- the builder -----------------------------------------------------------------------------------------------------


def test_a_call_is_a_record() -> None:
    p = Program()
    x = p.embed("embed", 19, 6)
    b = p.at("layers.0")
    y = b.linear("attn.q", x, 8, bias=True)
    assert (x, y) == (Value("embed", 6), Value("layers.0.attn.q", 8))
    assert p.ops[1] == Op(
        "linear", "layers.0.attn.q", ("embed",), {"w": "layers.0.attn.q.weight", "b": "layers.0.attn.q.bias"}, {}, 8
    )
    assert p.weights == {"embed.weight": (19, 6), "layers.0.attn.q.weight": (8, 6), "layers.0.attn.q.bias": (8,)}
    assert p.output == "layers.0.attn.q"


def test_prefixes_nest_and_share_one_list() -> None:
    p = Program()
    inner = p.at("a").at("b")
    inner.embed("c", 3, 2)
    p.embed("d", 3, 2)
    assert [op.name for op in p.ops] == ["a.b.c", "d"]
    assert [op.name for op in inner.ops] == ["a.b.c", "d"]


@pytest.mark.parametrize("again", [lambda p: p.embed("a.b", 3, 2), lambda p: p.at("a").embed("b", 3, 2)])
def test_two_ops_of_one_name_are_refused(again: Callable[[Program], Value]) -> None:
    p = Program()
    p.at("a").embed("b", 3, 2)
    with pytest.raises(ValueError, match=r"two ops are named 'a\.b'; names are what traces and weights go by"):
        again(p)
    assert len(p.ops) == 1


def test_a_tied_weight_is_one_weight() -> None:
    p = Program()
    x = p.embed("embed", 19, 6)
    p.linear("head", x, 19, bias=True, tied_to="embed")
    assert p.weights == {"embed.weight": (19, 6), "head.bias": (19,)}
    assert p.ops[1].weights == {"w": "embed.weight", "b": "head.bias"}


@pytest.mark.parametrize(("width", "outputs"), [(6, 18), (5, 19)])
def test_a_tied_weight_of_another_shape_is_refused(width: int, outputs: int) -> None:
    p = Program()
    p.embed("embed", 19, 6)
    x = p.embed("other", 3, width)
    message = rf"weight 'embed\.weight' is \(19, 6\) and cannot serve 'head' as \({outputs}, {width}\)"
    with pytest.raises(ValueError, match=message):
        p.linear("head", x, outputs, tied_to="embed")
    assert [op.name for op in p.ops] == ["embed", "other"]


def test_records_cannot_be_changed() -> None:
    p = Program()
    p.linear("a", p.embed("embed", 19, 6), 3)
    for attempt in (
        lambda: setattr(p.ops[0], "name", "x"),
        lambda: p.ops[1].weights.__setitem__("w", "x"),  # type: ignore[attr-defined]
        lambda: p.ops[1].options.__setitem__("x", 1),  # type: ignore[attr-defined]
    ):
        with pytest.raises((AttributeError, TypeError)):
            attempt()


def test_caches_are_those_of_causal_attention_in_order() -> None:
    p = Program()
    x = p.embed("embed", 19, 12)
    k, v = p.linear("k", x, 6), p.linear("v", x, 10)
    p.attention("one", x, k, v, heads=4, kv_heads=2, scale=1.0, window=3)
    p.attention("both", x, k, v, heads=4, kv_heads=2, scale=1.0, causal=False)
    last = p.attention("two", x, k, v, heads=4, kv_heads=2, scale=1.0)
    assert p.caches() == (KeyValueLayer(2, 3, 3), KeyValueLayer(2, 3, None))
    assert last.width == 20  # 4 heads of the values' width


# --- running it ------------------------------------------------------------------------------------------------------


def all_kinds() -> Program:
    """A program with every op that there is."""
    p = Program()
    x = p.embed("embed", 19, 8)
    x = p.layer_norm("ln", x, eps=1e-5)
    q = p.rope("q", p.rms_norm("n", x, eps=1e-5, heads=2), ROPE, heads=2)
    a = p.attention("attn", q, q, x, heads=2, kv_heads=2, scale=0.5, causal=False)
    x = p.add("sum", x, p.linear("o", a, 8, bias=True))
    x = p.gated("gated", p.activate("act", x, "silu"), x, "gelu")
    p.last("last", p.first("first", p.softcap("cap", x, 3.0)))
    return p


def run_of(program: Program, backend: Any, ids: NDArray[np.int64] | None = None) -> Run:
    rng = np.random.default_rng(1)
    weights = {
        name: Dense(rng.standard_normal(shape).astype(np.float32), format="F32")
        for name, shape in program.weights.items()
    }
    vectors = {name: backend.from_numpy(w.decode()) for name, w in weights.items() if len(w.shape) == 1}
    ids = np.array([[3, 4, 5], [6, 7, 8]]) if ids is None else ids
    order = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch = Batch(
        {"input_ids": ids}, np.ones(ids.shape, dtype=np.bool_), order, order, np.full(len(ids), ids.shape[1]), False
    )
    return Run(weights, vectors, batch, None, backend, get_precision("float64"))


def test_every_kind_of_the_builder_has_its_handler() -> None:
    assert {op.kind for op in all_kinds().ops} == set(HANDLERS)
    methods = {name for name, member in vars(Program).items() if callable(member) and not name.startswith("_")}
    assert methods - {"at", "caches"} == set(HANDLERS)


@pytest.mark.parametrize("backend", [registry.get("numpy"), StrictBackend()], ids=["numpy", "strict"])
def test_every_kind_runs_on_every_backend(backend: Any) -> None:
    program = all_kinds()
    widths = {}
    y = execute(
        run_of(program, backend), program, watch=lambda name, value: widths.setdefault(name, tuple(value.shape))
    )
    assert tuple(y.shape) == (2, 1, 8)
    assert widths == {op.name: (2, 1 if op.name in ("first", "last") else 3, op.width) for op in program.ops}


CASES = golden_cases.names()


@pytest.mark.parametrize("name", CASES)
def test_widths_and_names_are_those_of_the_trace(name: str) -> None:
    model = lepton_ref.load(golden_cases.case(name).folder)
    trace = model.run_with_trace([[3, 4, 5]])
    assert list(trace) == [op.name for op in model.program.ops]
    assert [trace[op.name].shape[-1] for op in model.program.ops] == [op.width for op in model.program.ops]
    np.testing.assert_array_equal(trace.output, model.forward([[3, 4, 5]]))


NAMES: Mapping[str, tuple[str, ...]] = {
    "llama": (
        "embed", "layers.0.attn_norm", "layers.0.attn.q", "layers.0.attn.k", "layers.0.attn.v", "layers.0.attn.q_rope",
        "layers.0.attn.k_rope", "layers.0.attn", "layers.0.attn.o", "layers.0.attn_residual", "layers.0.mlp_norm",
        "layers.0.mlp.gate", "layers.0.mlp.up", "layers.0.mlp", "layers.0.mlp.down", "layers.0.mlp_residual",
    ),
    "bert": (
        "embed", "embed_type", "embed_sum.type", "embed_position", "embed_sum", "embed_norm", "layers.0.attn.q",
        "layers.0.attn.k", "layers.0.attn.v", "layers.0.attn", "layers.0.attn.o", "layers.0.attn_residual",
        "layers.0.attn_norm", "layers.0.mlp.up", "layers.0.mlp", "layers.0.mlp.down", "layers.0.mlp_residual",
        "layers.0.mlp_norm",
    ),
}  # fmt: skip
"""What people write into their own scripts: a change here breaks them."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["reference", "float64"])
def test_names_stay(name: str, precision: str) -> None:
    model = lepton_ref.load(golden_cases.case(name).folder, precision=precision)
    found = [op.name for op in model.program.ops if not op.name.startswith("layers.1")]
    assert tuple(found[: len(NAMES[name])]) == NAMES[name]
    second = [op.name.replace("layers.1", "layers.0") for op in model.program.ops if op.name.startswith("layers.1")]
    assert second == [other for other in NAMES[name] if other.startswith("layers.0")]


# --- what it forgets -------------------------------------------------------------------------------------------------


def most_alive(program: Program, keep: list[Any] | None = None) -> int:
    """How many intermediates are alive at once, at most."""
    seen: list[weakref.ReferenceType[Any]] = []
    most = 0

    def watch(name: str, value: Any) -> None:
        nonlocal most
        seen.append(weakref.ref(value))
        if keep is not None:
            keep.append(value)
        most = max(most, sum(reference() is not None for reference in seen))

    execute(run_of(program, registry.get("numpy")), program, watch=watch)
    return most


def chain(layers: int) -> Program:
    p = Program()
    x = p.embed("embed", 19, 8)
    for layer in range(layers):
        b = p.at(f"layers.{layer}")
        x = b.add("sum", x, b.activate("act", b.linear("up", x, 8), "relu"))
    return p


def test_an_intermediate_is_dropped_after_its_last_use() -> None:
    assert most_alive(chain(2)) == most_alive(chain(40)) <= 4


def test_intermediates_that_are_kept_would_be_seen() -> None:
    assert most_alive(chain(40), keep=[]) == 121


def test_an_input_that_is_used_twice_is_one_value() -> None:
    p = Program()
    x = p.embed("embed", 19, 8)
    p.add("double", x, x)
    run = run_of(p, registry.get("numpy"))
    want = 2 * run.weights["embed.weight"].take(np.array([3, 4, 5])).astype(np.float64)
    np.testing.assert_array_equal(execute(run, p)[0], want)


def test_a_value_that_nobody_uses_does_no_harm() -> None:
    p = Program()
    x = p.embed("embed", 19, 8)
    p.activate("unused", x, "relu")
    p.activate("used", x, "tanh")
    assert execute(run_of(p, registry.get("numpy")), p).shape == (2, 3, 8)


def test_a_failing_op_leaves_through_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run, op: Op, x: Any) -> Any:
        raise FloatingPointError("from within")

    monkeypatch.setattr(execution, "HANDLERS", {**HANDLERS, "activate": broken})
    with pytest.raises(FloatingPointError, match="from within"):
        execute(run_of(chain(1), registry.get("numpy")), chain(1))
