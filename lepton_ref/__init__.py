"""The reference for transformer inference: every op is its real-number value, rounded once.

`lepton_ref.load(path)` opens a model; the sub-packages are the parts it is made of. Every name is imported when it is
first used, so that `import lepton_ref` itself costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_ref import audit, compress, conformance, files, models, numerics, ops, runtime, storage, text
    from lepton_ref.runtime.load import load
    from lepton_ref.runtime.model import Model

__version__ = "0.1.0"

__all__ = [
    "Model",
    "__version__",
    "audit",
    "compress",
    "conformance",
    "files",
    "load",
    "models",
    "numerics",
    "ops",
    "runtime",
    "storage",
    "text",
]

_DEFINED_IN = {"load": "lepton_ref.runtime.load", "Model": "lepton_ref.runtime.model"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _DEFINED_IN:
        return getattr(import_module(_DEFINED_IN[name]), name)
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
