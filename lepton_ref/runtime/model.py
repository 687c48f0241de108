"""The model as a user holds it: config, weights, a program, and how to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.models.execute import Batch, Run, execute
from lepton_ref.models.inputs import ids_array, integers_like, mask_array, require_in_vocabulary
from lepton_ref.models.program import Program
from lepton_ref.numerics import Precision
from lepton_ref.runtime.cache import ContextOverflowError, KVCache
from lepton_ref.runtime.threads import limited
from lepton_ref.storage import Weight

if TYPE_CHECKING:
    from lepton_ref.files import TensorFile


@dataclass(frozen=True)
class Parts:
    """What `load` puts a model together from.

    Attributes:
        path: the folder or file.
        architecture: the class name in config.json, or GGUF's architecture.
        head: what the program ends with: "causal_lm", "base", "masked_lm", …
        config: the family's record.
        program: the op list.
        weights: by name, as stored or kept decoded.
        file: the tensors as they lie in the file.
        fields: config.json or the GGUF's metadata.
    """

    path: Path
    architecture: str
    head: str
    config: Any
    program: Program
    weights: Mapping[str, Weight]
    file: TensorFile
    fields: Mapping[str, Any]


class Model:
    """A transformer, ready to run. Made by `lepton_ref.load`."""

    def __init__(self, parts: Parts, *, backend: Backend, precision: Precision, threads: int | None = None) -> None:
        self.parts = parts
        self.backend = backend
        self.precision = precision
        self.threads = threads

    @property
    def config(self) -> Any:
        """The model's numbers: a frozen record of its family."""
        return self.parts.config

    @property
    def program(self) -> Program:
        """The list of ops in order."""
        return self.parts.program

    @cached_property
    def _vectors(self) -> dict[str, Array]:
        """Biases and norm weights: small, so they stay decoded."""
        weights = self.parts.weights
        return {name: self.backend.from_numpy(w.decode()) for name, w in weights.items() if len(w.shape) == 1}

    @property
    def is_causal(self) -> bool:
        """Whether each position sees only earlier ones, so that a cache can be kept."""
        return bool(self.program.caches())

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
        """(B, T) -> (B, T, V) logits, or (B, T, D) hidden states for a bare base model.

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
            ValueError: ids outside the vocabulary, shapes that disagree, or an input that the model does not take.
            TypeError: ids that are not integers.
            ContextOverflowError: more tokens than the cache or the model's learned positions have room for.
        """
        with limited(self.threads):
            return self._forward(
                input_ids, attention_mask, position_ids, token_type_ids, cache, last_only, others, watch=None
            )

    def run_with_trace(self, input_ids: Any, **inputs: Any) -> Any:
        """Run `forward` and keep every intermediate: see `lepton_ref.audit.Trace`."""
        from lepton_ref.audit.trace import Trace

        seen: dict[str, HostArray] = {}

        def watch(name: str, value: Array) -> None:
            seen[name] = np.array(self.backend.to_numpy(value))

        names = ("attention_mask", "position_ids", "token_type_ids", "cache", "last_only")
        given = [inputs.pop(name, False if name == "last_only" else None) for name in names]
        with limited(self.threads):
            output = self._forward(input_ids, *given, inputs, watch=watch)
        return Trace(seen, output)

    def _forward(
        self,
        input_ids: Any,
        attention_mask: Any,
        position_ids: Any,
        token_type_ids: Any,
        cache: KVCache | None,
        last_only: bool,
        others: Mapping[str, Any],
        *,
        watch: Callable[[str, Array], None] | None,
    ) -> HostArray:
        for name, value in others.items():
            if value is not None:
                raise ValueError(f"{self.parts.architecture} takes no {name}; it reads input_ids")
        if input_ids is None:
            raise ValueError("input_ids is missing; give integers of shape (B, T)")
        batch = self._batch(ids_array(input_ids), attention_mask, position_ids, token_type_ids, cache, last_only)
        run = Run(self.parts.weights, self._vectors, batch, cache, self.backend, self.precision)
        output = self.backend.to_numpy(execute(run, self.program, watch=watch))
        if cache is not None:
            cache.commit()
        return self._finished(output, batch)

    def _batch(
        self,
        ids: NDArray[np.int64],
        attention_mask: Any,
        position_ids: Any,
        token_type_ids: Any,
        cache: KVCache | None,
        last_only: bool,
    ) -> Batch:
        past = 0 if cache is None else cache.length
        mask = mask_array(attention_mask, (ids.shape[0], ids.shape[1]), past=past)
        require_in_vocabulary(ids, mask, vocab_size=self.config.vocab_size)
        if cache is not None and not self.is_causal:
            raise ValueError(f"{self.parts.architecture} sees both ways and keeps no cache; leave cache out")
        order = np.maximum(np.cumsum(mask, axis=1) - 1, 0) if cache is None else cache.begin(mask)
        positions = integers_like("position_ids", position_ids, order)
        self._require_room(positions, mask)
        integers = {"input_ids": np.where(mask, ids, 0), "position_ids": positions}
        if token_type_ids is not None and not self._reads("token_type_ids"):
            raise ValueError(f"{self.parts.architecture} takes no token_type_ids")
        integers["token_type_ids"] = integers_like("token_type_ids", token_type_ids, np.zeros_like(ids))
        if self._reads("roberta_positions"):
            integers["roberta_positions"] = self._roberta_positions(ids, mask, position_ids, positions)
        length = cache.rope_length if cache is not None else int(positions.max()) + 1
        return Batch(integers, mask, order, positions, length, last_only)

    def _reads(self, name: str) -> bool:
        return any(op.options.get("of") == name for op in self.program.ops)

    def _roberta_positions(
        self, ids: NDArray[np.int64], mask: NDArray[np.bool_], given: Any, positions: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """RoBERTa counts tokens other than padding from pad + 1, and puts padding itself at pad."""
        if given is not None:
            return positions
        pad = self.config.pad_token_id
        counted = mask & (ids != pad)
        return np.where(counted, np.cumsum(counted, axis=1), 0) + pad

    def _require_room(self, positions: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        """Learned positions end; RoPE does not."""
        rows = [
            self.program.weights[op.weights["w"]][0] - op.options["offset"]
            for op in self.program.ops
            if op.options.get("of") == "position_ids"
        ]
        longest = int(positions[mask].max(initial=0)) + 1
        if rows and longest > min(rows):
            raise ContextOverflowError(f"{longest} positions overflow the {min(rows)} that the model has learned")

    def _finished(self, output: HostArray, batch: Batch) -> HostArray:
        if any(op.kind == "first" for op in self.program.ops):
            return output[:, 0]
        if batch.last_only or batch.mask.all():
            return output
        return np.where(batch.mask[:, :, None], output, output.dtype.type(0))

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """A cache for `batch` sequences of up to `capacity` tokens; None grows as needed.

        RoPE whose base depends on the length takes `capacity`, or the length the model was trained for where the
        cache grows, for the cache's whole life: chunking then changes nothing.

        Raises:
            ValueError: a model without causal attention, or numbers below 1.
        """
        if not self.is_causal:
            raise ValueError(f"{self.parts.architecture} sees both ways and keeps no cache; call forward without one")
        length = self.config.max_position_embeddings if capacity is None else capacity
        return KVCache(
            self.program.caches(), batch=batch, capacity=capacity, rope_length=length,
            backend=self.backend, precision=self.precision,
        )  # fmt: skip
