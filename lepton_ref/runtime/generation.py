"""What generating gives: tokens one by one, and the finished sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload


@dataclass(frozen=True)
class Token:
    """One new token.

    Attributes:
        id: its id.
        text: the text that can be shown now, perhaps none; what is held back comes with a later token, and with the
            last one at the latest. None where the model has no tokenizer.
        logprob: the natural logarithm of the probability that the model gives it, before any sampling option.
        sequence: the number of its prompt in the batch.
    """

    id: int
    text: str | None
    logprob: float
    sequence: int = 0


@dataclass(frozen=True)
class Generation(Sequence[int]):
    """One finished sequence; as a sequence it is its new ids.

    Attributes:
        ids: the new ids, a stop id that ended them included.
        text: their text without the stop id or string that ended it; None where the model has no tokenizer.
        logprobs: for each new id the natural logarithm of the probability that the model gives it, before any sampling
            option.
        finish_reason: "stop" (a stop id or string), "length" (max_new_tokens), or "context" (no room for more).
        prompt_ids: the ids of the prompt.
        prefill_s: seconds until the logits of the first new token, all of the batch's prompts together.
        decode_s: seconds from then to the last new id, together with the batch's other sequences.
        proposed: ids that speculation guessed.
        accepted: those of them that were right, each of which has saved a run.
    """

    ids: tuple[int, ...]
    text: str | None
    logprobs: tuple[float, ...]
    finish_reason: str
    prompt_ids: tuple[int, ...] = field(repr=False)
    prefill_s: float = field(compare=False)
    decode_s: float = field(compare=False)
    proposed: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.ids[index]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt_tokens_per_second(self) -> float:
        """This sequence's prompt over the seconds of the prefill."""
        return len(self.prompt_ids) / self.prefill_s

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens after the first over the seconds they took; None where there was but one."""
        return (len(self.ids) - 1) / self.decode_s if len(self.ids) > 1 else None
