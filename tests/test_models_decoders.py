"""The decoder families: goldens of a true float64 run, caches, padding, and bugs that the goldens must catch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from decoder_cases import CASES, LIMITS, MAIN, case, config, distance, model, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lepton_ref
from lepton_ref import Model
from lepton_ref.models import FAMILIES
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.program import Op
from lepton_ref.ops import Rope

GENERATING = tuple(name for name in CASES if case(name).is_decoder)
BOUNDED = ("llama_rope_dynamic", "phi3_longrope")
"""Cases whose RoPE depends on the length; there a cache must be made for the length that the golden had."""


def test_every_decoder_family_has_a_golden() -> None:
    encoders = {"bert", "roberta", "distilbert"}
    assert {config(name)["model_type"] for name in CASES} == set(FAMILIES) - encoders
    assert {config(name)["model_type"] for name in MAIN} == set(FAMILIES) - encoders


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_goldens(name: str, precision: str) -> None:
    tested = model(name, precision)
    assert tested.forward(case(name).expected["input_ids"]).dtype == tested.precision.dtype
    assert worst(tested, name) <= LIMITS[precision]


@pytest.mark.parametrize("name", CASES)
def test_states_between_the_layers_are_the_golden_s(name: str) -> None:
    e = case(name).expected
    trace = model(name).run_with_trace(e["input_ids"][:1])
    layers = len(model(name).program.caches())
    first = "embed_sum" if "embed_sum" in trace else "embed"
    ends = "mlp_norm" if name == "opt_post_norm" else "mlp_residual"
    names = [first, *(f"layers.{layer}.{ends}" for layer in range(layers))]
    if "norm" in trace:
        names[-1] = "norm"  # transformers gives the last state after the final norm
    states = np.stack([trace[state][0, -1] for state in names if trace[state].shape[-1] == trace[first].shape[-1]])
    states = states[: len(e["hidden"])]
    assert len(states) >= layers
    assert distance(states, e["hidden"], float(e["hidden"].std())) <= LIMITS["float64"]


@pytest.mark.parametrize("name", CASES)
def test_output_at_padding_is_zero(name: str) -> None:
    e = case(name).expected
    for side in ("left", "right"):
        mask = e[f"padded_{side}_mask"].astype(bool)
        got = model(name).forward(e[f"padded_{side}_ids"], attention_mask=mask)
        assert not got[~mask].any()
        assert got[mask].any()


@pytest.mark.parametrize("name", MAIN)
def test_what_stands_at_padding_changes_no_bit(name: str) -> None:
    e = case(name).expected
    mask = e["padded_left_mask"].astype(bool)
    got = model(name).forward(e["padded_left_ids"], attention_mask=mask)
    other = model(name).forward(np.where(mask, e["padded_left_ids"], -7), attention_mask=mask)
    np.testing.assert_array_equal(got, other)


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_chunks_and_a_cache_change_nothing(name: str, data: st.DataObject) -> None:
    ids = case(name).expected["input_ids"]
    want = case(name).expected[case(name).output]
    length = ids.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=5)))
    cache = model(name).new_cache(batch=len(ids), capacity=length)
    parts = [model(name).forward(part, cache=cache) for part in np.split(ids, cuts, axis=1)]
    assert distance(np.concatenate(parts, axis=1), want, float(want.std())) <= LIMITS["float64"]
    assert cache.length == length


@pytest.mark.parametrize("name", MAIN)
def test_padded_chunks_change_nothing(name: str) -> None:
    e = case(name).expected
    spread = float(e[case(name).output].std())
    for side in ("left", "right"):
        ids, mask = e[f"padded_{side}_ids"], e[f"padded_{side}_mask"].astype(bool)
        cache = model(name).new_cache(batch=2)
        parts = [
            model(name).forward(ids[:, at], attention_mask=mask[:, at], cache=cache)
            for at in (slice(0, 3), slice(3, 4), slice(4, None))
        ]
        got = np.concatenate(parts, axis=1)
        for row in range(2):
            assert distance(got[row][mask[row]], e[f"padded_{row}"], spread) <= LIMITS["float64"]


@pytest.mark.parametrize("name", CASES)
def test_last_only_is_the_last_position(name: str) -> None:
    e = case(name).expected
    mask = e["padded_right_mask"].astype(bool)
    got = model(name).forward(e["padded_right_ids"], attention_mask=mask, last_only=True)
    want = np.stack([e["padded_0"][-1:], e["padded_1"][-1:]])
    assert distance(got, want, float(e[case(name).output].std())) <= LIMITS["float64"]


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", GENERATING)
def test_greedy_continuation_is_the_golden_s(name: str, precision: str) -> None:
    e = case(name).expected
    assert e["greedy_margins"].min() > LIMITS["reference"] * e["logits"].std()  # else a tie decides
    tested = model(name, precision)
    cache = tested.new_cache(capacity=16 if name in BOUNDED else None)
    y = tested.forward(e["greedy_prompt"], cache=cache, last_only=True)
    found: list[int] = []
    while len(found) < len(e["greedy_ids"]):
        found.append(int(y[0, -1].argmax()))
        y = tested.forward(found[-1:], cache=cache, last_only=True)
    assert found == e["greedy_ids"].tolist()


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "qwen2_sliding", "qwen3_biased"])
def test_windows_bound_the_cache(name: str) -> None:
    tested = model(name)
    windows = [layer.window for layer in tested.program.caches()]
    cache = tested.new_cache()
    sizes = []
    for _ in range(4):
        for _ in range(70):
            tested.forward([[1]], cache=cache)
        sizes.append(cache.nbytes)
    per_slot = 2 * 8 * tested.config.num_key_value_heads * tested.config.head_dim
    growing = sum(window is None for window in windows)
    sliding = sum(window for window in windows if window is not None)
    assert sizes[-1] <= per_slot * (growing * 2 * 280 + 2 * sliding)
    assert (sizes[0] == sizes[-1]) == (growing == 0)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_more_tokens_than_learned_positions_are_refused(name: str) -> None:
    room = model(name).config.max_position_embeddings
    model(name).forward([[1] * room])
    with pytest.raises(ContextOverflowError, match=f"{room + 1} positions overflow the {room}"):
        model(name).forward([[1] * (room + 1)])
    cache = model(name).new_cache()
    model(name).forward([[1] * room], cache=cache)
    with pytest.raises(ContextOverflowError):
        model(name).forward([[1]], cache=cache)
    assert cache.length == room


# --- planted bugs ----------------------------------------------------------------------------------------------------


def _with(op: Op, **options: Any) -> Op:
    return dataclasses.replace(op, options=MappingProxyType({**op.options, **options}))


def _from(op: Op, *inputs: str) -> Op:
    return dataclasses.replace(op, inputs=inputs)


def _each(kind: str, **options: Any) -> Callable[[Op], Op]:
    """Options changed in all ops of a kind."""
    return lambda op: _with(op, **options) if op.kind == kind else op


def _named(end: str, change: Callable[[Op], Op]) -> Callable[[Op], Op]:
    """A change of the ops whose name ends so."""
    return lambda op: change(op) if op.name.endswith(end) else op


def _rope(**changes: Any) -> Callable[[Op], Op]:
    """Another RoPE in all layers."""
    return lambda op: _with(op, rope=dataclasses.replace(op.options["rope"], **changes)) if op.kind == "rope" else op


def _window(by: int) -> Callable[[Op], Op]:
    def change(op: Op) -> Op:
        if op.kind != "attention" or op.options["window"] is None:
            return op
        return _with(op, window=op.options["window"] + by)

    return change


def _norm_after_rope(op: Op) -> Op:
    """q's norm reads what RoPE gave: the norm moves behind by trading places."""
    layer = op.name.rpartition(".attn.")[0]
    if op.name.endswith("attn.q_norm"):
        return dataclasses.replace(op, kind="rope", weights=MappingProxyType({}), options=NORM_AND_ROPE[layer][1])
    if op.name.endswith("attn.q_rope"):
        weights = MappingProxyType({"w": f"{layer}.attn.q_norm.weight"})
        return dataclasses.replace(op, kind="rms_norm", weights=weights, options=NORM_AND_ROPE[layer][0])
    return op


def _options(name: str) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    ops = {op.name: op for op in model(name).program.ops}
    layers = [f"layers.{layer}" for layer in range(len(model(name).program.caches()))]
    return {at: (ops[f"{at}.attn.q_norm"].options, ops[f"{at}.attn.q_rope"].options) for at in layers}


NORM_AND_ROPE = _options("qwen3")

BUGS: Mapping[str, tuple[str, Callable[[Op], Op]]] = {
    "mistral: window one too long": ("mistral", _window(1)),
    "mistral: window one too short": ("mistral", _window(-1)),
    "mistral: no window": ("mistral", _each("attention", window=None)),
    "mistral: neighbours for halves": ("mistral", _rope(interleaved=True)),
    "qwen2: no bias on k": (
        "qwen2",
        _named(".attn.k", lambda op: dataclasses.replace(op, weights=MappingProxyType({"w": op.weights["w"]}))),
    ),
    "qwen2: window in every layer": ("qwen2_sliding", _each("attention", window=6)),
    "qwen3: q's norm after RoPE": ("qwen3", _norm_after_rope),
    "qwen3: v without the norm before": ("qwen3", _named(".attn.v", lambda op: _from(op, "embed"))),
    "qwen3: ε": ("qwen3", _each("rms_norm", eps=1e-3)),
    "gemma2: embedding not scaled": ("gemma2", _named("embed", lambda op: _with(op, scale=1.0))),
    "gemma2: √D in bfloat16": ("gemma2", _named("embed", lambda op: _with(op, scale=4.46875))),
    "gemma2: norm without its 1": ("gemma2", _each("rms_norm", offset=0.0)),
    "gemma2: scores by head width": ("gemma2", _each("attention", scale=8**-0.5)),
    "gemma2: scores not capped": ("gemma2", _each("attention", cap=None)),
    "gemma2: logits capped elsewhere": ("gemma2", _each("softcap", cap=5.1)),
    "gemma2: GELU by erf": ("gemma2", _each("gated", activation="gelu")),
    "gemma2: windows in the other layers": (
        "gemma2",
        lambda op: _with(op, window=5 if op.options["window"] is None else None) if op.kind == "attention" else op,
    ),
    "gemma3: one RoPE for all layers": ("gemma3", _rope(theta=900.0, kind="linear", factor=8.0)),
    "gemma3: scaling on the local layers too": ("gemma3", _rope(kind="linear", factor=8.0)),
    "gemma3: norm of q without its 1": ("gemma3", _named(".attn.q_norm", lambda op: _with(op, offset=0.0))),
    "gemma3: post-norm left out": (
        "gemma3",
        _named(".mlp_residual", lambda op: _from(op, op.inputs[0], op.inputs[1].replace("mlp_post_norm", "mlp.down"))),
    ),
    "phi3: gate and up exchanged": (
        "phi3",
        lambda op: _from(op, *reversed(op.inputs)) if op.kind == "gated" else op,
    ),
    "phi3: whole heads rotate": ("phi3_partial", _rope(width=8)),
    "phi3: no attention factor": ("phi3_longrope", _rope(attention_factor=1.0)),
    "phi3: short factors always": ("phi3_longrope", _rope(original_length=64, attention_factor=1.2247448713915890)),
    "olmo2: q's norm left out": ("olmo2", _named(".attn.q_rope", lambda op: _from(op, op.name[:-5]))),
    "olmo2: norm before attention": (
        "olmo2",
        lambda op: (
            _from(op, op.inputs[0], op.name.replace("attn_residual", "attn.o")) if "attn_residual" in op.name else op
        ),
    ),
    "gpt2: positions from 1": ("gpt2", _named("embed_position", lambda op: _with(op, offset=1))),
    "gpt2: GELU by erf": ("gpt2", _each("activate", activation="gelu")),
    "gpt2: scale the same in all layers": ("gpt2_inverse_layer", _each("attention", scale=10**-0.5)),
    "gpt_neox: whole heads rotate": ("gpt_neox", _rope(width=16)),
    "gpt_neox: MLP after attention": (
        "gpt_neox",
        _named(".mlp_norm", lambda op: _from(op, op.name.replace("mlp_norm", "attn_residual"))),
    ),
    "gpt_neox: MLP beside attention": (
        "gpt_neox_sequential",
        _named("1.mlp_norm", lambda op: _from(op, "layers.0.mlp_residual")),
    ),
    "gpt_neox: tanh-GELU": ("gpt_neox", _each("activate", activation="gelu_tanh")),
    "opt: positions from row 0": ("opt", _named("embed_position", lambda op: _with(op, offset=0))),
    "opt: GELU": ("opt", _each("activate", activation="gelu")),
    "opt: ε": ("opt", _each("layer_norm", eps=1e-2)),
    "opt: final norm left out": ("opt", _named("head", lambda op: _from(op, "last"))),
    "llama: heads cut at other places": ("llama", _named("1.attn", lambda op: _with(op, kv_heads=1, heads=2))),
    "llama: scale": ("llama", _each("attention", scale=0.4)),
    "llama: not causal": ("llama", _each("attention", causal=False)),
}


def planted(name: str, change: Callable[[Op], Op]) -> Model:
    """The case's model under `reference` with its program changed."""
    tested = lepton_ref.load(case(name).folder)
    before = list(tested.program.ops)
    tested.program.ops[:] = [change(op) for op in before]
    assert tested.program.ops != before, "the bug changed no op"
    return tested


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str) -> None:
    name, change = BUGS[bug]
    assert worst(planted(name, change), name) > LIMITS["reference"]


def test_a_program_that_is_not_changed_is_accepted() -> None:
    """The harness of the bugs itself is harmless: an equal program gives the golden."""
    tested = lepton_ref.load(case("qwen3").folder)
    tested.program.ops[:] = [_with(op) for op in tested.program.ops]
    assert worst(tested, "qwen3") <= LIMITS["reference"]


def _swapped(part: Any, rows: Callable[[Any], NDArray[np.int64]]) -> Any:
    return dataclasses.replace(part, rows=rows)


def test_rows_of_a_fused_matrix_taken_as_blocks_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-NeoX's rows lie head by head; taken as [q; k; v] they fit and are wrong."""
    from lepton_ref.models import gpt_neox

    names = dict(gpt_neox.SAFETENSORS.names)
    for number, kind in enumerate("qkv"):
        names[f"layers.{{l}}.attn.{kind}"] = _swapped(names[f"layers.{{l}}.attn.{kind}"], gpt_neox.by_kind(number))
    table = dataclasses.replace(gpt_neox.SAFETENSORS, names=names)
    family = dataclasses.replace(gpt_neox.FAMILY, names=table)
    monkeypatch.setattr("lepton_ref.runtime.load.FAMILIES", {**FAMILIES, "gpt_neox": family})
    assert worst(lepton_ref.load(case("gpt_neox").folder), "gpt_neox") > LIMITS["reference"]


def test_matrices_that_are_not_transposed_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's square attn.o fits either way round."""
    from lepton_ref.models import gpt2

    names = dict(gpt2.SAFETENSORS.names)
    names["layers.{l}.attn.o"] = "transformer.h.{l}.attn.c_proj"
    family = dataclasses.replace(gpt2.FAMILY, names=dataclasses.replace(gpt2.SAFETENSORS, names=names))
    monkeypatch.setattr("lepton_ref.runtime.load.FAMILIES", {**FAMILIES, "gpt2": family})
    assert worst(lepton_ref.load(case("gpt2").folder), "gpt2") > LIMITS["reference"]


def test_rope_records_are_shared_by_layers() -> None:
    """Gemma 3 has two, every other family one: the tables are computed once each."""
    ropes = {op.options["rope"] for op in model("gemma3").program.ops if op.kind == "rope"}
    assert ropes == {Rope(50.0, 8, original_length=64), Rope(900.0, 8, "linear", 8.0, original_length=64)}
