"""What a user needs of a deployment."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec

__all__ = ["AccuracyDrop", "Need", "Quantity"]

Quantity = Literal["latency", "accuracy-drop", "energy", "bytes", "size", "training-cost"]
"""What can be bounded or made as small as possible. ``bytes``: of one request over all links; ``size``: of the
artifact; ``training-cost``: CPU seconds of training and calibration."""

NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class AccuracyDrop(Spec, frozen=True, kw_only=True):
    """How much accuracy may be lost against the baseline.

    Attributes:
        frac: In units of accuracy (0.01 is one percentage point), or as a share of the baseline's.
        relative: Which of both.
    """

    frac: NotNegative
    relative: bool = False

    def allowed(self, baseline: float) -> float:
        """The largest loss, in units of accuracy."""
        return self.frac * baseline if self.relative else self.frac


class Need(Spec, frozen=True, kw_only=True):
    """Constraints and an objective; what is None is not constrained.

    Attributes:
        max_latency_s: Of the quantile ``at``.
        at: Quantile of latency that is bounded and minimised.
        max_accuracy_drop: Against the baseline.
        max_energy_j: Of one request.
        max_bytes: Of one request over all links, both ways.
        max_size_bytes: Of the artifact.
        max_training_s: CPU seconds of training and calibration.
        tiers: Tiers that may compute; passing requests on is allowed to all.
        minimize: What decides among those that fit.
        margin_frac: Largest relative difference that does not matter.
        tests: ``blocked``, or ``paper``: exactly the published study's.
    """

    max_latency_s: NotNegative | None = None
    at: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    max_accuracy_drop: AccuracyDrop | None = None
    max_energy_j: NotNegative | None = None
    max_bytes: NotNegative | None = None
    max_size_bytes: NotNegative | None = None
    max_training_s: NotNegative | None = None
    tiers: tuple[str, ...] | None = None
    minimize: Quantity = "latency"
    margin_frac: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    tests: Literal["blocked", "paper"] = "blocked"

    @property
    def constrained(self) -> bool:
        """Whether anything is constrained."""
        bounds = (
            self.max_latency_s,
            self.max_accuracy_drop,
            self.max_energy_j,
            self.max_bytes,
            self.max_size_bytes,
            self.max_training_s,
            self.tiers,
        )
        return any(bound is not None for bound in bounds)
