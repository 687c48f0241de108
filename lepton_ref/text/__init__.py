"""Text in and out of token ids: the extra `text` (`pip install "lepton-ref[text]"`). The core works on ids alone."""

from __future__ import annotations

from lepton_ref.text.stream import TextStream
from lepton_ref.text.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer"]
