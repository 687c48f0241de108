"""The machine that figures are of."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

TOLD = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""Instruction sets that kernels choose by."""


def processor(cpuinfo: str) -> dict[str, Any]:
    """The name, family and model, and the instruction sets of `TOLD`, from the text of /proc/cpuinfo."""
    fields = {}
    for line in cpuinfo.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    has = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or fields.get("CPU part") or platform.machine()
    number = ", ".join(f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    return {"cpu": f"{name} ({number})" if number else name, "instructions": [flag for flag in TOLD if flag in has]}


def _last_level_cache() -> str:
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return sizes[-1].read_text(encoding="ascii").strip() if sizes else "unknown"


def machine() -> dict[str, Any]:
    """What a figure depends on besides versions, and the load before the run."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        **processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": os.cpu_count(),
        "last cache": _last_level_cache(),
        "memory GiB": round(pages * page / 2**30, 1),
        "system": platform.system(),
        "load average before": os.getloadavg()[0],
    }
