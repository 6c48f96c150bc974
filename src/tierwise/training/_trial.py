"""What was found of one training: how well a scheme learnt, and what a step of it takes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tierwise._config import Spec

__all__ = ["Held", "Trace", "Trial"]

Count = Annotated[int, msgspec.Meta(ge=0)]


class Trial(Spec, frozen=True, kw_only=True):
    """One training of one scheme.

    Attributes:
        task: Name of the task.
        metric: What is measured on its splits.
        scheme: Its name in the comparison.
        optimiser: How gradients became updates.
        rate: Learning rate of the first step; it falls to zero along a cosine.
        seed: Of the order of items.
        steps: How many were taken.
        batch: Items of each.
        validation: The metric on the validation split, by which rates are chosen.
        test: The metric on the test split.
        test_items: Its size.
        trained_values: Numbers that the scheme changes.
        memory_bytes: What a step takes beyond the frozen weights, as planned: intermediate tensors and state.
        step_s: Median wall time of a step on the machine that compiled it, one thread.
        macs: Multiply-accumulates of a step.
    """

    task: str
    metric: str
    scheme: str
    optimiser: str
    rate: float
    seed: int
    steps: Count
    batch: Count
    validation: float
    test: float
    test_items: Count
    trained_values: Count
    memory_bytes: Count
    step_s: float
    macs: Count


class Held(Spec, frozen=True):
    """A buffer of one step.

    Attributes:
        name: Of the tensor it is made for.
        bytes: Its size.
        first: Number of the operator that makes it.
        last: Number of the last one that reads it.
    """

    name: str
    bytes: Count
    first: Count
    last: Count


class Trace(Spec, frozen=True, kw_only=True):
    """The memory of one step over its operators.

    Attributes:
        scheme: Of which scheme.
        live_bytes: Intermediate tensors alive while each operator runs.
        largest: The largest tensors that live at the peak.
    """

    scheme: str
    live_bytes: tuple[Count, ...]
    largest: tuple[Held, ...]

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at once."""
        return max(self.live_bytes, default=0)
