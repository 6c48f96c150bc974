"""What every meter promises, as a check that any implementation can run."""

from __future__ import annotations

from collections.abc import Callable

from tierwise.measure import Meter

__all__ = ["check_meter"]


def check_meter(meter: Meter, work: Callable[[], object]) -> None:
    """Run the contract of `tierwise.measure.Meter` against an implementation.

    Args:
        meter: The meter.
        work: Uses energy that the meter must see.

    Raises:
        AssertionError: A promise is broken; the message says which.
    """
    assert meter.source, "a meter says what it reads"
    outer = meter.start()
    inner = meter.start()
    work()
    first = inner.stop()
    work()
    second = outer.stop()
    for energy in (first, second):
        assert energy.kind in {"measured", "modelled"}, f"energy is measured or modelled, not {energy.kind!r}"
        assert energy.source, "every figure says where it comes from"
    assert first.joules > 0, f"work uses energy, but the meter says {first.joules} J"
    assert second.joules > first.joules, "a measurement that holds another one holds its energy too"
    again = outer.stop()
    assert again.joules >= second.joules, "energy is never given back"
