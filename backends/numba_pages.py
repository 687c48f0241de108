"""The compiler's own code and tables, which lie in memory though nothing is compiled any more: 60 MB and more.

When kernels come from the disk LLVM only puts them in their place. What it is made of is a file's, mapped and never
written, so its pages can be let go of: they come back from the system's cache of files where they are needed once more.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
LIBRARY = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p .*/libllvmlite\.so$", re.MULTILINE)
ANONYMOUS = re.compile(r"^Anonymous: +(\d+) kB$", re.MULTILINE)


def let_go_of_compiler() -> int:
    """Let go of the pages of LLVM that are as in its file, where the system lists them -> how many bytes are mapped."""
    count = 0
    with suppress(OSError, AttributeError):  # another system
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, size in unwritten():
            if madvise(start, size, mmap.MADV_DONTNEED) == 0:
                count += size
    return count


@cache
def unwritten() -> tuple[tuple[int, int], ...]:
    """Address and size of what is mapped of LLVM for reading alone, and of which no page was written before that.

    Tables that the loader filled with addresses were: those pages are nowhere but in memory.
    """
    return tuple(_found(SMAPS.read_text(encoding="utf-8", errors="replace")))


def _found(listed: str) -> list[tuple[int, int]]:
    """What `unwritten` finds in a list of mappings."""
    found = []
    for listing in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", listed, flags=re.MULTILINE):
        place, written = LIBRARY.match(listing), ANONYMOUS.search(listing)
        if place is not None and written is not None and int(written[1]) == 0:
            start, end = (int(number, 16) for number in place.groups())
            found.append((start, end - start))
    return found
