"""TOML files to frozen specs. Every error carries the file and the path inside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tierwise._errors import SpecError

__all__ = ["Spec", "convert", "load_toml", "loads_toml"]

T = TypeVar("T")


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything that is asked for in a file: frozen, and unknown keys are errors.

    Subclasses repeat ``frozen=True, kw_only=True``: the first for type checkers, the second because msgspec does not
    inherit it.
    """


def convert(value: object, kind: type[T], *, where: str) -> T:
    """Turn plain data (dicts, lists, numbers) into ``kind``.

    Raises:
        SpecError: The data does not fit; the message ends with the path inside, as ``$.tiers[0].cpus``.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SpecError(str(error), where=where) from error


def loads_toml(text: str, kind: type[T], *, where: str) -> T:
    """Decode TOML text into ``kind``; ``where`` names the text in errors.

    Raises:
        SpecError: Not TOML, an unknown key, a wrong type, a value out of bounds or a number that is not finite.
    """
    try:
        spec = msgspec.toml.decode(text, type=kind)
        path = next(_endless(msgspec.toml.decode(text), "$"), None)
    except msgspec.ValidationError as error:
        raise SpecError(str(error), where=where, fix="Correct that key and run the command again") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise SpecError(f"the text must be valid TOML ({error})", where=where) from error
    if path is not None:
        raise SpecError(
            "a number must be finite", where=f"{where}: {path}", fix="Correct that key and run the command again"
        )
    return spec


def _endless(value: object, path: str) -> Iterator[str]:
    """Where ``inf`` and ``nan`` stand, which TOML has and no bound of a spec excludes."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _endless(one, f"{path}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _endless(one, f"{path}[{i}]")


def load_toml(path: Path, kind: type[T]) -> T:
    """`loads_toml` from a UTF-8 file.

    Raises:
        SpecError: As `loads_toml`, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the file must be readable UTF-8 text ({error})", where=path) from error
    return loads_toml(text, kind, where=str(path))
