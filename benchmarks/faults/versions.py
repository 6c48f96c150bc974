"""Which of a model's variants may answer a request, while new ones are loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Versions"]


@dataclass
class Versions:
    """Which variant may answer: the one that was acknowledged last, or one whose load began since."""

    expected: list[list[Any]]
    spans: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """The variant whose load began last; 1 before the first."""
        return self.spans[-1][0] if self.spans else 1

    def begin(self, number: int) -> None:
        """A load of variant ``number`` begins."""
        self.spans.append((number, time.monotonic(), float("inf")))

    def end(self) -> None:
        """It was acknowledged: who asks from now on gets it, or a later one."""
        number, begun_s, _ = self.spans[-1]
        self.spans[-1] = (number, begun_s, time.monotonic())
        self.spans = self.spans[-50:]

    def right(self, asked_s: float, sample: int, answer: Any) -> bool:
        """Whether ``answer`` to a request of ``asked_s`` is one that may be given."""
        spans = list(self.spans)
        acknowledged = [i for i, (_, _, ended_s) in enumerate(spans) if ended_s <= asked_s]
        numbers = {number for number, _, _ in spans[acknowledged[-1] if acknowledged else 0 :]}
        return any(np.allclose(answer, self.expected[number][sample], atol=1e-4) for number in numbers)
