"""The model as a user holds it: config, weights, a program, and how to compute."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.models.batch import Batch
from lepton_ref.models.execute import Join, Run, execute, joins
from lepton_ref.models.inputs import make_batch, refuse_others
from lepton_ref.models.program import Program
from lepton_ref.numerics import Precision
from lepton_ref.runtime import generate as generating
from lepton_ref.runtime import save, saved_cache, score, show
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.contiguous_cache import ContiguousCache
from lepton_ref.runtime.coverage import Coverage, coverage
from lepton_ref.runtime.fingerprint import fingerprint
from lepton_ref.runtime.kv_codec import Codec, DenseCodec, QuantisedCodec
from lepton_ref.runtime.kv_formats import DENSE, get_kv_format
from lepton_ref.runtime.packing import PackPlace
from lepton_ref.runtime.paged_cache import PagedCache
from lepton_ref.runtime.parts import Parts
from lepton_ref.runtime.threads import ThreadLimit

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from lepton_ref.audit.trace import Trace
    from lepton_ref.text import Tokenizer


class Model:
    """A transformer, ready to run. Made by `lepton_ref.load`."""

    def __init__(
        self,
        parts: Parts,
        *,
        backend: Backend,
        precision: Precision,
        threads: int | None = None,
        kv_cache: str = DENSE,
        pack: PackPlace | None = None,
    ) -> None:
        get_kv_format(kv_cache)
        self.kv_cache = kv_cache
        self.parts = parts
        self.backend, self.precision = backend, precision
        self._limit = ThreadLimit(threads)
        self.threads = self._limit.threads
        self._memo: dict[str, Any] = {} if pack is None else {"pack": pack}

    @property
    def config(self) -> Any:
        """The model's numbers: a frozen record of its family."""
        return self.parts.config

    @property
    def program(self) -> Program:
        """The list of ops in order."""
        return self.parts.program

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back, from the model's own files; needs the extra `text`."""
        from lepton_ref.text import Tokenizer

        if self.parts.file.kind == "gguf":
            return Tokenizer.from_gguf(self.parts.fields, source=str(self.parts.path))
        return Tokenizer.from_folder(self.parts.path)

    @cached_property
    def _vectors(self) -> dict[str, Array]:
        """Biases and norm weights: small, so they stay decoded."""
        weights = self.parts.weights
        return {name: self.backend.from_numpy(w.decode()) for name, w in weights.items() if len(w.shape) == 1}

    @cached_property
    def _joins(self) -> dict[str, Join]:
        return joins(self.program, self.parts.weights, self._vectors, backend=self.backend, precision=self.precision)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the program and of all weights as they are stored; the first call reads the whole file."""
        return fingerprint(self.parts)

    @property
    def is_causal(self) -> bool:
        """Whether each position sees only earlier ones, so that a cache can be kept."""
        return bool(self.program.caches())

    def _how(self) -> dict[str, str]:
        return {"backend": self.backend.name, "precision": self.precision.name}

    def __repr__(self) -> str:
        return show.text(self.parts, self._how())

    def _repr_html_(self) -> str:
        return show.html(self.parts, self._how())

    def coverage(self) -> Coverage:
        """What has computed the ops in the runs so far: a table that also shows itself in a notebook."""
        return coverage(self.program, self.parts.weights, self.precision, self._memo.get("computed", {}))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model down again, complete or not at all: see `lepton_ref.runtime.save.save`."""
        return save.save(self.parts, path, overwrite=overwrite)

    def forward(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        **others: Any,
    ) -> HostArray:
        """(B, T) -> (B, T, V) logits, (B, T, D) hidden states for a bare base model, (B, C) for a sequence classifier.

        Args:
            input_ids: integers (B, T); one flat list is a batch of one.
            attention_mask: (B, T), 0 for padding on either side; (B, past + T) is understood too.
            position_ids: (B, T); by default each token's number among the unmasked tokens of its sequence.
            token_type_ids: (B, T), for the encoders that have them; by default 0.
            cache: from `new_cache`; keys and values of these tokens join it when the run succeeds.
            last_only: give (B, 1, V), each sequence's last unmasked position alone.
            others: inputs of other kinds of models, refused by name.

        Returns:
            float32, or float64 under precision "float64". Outputs at padding are zero.

        Raises:
            ValueError: ids outside the vocabulary, shapes that disagree, an input that the model does not take, or the
                cache of another model.
            TypeError: ids that are not integers, or an argument of an unknown name.
            ContextOverflowError: more tokens than the cache or the model's learned positions have room for.
        """
        return self._forward(
            input_ids, None, attention_mask=attention_mask, position_ids=position_ids, token_type_ids=token_type_ids,
            cache=cache, last_only=last_only, **others,
        )  # fmt: skip

    def run_with_trace(self, input_ids: Any, **inputs: Any) -> Trace:
        """`forward`, with every intermediate kept by its stable name.

        Args:
            input_ids: as `forward` takes them.
            inputs: the other arguments of `forward`.

        Returns:
            A mapping from names such as "layers.3.attn.q" to arrays, and `output`, what `forward` gives.
        """
        from lepton_ref.audit.trace import Trace

        seen: dict[str, HostArray] = {}

        def watch(name: str, value: Array) -> None:
            seen[name] = np.array(self.backend.to_numpy(value))

        return Trace(seen, self._forward(input_ids, watch, **inputs))

    def _forward(
        self,
        input_ids: Any,
        watch: Callable[[str, Array], None] | None,
        /,
        *,
        cache: KVCache | None = None,
        last_only: bool = False,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
        **others: Any,
    ) -> HostArray:
        if others:
            refuse_others(self.parts.architecture, others)
        if input_ids is None:
            raise ValueError("input_ids is missing; give integers of shape (B, T)")
        if cache is not None:
            self._require_own(cache)
        batch = make_batch(
            self.program, self.config, input_ids, attention_mask=attention_mask, position_ids=position_ids,
            token_type_ids=token_type_ids, cache=cache, last_only=bool(last_only),
        )  # fmt: skip
        run = Run(
            self.parts.weights, self._vectors, batch, cache, self.backend, self.precision, self._joins,
            memo=self._memo, threads=self.threads, limit=self._limit,
        )  # fmt: skip
        output = self.backend.to_numpy(execute(run, self.program, watch=watch))
        if cache is not None:
            cache.commit(batch.integers["input_ids"] if position_ids is None else None)
        return self._finished(output, batch)

    def _require_own(self, cache: KVCache) -> None:
        if isinstance(cache, KVCache) and cache.owner is not None and cache.owner() is self:
            return
        if not self.is_causal:
            raise ValueError(f"{self.parts.architecture} sees both ways and keeps no cache; leave cache out")
        if not isinstance(cache, KVCache):
            raise TypeError(
                f"cache must be a KVCache, got {type(cache).__name__}; make one with this model's new_cache()"
            )
        raise ValueError(
            f"the cache was made by another model than this {self.parts.architecture} on backend "
            f"{self.backend.name!r} under precision {self.precision.name!r}; make one with this model's new_cache()"
        )

    def _finished(self, output: HostArray, batch: Batch) -> HostArray:
        kept = batch.mask
        if "first" in self.program.kinds:
            output, kept = output[:, 0], np.any(kept, axis=1)
        elif batch.last_only and kept.shape[1] > 1:
            kept = np.any(kept, axis=1, keepdims=True)
        if not kept.all():
            return np.where(kept[..., None], output, output.dtype.type(0))
        return output if output.flags.writeable else output.copy()

    def embed(
        self,
        texts: Any,
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> HostArray:
        """One vector for each text or list of ids, (N, D): see `lepton_ref.runtime.embed.embed`.

        Pooling and normalisation are what the model's files say unless they are given; where the files are silent,
        the mean over tokens, not normalised.
        """
        from lepton_ref.runtime.embed import embed

        return embed(self, texts, pooling=pooling, normalise=normalise, batch_size=batch_size, progress=progress)

    generate = generating.generate
    stream = generating.stream
    load_cache = saved_cache.load_cache
    log_probabilities = score.log_probabilities
    perplexity = score.perplexity

    def new_cache(
        self,
        batch: int = 1,
        capacity: int | None = None,
        *,
        kv_cache: str | None = None,
        paged: bool | PagedCache = False,
    ) -> KVCache:
        """A cache for `batch` sequences of up to `capacity` tokens; None grows as needed.

        Args:
            batch: how many sequences.
            capacity: the most tokens of a sequence, padding included unless the cache is paged.
            kv_cache: how keys and values are stored: "dense", or a key of `lepton_ref.runtime.kv_formats.KV_FORMATS`,
                such as "int8"; None takes what the model was loaded with.
            paged: whether they lie in blocks of 16 tokens, each sequence's own, which sequences can share: see
                `lepton_ref.runtime.paged_cache`. A paged cache of this model shares its blocks with the new one.

        RoPE whose base depends on the length takes `capacity` for the cache's whole life, so that chunking changes
        nothing. A growing cache takes the length the model was first trained for, and refuses to grow beyond it.

        Raises:
            ValueError: a model without causal attention, numbers below 1, an unknown `kv_cache`, or a cache to share
                blocks with that is another model's or keeps keys and values otherwise.
            TypeError: `paged` is neither of the three.
        """
        form = get_kv_format(self.kv_cache if kv_cache is None else kv_cache)
        if not self.is_causal:
            raise ValueError(f"{self.parts.architecture} sees both ways and keeps no cache; call forward without one")
        ropes = [op.options["rope"] for op in self.program.ops if op.kind == "rope"]
        limits = [rope.original_length for rope in ropes if rope.depends_on_length]
        limit = min(limits) if limits and capacity is None else None
        how = (self.backend, self.precision)
        codec: Codec = DenseCodec(*how) if form is None else QuantisedCodec(form, *how)
        size: dict[str, Any] = {"batch": batch, "capacity": capacity, "rope_length": capacity or limit or 1}
        more: dict[str, Any] = {"limit": limit, "codec": codec, "owner": weakref.ref(self)}
        if isinstance(paged, PagedCache):
            self._require_own(paged)
            if paged.codec.name != codec.name:
                raise ValueError(f"the cache to share blocks with is {paged.codec.name}, not {codec.name}; make two")
            return PagedCache.empty(self.program.caches(), **size, **more, pools=paged.pools)
        if not isinstance(paged, bool):
            raise TypeError(f"paged must be True, False or a paged cache of this model, got {type(paged).__name__}")
        return (PagedCache.empty if paged else ContiguousCache)(self.program.caches(), **size, **more)
