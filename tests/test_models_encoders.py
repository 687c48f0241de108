"""BERT, RoBERTa and DistilBERT: the goldens, random models against a second implementation, and what is refused."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import golden_cases
import numpy as np
import pytest
from encoder_oracle import ACTIVATIONS, Oracle, random_tensors, write_folder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend

import lepton_ref
from lepton_ref import Model
from lepton_ref.files import write_gguf
from lepton_ref.models import bert, execute, inputs
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.names import WeightsError
from lepton_ref.models.program import Op
from lepton_ref.models.reader import ConfigError
from lepton_ref.runtime.embed import under_head

LIMITS = {"float64": 1e-9, "reference": 5e-5}
"""Precision → the distance from a true float64 run, in standard deviations of its output, that this project allows."""

CASES = tuple(name for name in golden_cases.names() if "bert" in name)
BERT: Mapping[str, Any] = {
    "model_type": "bert", "vocab_size": 19, "hidden_size": 8, "intermediate_size": 11, "num_hidden_layers": 2,
    "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "max_position_embeddings": 12,
    "type_vocab_size": 2, "num_labels": 3,
}  # fmt: skip
ROBERTA: Mapping[str, Any] = {**BERT, "model_type": "roberta", "pad_token_id": 1}
DISTILBERT: Mapping[str, Any] = {
    "model_type": "distilbert", "vocab_size": 19, "dim": 8, "hidden_dim": 11, "n_layers": 2, "n_heads": 2,
    "activation": "gelu", "max_position_embeddings": 12, "num_labels": 3,
}  # fmt: skip
CONFIGS = {"bert": BERT, "roberta": ROBERTA, "distilbert": DISTILBERT}
STEMS = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")


def made(folder: Path, kind: str, head: str = "Model", seed: int = 0, **changes: Any) -> Path:
    config = {**CONFIGS[kind], **changes}
    architecture = STEMS[kind] + head
    return write_folder(folder, config, architecture, random_tensors(config, architecture, seed))


def worst(model: Model, case: golden_cases.GoldenCase) -> float:
    """The largest distance from the golden, in standard deviations, of everything that it holds."""
    e = case.expected
    want = e[case.output]
    types = {"token_type_ids": e["token_type_ids"]} if "token_type_ids" in e else {}
    distances = [np.abs(model.forward(e["input_ids"], **types) - want).max()]
    for side in ("left", "right"):
        mask = e[f"padded_{side}_mask"].astype(bool)
        got = model.forward(e[f"padded_{side}_ids"], attention_mask=mask)
        for row in range(2):
            alone = got[row] if got.ndim == 2 else got[row][mask[row]]
            distances.append(np.abs(alone - e[f"padded_{row}"]).max())
    return float(max(distances) / want.std())


# --- the goldens -----------------------------------------------------------------------------------------------------


def test_every_encoder_has_goldens() -> None:
    found = {(name.split("_")[0], golden_cases.case(name).output) for name in CASES}
    assert found == {(kind, output) for kind in CONFIGS for output in ("last_hidden_state", "logits")}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_goldens(name: str, precision: str) -> None:
    case = golden_cases.case(name)
    model = lepton_ref.load(case.folder, precision=precision)
    assert model.forward(case.expected["input_ids"]).dtype == model.precision.dtype
    assert worst(model, case) <= LIMITS[precision]


@pytest.mark.parametrize("name", ["bert_classifier", "roberta_masked_lm", "distilbert"])
def test_goldens_on_a_backend_that_allows_only_its_interface(name: str) -> None:
    case = golden_cases.case(name)
    model = lepton_ref.load(case.folder, backend=StrictBackend(), precision="float64")
    assert worst(model, case) <= LIMITS["float64"]
    rows = [[5, 6, 7], [8, 9]]
    assert np.abs(model.embed(rows) - lepton_ref.load(case.folder, precision="float64").embed(rows)).max() <= 1e-9


@pytest.mark.parametrize("name", [name for name in CASES if "pooler_output" in golden_cases.case(name).expected])
def test_the_pooler_is_the_golden_s(name: str) -> None:
    case = golden_cases.case(name)
    expected = case.expected["pooler_output"]
    plain = {"token_type_ids": case.expected["token_type_ids"]} if "token_type_ids" in case.expected else {}
    got = under_head(lepton_ref.load(case.folder, precision="float64"), "pooler")
    output = got.forward(case.expected["input_ids"], **plain)
    assert np.abs(output - expected).max() <= 1e-9 * expected.std()


def _changed(op: Op, **options: Any) -> Op:
    return dataclasses.replace(op, options=MappingProxyType({**op.options, **options}))


def _swap(op: Op, number: int, by: str) -> Op:
    return dataclasses.replace(op, inputs=(*op.inputs[:number], by, *op.inputs[number + 1 :]))


BUGS: Mapping[str, tuple[str, Callable[[Op], Op]]] = {
    "ε of a norm": ("bert", lambda op: _changed(op, eps=1e-3) if op.name == "layers.1.mlp_norm" else op),
    "tanh-GELU for GELU": ("bert", lambda op: _changed(op, activation="gelu_tanh") if op.kind == "activate" else op),
    "GELU for tanh-GELU": (
        "bert_classifier",
        lambda op: _changed(op, activation="gelu") if op.kind == "activate" and op.name != "pooled" else op,
    ),
    "ReLU left out": (
        "distilbert_masked_lm",
        lambda op: _changed(op, activation="gelu") if op.name == "transform_act" else op,
    ),
    "layers' activation in RoBERTa's head": (
        "roberta_masked_lm",
        lambda op: _changed(op, activation="gelu_tanh") if op.name == "transform_act" else op,
    ),
    "causal": ("roberta", lambda op: _changed(op, causal=True) if op.kind == "attention" else op),
    "scale of the scores": ("bert", lambda op: _changed(op, scale=8**-0.501) if op.kind == "attention" else op),
    "keys for queries": (
        "distilbert",
        lambda op: _swap(op, 0, "layers.1.attn.k") if op.name == "layers.1.attn" else op,
    ),
    "residual from the wrong place": (
        "bert",
        lambda op: _swap(op, 0, "embed_norm") if op.name == "layers.1.mlp_residual" else op,
    ),
    "types for positions": (
        "bert",
        lambda op: _changed(op, of="token_type_ids") if op.name == "embed_position" else op,
    ),
    "types ignored": ("bert", lambda op: _swap(op, 1, "embed") if op.name == "embed_sum.type" else op),
    "BERT's positions in RoBERTa": (
        "roberta",
        lambda op: _changed(op, of="position_ids") if op.name == "embed_position" else op,
    ),
    "a bias left out": (
        "bert_masked_lm",
        lambda op: (
            dataclasses.replace(op, weights=MappingProxyType({"w": op.weights["w"]})) if op.name == "head" else op
        ),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str) -> None:
    name, change = BUGS[bug]
    case = golden_cases.case(name)
    model = lepton_ref.load(case.folder)
    before = list(model.program.ops)
    model.program.ops[:] = [change(op) for op in before]
    assert model.program.ops != before, "the bug changed no op"
    assert worst(model, case) > LIMITS["reference"]


def test_padding_at_the_slot_number_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that count slots and not tokens: only padding on the left shows it."""
    case = golden_cases.case("bert")
    model = lepton_ref.load(case.folder)
    honest = inputs.integers_like

    def slots(name: str, given: Any, default: NDArray[np.int64], mask: NDArray[np.bool_], /) -> NDArray[np.int64]:
        if name == "position_ids":
            return np.broadcast_to(np.arange(default.shape[1]), default.shape)
        return honest(name, given, default, mask)

    monkeypatch.setattr(inputs, "integers_like", slots)
    assert worst(model, case) > LIMITS["reference"]


@pytest.mark.parametrize("slot", [0, -1])
def test_the_first_slot_for_the_first_token_is_caught(slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden_cases.case("bert_classifier")
    model = lepton_ref.load(case.folder)
    wrong = {**execute.HANDLERS, "first": lambda run, op, x: x[:, [slot]]}
    monkeypatch.setattr(execute, "HANDLERS", wrong)
    assert worst(model, case) > LIMITS["reference"]


# --- random models against the second implementation -----------------------------------------------------------------


@st.composite
def configs(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """(config, architecture)"""
    kind = draw(st.sampled_from(sorted(CONFIGS)))
    heads = draw(st.integers(1, 3))
    d, f, layers = heads * draw(st.integers(1, 5)), draw(st.integers(1, 13)), draw(st.integers(1, 3))
    act = draw(st.sampled_from(sorted(ACTIVATIONS)))
    pad = draw(st.integers(0, 4))
    config: dict[str, Any] = {
        **CONFIGS[kind],
        "max_position_embeddings": 12 + pad,
        "pad_token_id": pad,
        "tie_word_embeddings": draw(st.booleans()),
        "num_labels": draw(st.integers(1, 5)),
    }
    if kind == "distilbert":
        config |= {"dim": d, "hidden_dim": f, "n_layers": layers, "n_heads": heads, "activation": act}
    else:
        config |= {"hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": heads}
        config |= {"hidden_act": act, "type_vocab_size": draw(st.integers(1, 3))}
        config |= {"layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5, 0.1]))}
    return config, STEMS[kind] + draw(st.sampled_from(HEADS))


@st.composite
def padded(draw: st.DrawFn, types: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """ids, mask and token types of a batch; padding anywhere, and anything at padding."""
    b, t = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((b, t)) < draw(st.sampled_from([0.4, 0.8, 1.0]))
    mask[np.arange(b), rng.integers(0, t, b)] = True
    ids = np.where(mask, rng.integers(0, 19, (b, t)), rng.integers(-5, 99, (b, t)))
    return ids, mask, np.where(mask, rng.integers(0, types, (b, t)), 7)


@given(configs(), st.data())
def test_random_models_are_the_oracle_s(drawn: tuple[dict[str, Any], str], data: st.DataObject) -> None:
    config, architecture = drawn
    types = config.get("type_vocab_size", 0)
    ids, mask, token_types = data.draw(padded(max(types, 1)))
    tensors = random_tensors(config, architecture, data.draw(st.integers(0, 2**32 - 1)))
    given_types = {"token_type_ids": token_types} if types else {}
    with tempfile.TemporaryDirectory() as folder:
        model = lepton_ref.load(write_folder(Path(folder) / "m", config, architecture, tensors), precision="float64")
        got = model.forward(ids, attention_mask=mask, **given_types)
    oracle = Oracle(config, tensors)
    for row in range(len(ids)):
        seen = mask[row]
        want = oracle.head(architecture, oracle.hidden(ids[row][seen].tolist(), token_types[row][seen].tolist()))
        alone = got[row] if got.ndim == 2 else got[row][seen]
        assert alone.shape == want.shape
        assert np.abs(alone - want).max() <= 1e-9 * max(want.std(), 1e-3)
        assert got.ndim == 2 or not got[row][~seen].any()


@given(configs(), st.data())
def test_what_stands_at_padding_changes_no_bit(drawn: tuple[dict[str, Any], str], data: st.DataObject) -> None:
    config, architecture = drawn
    ids, mask, _ = data.draw(padded(1))
    with tempfile.TemporaryDirectory() as folder:
        tensors = random_tensors(config, architecture, 3)
        model = lepton_ref.load(write_folder(Path(folder) / "m", config, architecture, tensors))
        got = model.forward(ids, attention_mask=mask)
        other = model.forward(np.where(mask, ids, 10**6), attention_mask=mask, position_ids=None)
    np.testing.assert_array_equal(got, other)


@pytest.mark.parametrize("kind", CONFIGS)
def test_given_positions_are_taken_as_they_are(kind: str, tmp_path: Path) -> None:
    folder = made(tmp_path, kind)
    oracle = Oracle(CONFIGS[kind], random_tensors(CONFIGS[kind], STEMS[kind] + "Model", 0))
    positions = [[7, 0, 3, 11]]
    got = lepton_ref.load(folder, precision="float64").forward([[5, 6, 7, 8]], position_ids=positions)
    want = oracle.hidden([5, 6, 7, 8], [0] * 4, positions[0])
    assert np.abs(got[0] - want).max() <= 1e-9 * want.std()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", HEADS)
def test_a_sequence_without_tokens_gives_zeros(kind: str, head: str, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, kind, head))
    got = model.forward([[5, 6], [7, 8]], attention_mask=[[1, 1], [0, 0]])
    assert got[0].any()
    assert not got[1].any()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_last_only_is_the_last_unmasked_position(kind: str, head: str, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, kind, head), precision="float64")
    mask = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    ids = np.array([[5, 6, 7], [7, 8, 9], [1, 1, 1]])
    whole, last = (model.forward(ids, attention_mask=mask, last_only=only) for only in (False, True))
    assert last.shape == (3, 1, whole.shape[2])
    assert np.abs(last[:, 0] - whole[[0, 1, 2], [1, 2, 2]]).max() <= 1e-12
    assert not last[2].any()


# --- how files name their tensors ------------------------------------------------------------------------------------


def same_as(
    tmp_path: Path, kind: str, head: str, rename: Callable[[dict[str, Any]], dict[str, Any]], **more: Any
) -> None:
    """The checkpoint under other names gives the same bits."""
    config = {**CONFIGS[kind], **more}
    tensors = random_tensors(config, STEMS[kind] + head, 1)
    first = lepton_ref.load(write_folder(tmp_path / "a", config, STEMS[kind] + head, tensors))
    changed = rename(dict(tensors))
    assert changed.keys() != tensors.keys()
    second = lepton_ref.load(write_folder(tmp_path / "b", config, STEMS[kind] + head, changed))
    np.testing.assert_array_equal(first.forward([[3, 4, 5]]), second.forward([[3, 4, 5]]))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("head", HEADS)
def test_gamma_and_beta(kind: str, head: str, tmp_path: Path) -> None:
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def old(tensors: dict[str, Any]) -> dict[str, Any]:
        for end, to in ends.items():
            tensors = {n.removesuffix(end) + to if n.endswith(end) else n: t for n, t in tensors.items()}
        return tensors

    same_as(tmp_path, kind, head, old)


def test_gamma_beside_weight_is_left_over(tmp_path: Path) -> None:
    tensors = random_tensors(BERT, "BertModel", 0)
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    with pytest.raises(WeightsError, match=r"embeddings\.LayerNorm\.gamma left over"):
        lepton_ref.load(write_folder(tmp_path, BERT, "BertModel", tensors))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_base_model_with_prefix_and_its_pretraining_heads(kind: str, tmp_path: Path) -> None:
    """Hub files named BertModel often carry the heads of pre-training."""

    def from_pretraining(tensors: dict[str, Any]) -> dict[str, Any]:
        return {f"{kind}.{name}": tensor for name, tensor in tensors.items()} | {
            name: tensor
            for name, tensor in random_tensors(CONFIGS[kind], STEMS[kind] + "ForMaskedLM", 9).items()
            if not name.startswith(f"{kind}.")
        }

    same_as(tmp_path, kind, "Model", from_pretraining)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", HEADS)
def test_buffers_carry_no_weight(kind: str, head: str, tmp_path: Path) -> None:
    base = "" if head == "Model" else f"{kind}."
    buffers = {f"{base}embeddings.position_ids": np.arange(12.0, dtype=np.float32)[None]}
    same_as(tmp_path, kind, head, lambda tensors: tensors | buffers)


@pytest.mark.parametrize(("kind", "head"), [("bert", "cls.predictions"), ("roberta", "lm_head")])
@pytest.mark.parametrize("tied", [True, False])
def test_the_bias_of_the_head_has_two_names(kind: str, head: str, tied: bool, tmp_path: Path) -> None:
    def moved(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name.replace(f"{head}.bias", f"{head}.decoder.bias"): tensor for name, tensor in tensors.items()}

    same_as(tmp_path, kind, "ForMaskedLM", moved, tie_word_embeddings=tied)
    same_as(tmp_path, kind, "ForMaskedLM", lambda t: moved(t) | {f"{head}.bias": t[f"{head}.bias"] + 1})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "cls.predictions.decoder.weight"),
        ("roberta", "lm_head.decoder.weight"),
        ("distilbert", "vocab_projector.weight"),
    ],
)
def test_a_tied_head_stored_again_must_be_the_embedding(kind: str, name: str, tmp_path: Path) -> None:
    def again(tensors: dict[str, Any]) -> dict[str, Any]:
        return tensors | {name: tensors[f"{kind}.embeddings.word_embeddings.weight"]}

    same_as(tmp_path, kind, "ForMaskedLM", again)
    tensors = again(random_tensors(CONFIGS[kind], STEMS[kind] + "ForMaskedLM", 0))
    tensors[name] = tensors[name] + np.float32(2**-20)
    with pytest.raises(WeightsError, match=f"{name} differs from .*word_embeddings.*tie_word_embeddings to false"):
        lepton_ref.load(write_folder(tmp_path / "c", CONFIGS[kind], STEMS[kind] + "ForMaskedLM", tensors))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", HEADS)
def test_missing_and_left_over_tensors_are_named(kind: str, head: str, tmp_path: Path) -> None:
    config, architecture = CONFIGS[kind], STEMS[kind] + head
    tensors = random_tensors(config, architecture, 0)
    unused = [name for name in tensors if head == "Model" and "pooler" in name]
    for number, name in enumerate(tensors):
        if name in unused:
            continue
        less = {other: tensor for other, tensor in tensors.items() if other != name}
        with pytest.raises(WeightsError, match="missing"):
            lepton_ref.load(write_folder(tmp_path / f"less{number}", config, architecture, less))
    more = tensors | {"extra.weight": np.zeros(3, dtype=np.float32)}
    folder = write_folder(tmp_path / "more", config, architecture, more)
    with pytest.raises(WeightsError, match=r"extra\.weight left over"):
        lepton_ref.load(folder)


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("bert", {"is_decoder": True}, "is_decoder is True, but must be False"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention"),
    ("bert", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
    ("bert", {"hidden_act": 3}, "hidden_act"),
    ("bert", {"num_attention_heads": 3}, "hidden_size is 8, but must be a multiple of num_attention_heads"),
    ("bert", {"layer_norm_eps": -1e-5}, "layer_norm_eps"),
    ("bert", {"type_vocab_size": 0}, "type_vocab_size"),
    ("bert", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("bert", {"num_labels": 5}, r"classifier.weight: shape is \(3, 8\), but the config needs \(5, 8\)"),
    ("bert", {"num_labels": 2, "id2label": ["a", "b"]}, "id2label is .*must be an object"),
    ("roberta", {"is_decoder": True}, "is_decoder"),
    ("roberta", {"pad_token_id": None}, "pad_token_id is None"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id is -1"),
    ("roberta", {"pad_token_id": 11}, "max_position_embeddings is 12"),
    ("roberta", {"position_embedding_type": "relative_key_query"}, "position_embedding_type"),
    ("distilbert", {"activation": "mish"}, "activation is 'mish'"),
    ("distilbert", {"n_heads": 3}, "dim is 8, but must be a multiple of n_heads"),
    ("distilbert", {"sinusoidal_pos_embds": "yes"}, "sinusoidal_pos_embds"),
    ("distilbert", {"pruned_heads": {"1": [0]}}, "pruned_heads"),
)


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED)
def test_settings_that_mean_another_model_are_refused(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    architecture = STEMS[kind] + "ForSequenceClassification"
    tensors = random_tensors(CONFIGS[kind], architecture, 0)
    with pytest.raises((ConfigError, WeightsError), match=message):
        lepton_ref.load(write_folder(tmp_path, {**CONFIGS[kind], **changes}, architecture, tensors))


@pytest.mark.parametrize("kind", CONFIGS)
def test_settings_of_training_change_nothing(kind: str, tmp_path: Path) -> None:
    idle = {
        "attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.5, "classifier_dropout": 0.5, "dropout": 0.5,
        "attention_dropout": 0.5, "seq_classif_dropout": 0.5, "qa_dropout": 0.5, "initializer_range": 3.0,
        "use_cache": False, "chunk_size_feed_forward": 3, "problem_type": "regression", "is_decoder": False,
        "add_cross_attention": False, "position_embedding_type": "absolute", "pruned_heads": {},
        "sinusoidal_pos_embds": kind == "distilbert", "gradient_checkpointing": True, "output_hidden_states": True,
    }  # fmt: skip
    plain = lepton_ref.load(made(tmp_path / "a", kind, "ForSequenceClassification"))
    other = lepton_ref.load(made(tmp_path / "b", kind, "ForSequenceClassification", **idle))
    np.testing.assert_array_equal(plain.forward([[3, 4]]), other.forward([[3, 4]]))


@pytest.mark.parametrize("name", ["BertLMHeadModel", "BertForPreTraining", "BertForQuestionAnswering", "RobertaModel"])
def test_other_architectures_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"architectures is '{name}', but must be one of BertModel, BertForMaskedLM"):
        lepton_ref.load(write_folder(tmp_path, BERT, name, random_tensors(BERT, "BertModel", 0)))


def test_labels_are_counted_once(tmp_path: Path) -> None:
    config = {**BERT, "num_labels": 3}
    folder = write_folder(tmp_path, config, "BertForTokenClassification",
                          random_tensors(config, "BertForTokenClassification", 0))  # fmt: skip
    assert lepton_ref.load(folder).forward([[3, 4]]).shape == (1, 2, 3)
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"vocab_size"', '"num_labels": 2, "vocab_size"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="num_labels is 2, but must be 3, the number of entries in id2label"):
        lepton_ref.load(folder)


@pytest.mark.parametrize(("kind", "longest"), [("bert", 12), ("roberta", 10), ("distilbert", 12)])
def test_learned_positions_end(kind: str, longest: int, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, kind))
    assert model.forward([[5] * longest]).shape[1] == longest
    assert model.forward([[5] * longest + [0]], attention_mask=[[1] * longest + [0]]).shape[1] == longest + 1
    with pytest.raises(ContextOverflowError, match="13 positions overflow the 12 that the model has learned"):
        model.forward([[5] * (longest + 1)])
    with pytest.raises(ContextOverflowError, match="13 positions overflow the 12"):
        model.forward([[5, 6]], position_ids=[[0, 12]])


BAD_INPUTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("bert", "Model", {"token_type_ids": [[0, 2]]}, r"token_type_ids\[0, 1\] is 2, but the model has learned 2 types"),
    ("bert", "Model", {"token_type_ids": [[0, -1]]}, r"token_type_ids\[0, 1\] is -1, but must not be negative"),
    ("bert", "Model", {"token_type_ids": [[0, 1, 1]]}, "token_type_ids must be of shape"),
    ("distilbert", "Model", {"token_type_ids": [[0, 0]]}, "takes no token_type_ids"),
    ("bert", "ForSequenceClassification", {"last_only": True}, "one output for each sequence; leave last_only out"),
    ("bert", "Model", {"pixel_values": 1}, "takes no pixel_values"),
    ("bert", "Model", {"encoder_hidden_states": 1}, "takes no encoder_hidden_states"),
    ("bert", "Model", {"attention_mask": [[1, 2]]}, "attention_mask must hold 0"),
)


@pytest.mark.parametrize(("kind", "head", "inputs", "message"), BAD_INPUTS)
def test_bad_inputs_are_named(kind: str, head: str, inputs: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, kind, head))
    with pytest.raises(ValueError, match=message):
        model.forward([[5, 6]], **inputs)


def test_no_cache(tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, "bert"))
    assert not model.is_causal
    with pytest.raises(ValueError, match="sees both ways"):
        model.new_cache()


# --- GGUF ------------------------------------------------------------------------------------------------------------


def as_gguf(model: Model, path: Path, positions_from: int = 0, **metadata: Any) -> Path:
    """The model as llama.cpp's converter writes BERT, RoBERTa and DistilBERT: architecture "bert" for all three."""
    tensors = {bert.GGUF_NAMES.source(name)[1]: weight.decode() for name, weight in model.parts.weights.items()}
    tensors["position_embd.weight"] = tensors["position_embd.weight"][positions_from:]
    plain = {
        "general.architecture": "bert", "bert.context_length": len(tensors["position_embd.weight"]),
        "bert.embedding_length": 8, "bert.feed_forward_length": 11, "bert.block_count": 2,
        "bert.attention.head_count": 2, "bert.attention.causal": False, "bert.pooling_type": 2,
        "bert.attention.layer_norm_epsilon": 1e-12 if "dim" in vars(model.config) else 1e-3,
    }  # fmt: skip
    write_gguf(path, tensors, {**plain, **metadata})
    return path


@pytest.mark.parametrize(("kind", "skipped"), [("bert", 0), ("roberta", 2), ("distilbert", 0)])
def test_gguf_gives_the_same_bits(kind: str, skipped: int, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path / "a", kind))
    other = lepton_ref.load(as_gguf(model, tmp_path / "b.gguf", skipped))
    np.testing.assert_array_equal(model.forward([[3, 4, 5]]), other.forward([[3, 4, 5]]))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"bert.attention.causal": True}, r"bert\.attention\.causal is True, but must be False"),
        ({"bert.attention.head_count": 3}, "hidden_size is 8, but must be a multiple"),
        ({"bert.block_count": 3}, r"tensors blk\.2\.attn_q\.weight.* missing"),
        ({"bert.block_count": 1}, r"tensors blk\.1.* left over"),
    ],
)
def test_gguf_that_is_another_model_is_refused(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path / "a", "bert"))
    with pytest.raises((ConfigError, WeightsError), match=message):
        lepton_ref.load(as_gguf(model, tmp_path / "b.gguf", **metadata))
