"""Conformance checks and fakes, for the tests of this project and of whoever extends it."""

from tierwise.testing._clock import FakeClock

__all__ = ["FakeClock"]
