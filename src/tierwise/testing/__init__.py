"""Conformance checks and fakes, for the tests of this project and of whoever extends it."""

from tierwise.testing._clock import FakeClock
from tierwise.testing._links import check_link_means
from tierwise.testing._meters import check_meter
from tierwise.testing._operators import check_operator

__all__ = ["FakeClock", "check_link_means", "check_meter", "check_operator"]
