"""Scenarios, load generation, records, environment and statistics. Knows only an abstract system under test; torch-free."""

from tierwise.measure._progress import Advance, Progress, Silent

__all__ = ["Advance", "Progress", "Silent"]
