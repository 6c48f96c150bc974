import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise._units import (
    format_bytes,
    format_frac,
    format_rate,
    format_seconds,
    parse_bytes,
    parse_rate,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("1.5 s", 1.5), ("2min", 120), ("1e-3s", 1e-3), ("7us", 7e-6), (".5h", 1800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


def test_sizes_and_rates() -> None:
    assert parse_bytes("4GB") == 4_000_000_000
    assert parse_bytes("4GiB") == 4 * 2**30
    assert parse_rate("200Mbit/s") == 2e8


@pytest.mark.parametrize("text", ["", "100", "ms", "12 parsecs", "-5ms", "1..2s", "nan s", "inf s", "1 ms ms"])
def test_what_is_not_a_duration_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(InputError, match="duration") as caught:
        parse_seconds(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01234, "12.3 ms"), (0.9999, "1 s"), (0.99949, "999 ms"), (5e-6, "5 µs"), (123456.0, "123456 s"), (0, "0 s")],
)
def test_printing_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.floats(1e-9, 1e9))
def test_printed_durations_keep_three_digits_and_never_an_exponent(seconds: float) -> None:
    number, unit = format_seconds(seconds).split()
    assert "e" not in number
    assert parse_seconds(number + unit) == pytest.approx(seconds, rel=6e-3)


def test_printing_the_rest() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(999_600) == "1 MB"
    assert format_rate(1e6) == "1 Mbit/s"
    assert format_frac(0.98765) == "98.8 %"
