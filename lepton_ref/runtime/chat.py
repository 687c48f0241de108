"""A conversation: turns in the model's own template, and the cache that keeps what was read of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lepton_ref.runtime.generate import generate
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.prompts import has_length_dependent_rope, require_language_model

if TYPE_CHECKING:
    from lepton_ref.runtime.cache import KVCache
    from lepton_ref.runtime.model import Model


class Conversation:
    """What a user and a model say to each other.

    Each turn renders the whole conversation anew; where its ids begin with those that the cache holds, only the rest is
    read, otherwise all of it. So the cache saves time and changes no answer. It is not used with a repetition penalty,
    which is for all ids, nor where RoPE depends on the length.

    Args:
        model: a decoder with a chat template.
        system: what the model is told first, or None.
        options: those of `Model.generate`, for every answer. Turn n draws as sequence n.

    Attributes:
        turns: the messages so far, as templates take them.
    """

    def __init__(self, model: Model, *, system: str | None = None, **options: Any) -> None:
        require_language_model(model, "chat")
        self.model = model
        self._options = options
        self._first = [] if system is None else [{"role": "system", "content": system}]
        plain = options.get("repetition_penalty", 1.0) == 1 and not has_length_dependent_rope(model.program)
        self._keeps = plain
        self.reset()

    def reset(self) -> None:
        """Forget everything but what the model was told first."""
        self.turns = list(self._first)
        self._forget()

    def _forget(self) -> None:
        self._cache: KVCache | None = None
        self._held: list[int] = []

    def ask(self, text: str, *, on_token: Callable[[Token], object] | None = None) -> Generation:
        """The model's answer. A question whose answer fails or is interrupted is no part of the conversation.

        Raises:
            ValueError: no chat template, one that refuses the messages, or what `Model.generate` refuses.
        """
        asked = [*self.turns, {"role": "user", "content": text}]
        template = self.model.tokenizer.apply_chat_template(asked)
        ids = self.model.tokenizer.encode(template, add_special=False)
        cache, held = self._cache, self._held
        self._forget()
        if cache is None or ids[: len(held)] != held or len(ids) == len(held):
            cache, held = (self.model.new_cache() if self._keeps else None), []
        turn = sum(message["role"] == "assistant" for message in asked)
        options = {"sequence": turn, "cache": cache, **self._options}
        answer = generate(self.model, ids[len(held) :], on_token=on_token, **options)
        assert isinstance(answer, Generation), "one prompt has one answer"
        if cache is not None:
            self._cache, self._held = cache, [*ids, *answer.ids][: int(cache.counts[0])]
        self.turns = [*asked, {"role": "assistant", "content": answer.text or ""}]
        return answer
