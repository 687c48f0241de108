"""Text as it is generated, up to a stop string: whole characters only, and never a part of what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_ref.text import Tokenizer


class StopText:
    """Pieces of a text in, what may be shown out. The end of a piece that may begin a stop string is held back.

    The stop string that is complete first ends the text, the longest where several are complete with one character:
    so how the text is cut into pieces changes nothing.

    Attributes:
        stopped: whether a stop string has come.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """What this piece allows to be shown; nothing once a stop string has come."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back; it began no stop string after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The most characters at the end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next(length for length in range(longest, -1, -1) if text.endswith(stop[:length]))


class Writer:
    """The ids of one sequence in, its text out.

    Args:
        tokenizer: the model's. A model may have more rows than its tokenizer has tokens; they have no text.
        stops: stop strings.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._stream = tokenizer.stream()
        self._text = StopText(stops)
        self._vocab_size = tokenizer.vocab_size

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._text.stopped

    def push(self, index: int) -> str:
        """The text that this id completes."""
        return "" if index >= self._vocab_size else self._text.push(self._stream.push(index))

    def finish(self) -> str:
        """What is left when the sequence ends."""
        return self._text.push(self._stream.finish()) + self._text.finish()
