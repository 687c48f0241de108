"""What is kept of activations: against sums by hand, against the model's own trace; and llama.cpp's two files."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from tiny_models import load

from lepton_ref.compress import calibration as calibration_page
from lepton_ref.compress import imatrix as imatrix_page
from lepton_ref.compress.activations import corpus, groups, stream
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.imatrix import Entry, ImportanceMatrix, read_imatrix, write_imatrix
from lepton_ref.compress.intervals import METHODS, choose_interval, divergence, squared_error
from lepton_ref.compress.statistics import Histogram, channels, histogram
from lepton_ref.files import FileFormatError
from lepton_ref.storage import Dense
from lepton_ref.storage.encoders.affine import AffineScheme, encode_affine

LLAMA = GOLDEN / "tiny" / "llama"
IDS = [[1, 2, 3, 4, 5], [7, 8, 9]]
FAMILIES = ["llama", "llama_tied", "gpt2", "gemma2", "qwen3", "opt", "gpt_neox", "bert"]

# --- the stream ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_inputs_are_those_of_the_models_own_run(name: str) -> None:
    model = load(GOLDEN / "tiny" / name)
    seen = {each.input: each for each in stream(model, corpus(IDS))}
    assert list(seen) == list(groups(model.program))
    for number, ids in enumerate(IDS):
        trace = model.run_with_trace([ids])
        for name_of_input, each in seen.items():
            np.testing.assert_array_equal(each.sequences[number], trace[name_of_input][0])


def test_a_replaced_weight_is_what_later_layers_see() -> None:
    model = load(LLAMA)
    weights = dict(model.parts.weights)
    found = {}
    for seen in stream(model, corpus(IDS), weights=weights):
        found[seen.input] = seen.sequences
        for op in seen.ops:
            if op.name == "layers.0.attn.o":
                zero = np.zeros(weights[op.weights["w"]].shape, dtype=np.float32)
                weights[op.weights["w"]] = Dense(zero, format="F32")
    before = {seen.input: seen.sequences for seen in stream(model, corpus(IDS))}
    np.testing.assert_array_equal(found["layers.0.attn_norm"][0], before["layers.0.attn_norm"][0])
    assert not np.array_equal(found["layers.0.mlp_norm"][0], before["layers.0.mlp_norm"][0])


def test_one_set_of_values_is_held_at_a_time() -> None:
    model = load(LLAMA)
    steps: list[tuple[int, int, str]] = []
    for _ in stream(model, corpus(IDS), progress=lambda *step: steps.append(step)):
        pass
    assert steps[-1] == (len(model.program.ops), len(model.program.ops), "")
    assert [step[0] for step in steps] == list(range(len(model.program.ops) + 1))


def test_the_record_says_what_was_seen() -> None:
    over = corpus([3, 1, 2], length=2)
    assert [row.tolist() for row in over.sequences] == [[3, 1], [2]]
    assert over.sha256 == hashlib.sha256(struct.pack("<qqqqq", 2, 3, 1, 1, 2)).hexdigest()
    seen = calibrate(load(LLAMA), [3, 1, 2], length=2)
    assert seen.record() == {
        "tokens": 3, "sequences": 2, "sha256": over.sha256, "seed": None, "precision": "reference"
    }  # fmt: skip


def test_a_drawing_is_the_seeds_and_keeps_the_order() -> None:
    drawn = [corpus(range(40), length=4, samples=3, seed=seed) for seed in (7, 7, 8)]
    assert drawn[0].sha256 == drawn[1].sha256 != drawn[2].sha256
    assert all(a[0] < b[0] for a, b in zip(drawn[0].sequences, drawn[0].sequences[1:], strict=False))
    assert drawn[0].seed == 7


# --- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    seen = channels([np.array([[1.0, -2.0]]), np.array([[3.0, 0.5], [-4.0, 0.0]])])
    assert seen.tokens == 3
    assert seen.squares.tolist() == [26.0, 4.25]
    assert seen.lows.tolist() == [-4.0, -2.0]
    assert seen.highs.tolist() == [3.0, 0.5]
    assert seen.absmax.tolist() == [4.0, 2.0]
    assert seen.magnitudes.tolist() == [8.0, 2.5]
    assert seen.importance.tolist() == [26 / 3, 4.25 / 3]


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 39))
def test_statistics_do_not_depend_on_where_sequences_are_cut(seed: int, cut: int) -> None:
    x = np.random.default_rng(seed).standard_normal((40, 3)).astype(np.float32)
    whole, parts = channels([x]), channels([x[:cut], x[cut:]])
    for name in ("squares", "lows", "highs", "magnitudes"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_a_histogram_by_hand() -> None:
    x = np.array([[-1.0, -0.5], [0.0, 0.25], [0.99, 1.0]])
    counted = histogram([x], channels([x]), bins=4)  # edges −1, −½, 0, ½, 1
    assert counted.counts.tolist() == [1, 1, 2, 2]


@given(seed=st.integers(0, 2**32 - 1), bins=st.integers(1, 50))
def test_every_number_is_in_the_bin_between_its_edges(seed: int, bins: int) -> None:
    x = np.random.default_rng(seed).standard_normal((30, 2)).astype(np.float32)
    counted = histogram([x], channels([x]), bins=bins)
    want, _ = np.histogram(x.astype(np.float64), counted.edges)
    np.testing.assert_array_equal(counted.counts, want)


# --- intervals -----------------------------------------------------------------------------------------------------


def outliers() -> Histogram:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(100_000), [60.0]])[:, None]
    return histogram([x], channels([x]))


def test_intervals_by_hand() -> None:
    seen = Histogram(-2.0, 2.0, np.array([1, 9, 9, 1]))
    assert choose_interval(seen, "minmax") == (-2.0, 2.0)
    assert choose_interval(seen, "percentile", percentile=90) == (-1.0, 1.0)
    assert choose_interval(seen, "percentile", percentile=91) == (-2.0, 2.0)
    positive = Histogram(1.0, 3.0, np.array([5, 5]))
    assert choose_interval(positive, "minmax") == (0.0, 3.0)
    assert choose_interval(positive, "minmax", symmetric=True) == (-3.0, 3.0)


@pytest.mark.parametrize(("method", "bits"), [("percentile", 8), ("mse", 4), ("entropy", 8)])
def test_one_outlier_does_not_set_the_interval(method: str, bits: int) -> None:
    low, high = choose_interval(outliers(), method, bits=bits)
    assert -10 < low < 0 < high < 30


@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(2, 8), method=st.sampled_from(METHODS), symmetric=st.booleans())
def test_the_interval_holds_zero_and_is_no_worse_than_the_whole(
    seed: int, bits: int, method: str, symmetric: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((200, 1)) + rng.uniform(-2, 2)) ** 3
    seen = histogram([x], channels([x]), bins=64)
    low, high = choose_interval(seen, method, bits=bits, symmetric=symmetric)
    assert low <= 0 <= high
    assert low < high
    assert not symmetric or low == -high
    whole = choose_interval(seen, "minmax", symmetric=symmetric)
    if method in ("mse", "entropy"):
        loss = squared_error if method == "mse" else divergence
        assert loss(seen, (low, high), 2**bits) <= loss(seen, whole, 2**bits)


@pytest.mark.parametrize("method", METHODS)
def test_the_affine_encoder_takes_the_interval(method: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    low, high = choose_interval(histogram([x], channels([x])), method, bits=8)
    interval = tuple(np.full((1, 1), end, dtype=np.float32) for end in (low, high))
    scheme = AffineScheme(bits=8, per="tensor", symmetric=False)
    values = encode_affine(x, scheme=scheme, interval=(interval[0], interval[1])).decode()
    step = (high - low) / 255
    # half a step by the code, half by the zero point, which moves the ends, and 256 codes of a scale in float32
    assert (np.abs(values - np.clip(x, low, high)) <= (1 + 2.0**-15) * step).all()


def test_divergence_from_itself_is_zero() -> None:
    seen = Histogram(0.0, 4.0, np.array([3, 1, 0, 2]))
    assert divergence(seen, (0.0, 4.0), 256) == 0.0


# --- importance matrices -------------------------------------------------------------------------------------------


def legacy_bytes() -> bytes:
    """As llama.cpp writes it: entries, names, calls, values of importance·calls; last chunk; data set."""
    name = b"blk.0.ffn_up.weight"
    head = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 2, 3) + struct.pack("<3f", 0.5, 6.0, 0.0)
    return head + struct.pack("<ii", 2, 8) + b"wiki.txt"


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_bytes() -> bytes:
    """As llama.cpp writes it: sums (I, M) and counts (1, M) of each weight, sizes with the contiguous axis first."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 4)
    head += gguf_string("general.type") + struct.pack("<I", 8) + gguf_string("imatrix")
    head += gguf_string("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + gguf_string("wiki.txt")
    head += gguf_string("imatrix.chunk_count") + struct.pack("<II", 4, 2)
    head += gguf_string("imatrix.chunk_size") + struct.pack("<II", 4, 5)
    head += gguf_string("blk.0.ffn_up.weight.in_sum2") + struct.pack("<IQQIQ", 2, 3, 1, 0, 0)
    head += gguf_string("blk.0.ffn_up.weight.counts") + struct.pack("<IQQIQ", 2, 1, 1, 0, 32)
    head += b"\0" * (-len(head) % 32)
    return head + struct.pack("<3f", 2.5, 30.0, 0.0) + b"\0" * 20 + struct.pack("<f", 10.0) + b"\0" * 28


def known() -> ImportanceMatrix:
    entry = Entry(np.array([[2.5, 30.0, 0.0]]), np.array([10]))
    return ImportanceMatrix({"blk.0.ffn_up.weight": entry}, ("wiki.txt",), 2, 5)


@pytest.mark.parametrize(("suffix", "form"), [("dat", legacy_bytes), ("gguf", gguf_bytes)])
def test_files_are_llama_cpps_byte_for_byte(tmp_path: Path, suffix: str, form: Callable[[], bytes]) -> None:
    path = tmp_path / f"imatrix.{suffix}"
    write_imatrix(path, known())
    assert path.read_bytes() == form()
    read = read_imatrix(path)
    assert read.datasets == ("wiki.txt",)
    assert read.chunks == 2
    np.testing.assert_array_equal(read.importance()["blk.0.ffn_up.weight"], np.float32([0.25, 3.0, 0.0]))


def test_a_legacy_file_may_end_behind_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(legacy_bytes()[:-16])
    assert read_imatrix(path).importance()["blk.0.ffn_up.weight"].tolist() == [0.25, 3.0, 0.0]


@given(seed=st.integers(0, 2**32 - 1), suffix=st.sampled_from(["dat", "gguf"]), matrices=st.integers(1, 3))
def test_importance_comes_back(tmp_path_factory: pytest.TempPathFactory, seed: int, suffix: str, matrices: int) -> None:
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 1 << 20, (matrices, 5)).astype(np.float64)
    entry = Entry(squares, np.full(matrices, 2 ** int(rng.integers(0, 12))))
    path = tmp_path_factory.mktemp("imatrix") / f"m.{suffix}"
    write_imatrix(path, ImportanceMatrix({"b": entry, "a": entry}, (), 1, 2**12))
    read = read_imatrix(path)
    assert list(read.entries) == ["a", "b"]
    np.testing.assert_array_equal(read.importance()["a"], entry.importance.reshape(-1).astype(np.float32))


def test_a_matrix_that_saw_nothing_counts_all_alike() -> None:
    assert Entry(np.array([[0.0, 0.0], [8.0, 2.0]]), np.array([0, 2])).importance.tolist() == [[1, 1], [4, 1]]


def test_a_calibration_goes_by_ggufs_names() -> None:
    matrix = calibrate(load(LLAMA), IDS).imatrix(dataset="text")
    assert "blk.1.ffn_down.weight" in matrix.entries
    assert "output.weight" in matrix.entries
    assert matrix.entries["blk.0.attn_q.weight"].counts.tolist() == [8]
    tied = calibrate(load(GOLDEN / "tiny" / "llama_tied"), IDS).imatrix()
    assert "token_embd.weight" in tied.entries
    seen = calibrate(load(LLAMA), IDS)
    np.testing.assert_array_equal(
        seen.importance({"layers.0.mlp.up.weight": "x"})["x"], matrix.importance()["blk.0.ffn_up.weight"]
    )


# --- bad input -----------------------------------------------------------------------------------------------------


def infinite() -> None:
    model = load(LLAMA)
    weights = dict(model.parts.weights)
    name = "layers.0.attn_norm.weight"
    weights[name] = Dense(np.full(weights[name].shape, np.inf, dtype=np.float32), format="F32")
    list(stream(model, corpus(IDS), weights=weights))


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: calibrate(load(LLAMA), []), ValueError, "the calibration set has shape (0,); give at least one token"),
    (lambda: calibrate(load(LLAMA), [[1], []]), ValueError, "sequence 1 has shape (0,)"),
    (lambda: calibrate(load(LLAMA), [10**6]), ValueError, "input_ids[0, 0] is 1000000, outside the vocabulary"),
    (lambda: calibrate(load(LLAMA), [0.5]), TypeError, "must hold integers, got float64; tokenise text first"),
    (lambda: corpus([1], length=0), ValueError, "sequences of length 0; give at least 1"),
    (lambda: corpus([1], samples=1), ValueError, "samples=1 with seed=None"),
    (lambda: corpus([1], samples=2, seed=1), ValueError, "samples=2 of 1 sequences; give 1 to 1"),
    (infinite, ValueError, "the input of layers.0.attn.q is"),
    (
        lambda: calibrate(load(GOLDEN / "tiny" / "opt"), IDS).imatrix(),
        ValueError,
        "GGUF has no names for OPTForCausalLM",
    ),
    (lambda: channels([]), ValueError, "the calibration set is empty"),
    (lambda: channels([np.array([[np.nan]])]), ValueError, "activations hold nan at token 0, channel 0"),
    (lambda: channels([np.ones((1, 2), dtype=int)]), ValueError, "activations are int64; give floats"),
    (lambda: choose_interval(outliers(), "best"), ValueError, "unknown method 'best'; known: minmax"),
    (lambda: choose_interval(outliers(), "mse", bits=1), ValueError, "bits=1; an affine code has 2 to 16"),
    (lambda: choose_interval(outliers(), "percentile", percentile=0), ValueError, "percentile=0; give more than 0"),
    (lambda: choose_interval(Histogram(0, 1, np.zeros(3, dtype=int)), "mse"), ValueError, "the histogram is empty"),
    (lambda: Entry(np.array([[-1.0]]), np.array([1])), ValueError, "negative or not finite"),
    (lambda: write_imatrix("x.gguf", ImportanceMatrix({})), ValueError, "has no entries; calibrate first"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[text for *_, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [legacy_bytes, gguf_bytes])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, form: Callable[[], bytes]) -> None:
    whole = form()
    path = tmp_path / "cut"
    for end in range(len(whole) - (28 if form is gguf_bytes else 0)):
        if form is legacy_bytes and end in (len(whole) - 12, len(whole) - 16):
            continue  # the two places where older files end
        path.write_bytes(whole[:end])
        with pytest.raises(FileFormatError):
            read_imatrix(path)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([legacy_bytes(), gguf_bytes()])))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "imatrix"
    path.write_bytes(raw)
    with suppress(FileFormatError):
        read_imatrix(path)


# --- planted mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("entry.importance.reshape(-1) * calls", "entry.importance.reshape(-1)"),
        ("-(-int(entry.counts.max()) // size)", "int(entry.counts.max())"),
        ('struct.pack("<ii", calls, values.size)', 'struct.pack("<ii", values.size, calls)'),
    ],
    ids=["not times calls", "tokens for calls", "swapped"],
)
def test_a_wrong_legacy_file_is_seen(tmp_path: Path, text: str, bug: str) -> None:
    mutated(imatrix_page, text, bug).write_imatrix(tmp_path / "m.dat", known())
    assert (tmp_path / "m.dat").read_bytes() != legacy_bytes()


def test_a_calibration_of_another_layer_is_seen() -> None:
    wrong = mutated(calibration_page, "one = channels(seen.sequences)", "one = channels(seen.sequences[:1])")
    assert wrong.calibrate(load(LLAMA), IDS).imatrix().entries["blk.0.attn_q.weight"].counts.tolist() != [8]
