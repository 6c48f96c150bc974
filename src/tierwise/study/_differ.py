"""Naming where two specs differ."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["first_difference"]


def first_difference(stored: object, asked: object) -> tuple[str, str, str] | None:
    """The first place where two structs of plain data differ.

    Returns:
        Its path, as ``strategies[1].chain``, and both values as short text; None where they are equal.
    """
    return _walk(msgspec.to_builtins(stored), msgspec.to_builtins(asked), "")


def _walk(stored: Any, asked: Any, path: str) -> tuple[str, str, str] | None:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for name in [*stored, *(name for name in asked if name not in stored)]:
            found = _walk(stored.get(name), asked.get(name), f"{path}.{name}" if path else str(name))
            if found is not None:
                return found
        return None
    if isinstance(stored, list | tuple) and isinstance(asked, list | tuple) and len(stored) == len(asked):
        for index, (before, after) in enumerate(zip(stored, asked, strict=True)):
            found = _walk(before, after, f"{path}[{index}]")
            if found is not None:
                return found
        return None
    return None if stored == asked else (path, _short(stored), _short(asked))


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
