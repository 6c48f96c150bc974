"""Which processor this is, as far as machine code for it is concerned."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["processor_name"]


@cache
def processor_name() -> str:
    """Architecture and model, such as ``x86_64 AMD EPYC, family 25, model 17`` (Linux), else what Python knows."""
    wanted = {"model name": "", "cpu family": "family ", "model": "model ", "CPU part": "part "}
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found.setdefault(key.strip(), wanted[key.strip()] + value.strip())
    except OSError:
        pass
    model = ", ".join(found[key] for key in wanted if key in found)
    return f"{platform.machine()} {model or platform.processor() or 'unknown'}"
