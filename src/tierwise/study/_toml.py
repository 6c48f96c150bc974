"""A spec as TOML text, so that what was asked can be read, kept and asked again."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from tierwise._config import Spec

__all__ = ["toml_text"]


def toml_text(spec: Spec) -> str:
    """TOML that decodes to an equal spec; values that are None are left out.

    Nested tables get a section each where they stand at the top, else they are inline.
    """
    plain, sections = [], []
    for name, value in msgspec.to_builtins(spec).items():
        if isinstance(value, dict):
            sections.append(f"\n[{_key(name)}]\n" + _lines(value))
        elif isinstance(value, list | tuple) and value and all(isinstance(entry, dict) for entry in value):
            sections += [f"\n[[{_key(name)}]]\n" + _lines(entry) for entry in value]
        elif value is not None:
            plain.append(f"{_key(name)} = {_value(value)}\n")
    return "".join(plain + sections)


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
            return json.dumps(value).replace("\x7f", "\\u007f")
        case dict():
            inside = ", ".join(f"{_key(name)} = {_value(entry)}" for name, entry in value.items() if entry is not None)
            return f"{{ {inside} }}" if inside else "{}"
        case list() | tuple():
            return "[" + ", ".join(_value(entry) for entry in value if entry is not None) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no form in TOML")
