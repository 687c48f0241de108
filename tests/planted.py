"""A module with one place of its source changed, for tests that show a check to fail."""

from __future__ import annotations

import inspect
from types import ModuleType


def mutated(original: ModuleType, text: str, bug: str) -> ModuleType:
    """The module with this text, which stands in it once, replaced. The original stays as it is."""
    source = inspect.getsource(original)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times; the bug has no place there"
    module = ModuleType(original.__name__)
    exec(compile(source.replace(text, bug), f"<{original.__name__}, mutated>", "exec"), module.__dict__)
    return module
