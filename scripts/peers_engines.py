"""The engines that scripts/peers.py measures, each behind the same few methods.

    vocabulary     how many token ids there are
    reset()        forget every token
    feed(ids)      run these ids as one batch behind those that were fed; the id of the largest logit of the last
    after(ids)     as reset() and feed(ids); where the engine can go back, ids that were fed before are not run again
    versions()     what the figures are of

Logits are made for the last token of a batch alone. Each class imports its library when it is made.
"""

from __future__ import annotations

import copy
import importlib.util
import platform
from pathlib import Path
from typing import Any

import numpy as np

ROOM = 1024
"""Tokens that a context has room for."""


class LlamaCpp:
    """llama.cpp's own functions, its defaults for everything but threads and room."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_load_model_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise ValueError(f"llama.cpp does not load {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = ROOM
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, settings)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.before: tuple[list[int], int] = ([], 0)

    def reset(self) -> None:
        """Forget every token."""
        self.lib.llama_memory_clear(self.memory, False)
        self.before = ([], 0)

    def feed(self, ids: list[int]) -> int:
        """Run these ids behind the others; the id of the largest logit of the last."""
        array = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, len(ids))):
            raise ValueError(f"llama_decode fails on {len(ids)} tokens")
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())

    def after(self, ids: list[int]) -> int:
        """As reset() and feed(ids); ids that were fed before stay, what came behind them is removed."""
        known, token = self.before
        if known != ids or not self.lib.llama_memory_seq_rm(self.memory, 0, len(ids), -1):
            self.reset()
            token = self.feed(ids)
            self.before = (list(ids), token)
        return token

    def versions(self) -> dict[str, str]:
        """What the figures are of."""
        said = self.lib.llama_print_system_info().decode().split("|")
        flags = " ".join(part.split(":")[-1].split("=")[0].strip() for part in said if part.strip())
        return {"llama-cpp-python": self.lib.__version__, "build": flags, "python": platform.python_version()}


class Ours:
    """lepton_ref, by a backend and under a precision."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import lepton_ref

        self.model = lepton_ref.load(path, threads=threads, **options)
        self.vocabulary = self.model.config.vocab_size
        self.kept: tuple[list[int], Any, int] = ([], None, 0)
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self.cache = self.model.new_cache(capacity=ROOM)

    def feed(self, ids: list[int]) -> int:
        """Run these ids behind the others; the id of the largest logit of the last."""
        return int(self.model.forward([ids], cache=self.cache, last_only=True)[0, -1].argmax())

    def after(self, ids: list[int]) -> int:
        """As reset() and feed(ids); of ids that were fed before the cache is copied."""
        known, cache, token = self.kept
        if known != ids:
            self.reset()
            token = self.feed(ids)
            cache = self.cache
            self.kept = (list(ids), cache, token)
        self.cache = copy.deepcopy(cache)
        return token

    def versions(self) -> dict[str, str]:
        """What the figures are of."""
        return our_versions()


def our_versions() -> dict[str, str]:
    """lepton_ref's version and those of what it stands on."""
    import lepton_ref

    found = {"lepton_ref": lepton_ref.__version__, "numpy": np.__version__, "python": platform.python_version()}
    if importlib.util.find_spec("numba") is not None:
        from importlib.metadata import version

        found |= {"numba": version("numba")}
    return found


class Transformers:
    """transformers on the values that the file decodes to: "float32", "bfloat16", or "int8", Linear made dynamic."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import torch

        from lepton_ref.golden import gguf_peer, real

        self.torch = torch
        torch.set_num_threads(threads)
        config = gguf_peer.config(Path(path))
        model = real.decoder_class(config)(config)
        state = gguf_peer.state_dict(Path(path))
        missing, left = model.load_state_dict(state, strict=False)
        if set(missing) - {"lm_head.weight"} or left:
            raise ValueError(f"the model's weights and the file's differ: {[*missing, *left][:3]}")
        model.tie_weights()
        model.eval()
        if options["dtype"] == "int8":
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        else:
            model = model.to(getattr(torch, options["dtype"]))
        self.model = model
        self.vocabulary = config.vocab_size
        self.before: tuple[list[int], int] = ([], 0)
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)
        self.before = ([], 0)

    def feed(self, ids: list[int]) -> int:
        """Run these ids behind the others; the id of the largest logit of the last."""
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([ids]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())

    def after(self, ids: list[int]) -> int:
        """As reset() and feed(ids)."""
        self.reset()
        return self.feed(ids)

    def versions(self) -> dict[str, str]:
        """What the figures are of."""
        import transformers

        return {
            "torch": self.torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }


KINDS = {"llama_cpp": LlamaCpp, "lepton_ref": Ours, "transformers": Transformers}


def load(question: dict[str, Any]) -> Any:
    """The engine that the question asks for."""
    if question["kind"] == "kernels":
        from peers_kernels import Kernels

        return Kernels(question["path"], question["threads"], question["options"])
    if question["kind"] == "onnxruntime":
        from peers_onnx import OnnxRuntime

        return OnnxRuntime(question["path"], question["threads"], question["options"])
    return KINDS[question["kind"]](question["path"], question["threads"], question["options"])
