"""SI units: parsing what people type, printing what people read. Inside, every quantity is SI and its name says so."""

from __future__ import annotations

import re

from tierwise._errors import InputError

__all__ = [
    "format_bytes",
    "format_frac",
    "format_rate",
    "format_seconds",
    "parse_bytes",
    "parse_rate",
    "parse_seconds",
]

_NUMBER = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s.].*?)?\s*$")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}


def _parse(text: str, units: dict[str, float], quantity: str) -> float:
    match = _NUMBER.match(text)
    unit = match.group(2) if match else None
    if match is None or unit not in units:
        example = f"100{next(iter(units))}"
        raise InputError(
            f"a {quantity} must be a number and one of the units {', '.join(units)}",
            got=repr(text),
            fix=f"Write it like {example}",
        )
    value = float(match.group(1)) * units[unit]
    if value < 0:
        raise InputError(f"a {quantity} must not be negative", got=repr(text))
    return value


def parse_seconds(text: str) -> float:
    """Seconds from text such as ``100ms``.

    Raises:
        InputError: No number, no unit, an unknown unit or a negative value.

    Example:
        >>> parse_seconds("100ms")
        0.1
    """
    return _parse(text, _SECONDS, "duration")


def parse_bytes(text: str) -> int:
    """Bytes from text such as ``4GB`` (10^9) or ``4GiB`` (2^30).

    Raises:
        InputError: As `parse_seconds`.
    """
    return round(_parse(text, _BYTES, "size"))


def parse_rate(text: str) -> float:
    """Bits per second from text such as ``200Mbit/s``.

    Raises:
        InputError: As `parse_seconds`.
    """
    return _parse(text, _RATES, "rate")


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    # A value that rounds up to the next unit's 1 is printed there: 999.9996 ms is 1 s, never 1e+03 ms.
    size, unit = next((step for step in steps if abs(value) >= step[0] * 0.9995), steps[-1])
    scaled = value / size
    return f"{scaled:.3g} {unit}" if abs(scaled) < 999.5 else f"{scaled:.0f} {unit}"


def format_seconds(seconds: float) -> str:
    """Three significant digits with the fitting unit.

    Example:
        >>> format_seconds(0.01234), format_seconds(0)
        ('12.3 ms', '0 s')
    """
    if seconds == 0:
        return "0 s"
    return _scaled(seconds, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def format_bytes(size: float) -> str:
    """Three significant digits in powers of 1000.

    Example:
        >>> format_bytes(1234), format_bytes(64)
        ('1.23 kB', '64 B')
    """
    return _scaled(size, [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")])


def format_rate(bits_per_second: float) -> str:
    """Three significant digits in powers of 1000.

    Example:
        >>> format_rate(2e8)
        '200 Mbit/s'
    """
    return _scaled(bits_per_second, [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1, "bit/s")])


def format_frac(frac: float) -> str:
    """A fraction as a percentage with one decimal.

    Example:
        >>> format_frac(0.9876)
        '98.8 %'
    """
    return f"{100 * frac:.1f} %"
