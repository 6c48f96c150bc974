"""What a decision is made from: plain values, whether they were measured here or imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.measure import Energy, Samples

__all__ = ["Deployment", "Evidence", "Hop", "Judged", "LinkFigures", "Subject", "SubjectKind", "joined"]

SubjectKind = Literal["image", "text", "tensor", "unknown"]


@final
class LinkFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A link as the analytic model takes it.

    Attributes:
        lower: Tier nearer to the device.
        upper: Tier farther from it.
        up_bps: Bits per second from lower to upper.
        down_bps: The same back.
        rtt_s: Round-trip time of a small message.
        source: ``calibrated`` (measured before the study, without its requests) or ``asked``.
    """

    lower: str
    upper: str
    up_bps: float
    down_bps: float
    rtt_s: float
    source: str


@final
class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One link that the requests of a deployment cross.

    Attributes:
        lower: Tier nearer to the device.
        upper: Tier farther from it.
        up_bytes: Median bytes upwards.
        down_bytes: Median bytes back.
        carries: ``input``: the request as the device holds it; ``boundary``: tensors between two segments.
        measured_s: Median time on it, both ways together; None where it was not measured.
    """

    lower: str
    upper: str
    up_bytes: float
    down_bytes: float
    carries: Literal["input", "boundary"]
    measured_s: float | None = None


@final
class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy for one subject: an operator chain on a placement, and what is known about it.

    Attributes:
        subject: Name of the subject.
        id: Name of the strategy, unique for the subject (``sptq@edge``).
        name: The operator chain (``sptq``).
        placement: Tiers of its segments joined by ``|``.
        tiers: Every tier that its requests pass.
        accuracies: By metric, in [0, 1].
        accuracy_items: Items the accuracies were measured on; None where unknown.
        hops: Links crossed, from the device up; None where nothing is known of them.
        artifact_bytes: Size of the artifact; None where unknown.
        training_s: CPU seconds of training and calibration; None where unknown.
        energy: Of one request; None where unknown.
        requests: Requests sent, failed ones included.
        errors: Failed ones.
    """

    subject: str
    id: str
    name: str
    placement: str
    tiers: tuple[str, ...]
    accuracies: dict[str, float] = {}
    accuracy_items: int | None = None
    hops: tuple[Hop, ...] | None = None
    artifact_bytes: int | None = None
    training_s: float | None = None
    energy: Energy | None = None
    requests: int = 0
    errors: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What names it in `Evidence`."""
        return (self.subject, self.id)

    @property
    def wire_bytes(self) -> float | None:
        """Bytes of one request over all links, both ways."""
        return None if self.hops is None else sum(hop.up_bytes + hop.down_bytes for hop in self.hops)


@final
class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is deployed: a model with its data.

    Attributes:
        name: Unique.
        kind: What its inputs are.
        metric: The accuracy metric that decisions use; empty where no accuracy is known.
        baseline: Name of the chain that accuracy is lost against (``identity``); empty where there is none.
        paired: Whether samples of different strategies with one block id belong together.
    """

    name: str
    kind: SubjectKind
    metric: str
    baseline: str
    paired: bool


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """Answers to every item of the test split, in its order, which is the same for all deployments of a subject.

    Attributes:
        variant: What answered; deployments of one variant have the same answers, and nothing is compared there.
        predicted: Class that was answered, [n].
        labels: Class that it is, [n].
    """

    variant: str
    predicted: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer was right, [n]."""
        same: npt.NDArray[np.bool_] = self.predicted == self.labels
        return same


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """All that statistics and recommendations are computed from.

    Attributes:
        name: Name of the study.
        source: ``study`` or ``import``.
        subjects: In order.
        deployments: In order; every one has samples.
        links: Figures of the links, from the device up; empty where unknown.
        samples: Latencies by `Deployment.key`.
        judged: Answers to test items by `Deployment.key`, where they are known.
        notes: What a reader should know.
    """

    name: str
    source: Literal["study", "import"]
    subjects: tuple[Subject, ...]
    deployments: tuple[Deployment, ...]
    links: tuple[LinkFigures, ...]
    samples: Mapping[tuple[str, str], Samples]
    judged: Mapping[tuple[str, str], Judged]
    notes: tuple[str, ...] = ()

    def subject(self, name: str | None) -> Subject:
        """The subject called ``name``; where there is one only, None names it.

        Raises:
            InputError: No such subject, or several and none named.
        """
        for subject in self.subjects:
            if subject.name == name or (name is None and len(self.subjects) == 1):
                return subject
        names = ", ".join(subject.name for subject in self.subjects)
        raise InputError(f"the subject must be one of {names}", got=name, fix="Name it with --subject")

    def of(self, subject: Subject) -> tuple[Deployment, ...]:
        """The deployments of a subject."""
        return tuple(one for one in self.deployments if one.subject == subject.name)

    def accuracy_lost(self, deployment: Deployment) -> float | None:
        """Accuracy of the baseline less that of the deployment; negative where it gained; None where unknown.

        The baseline on the same placement where there is one, since an imported study may hold an accuracy per tier.
        """
        subject = self.subject(deployment.subject)
        own = deployment.accuracies.get(subject.metric)
        base = self.baseline(deployment)
        before = None if base is None else base.accuracies.get(subject.metric)
        return None if own is None or before is None else before - own

    def baseline(self, deployment: Deployment) -> Deployment | None:
        """What a deployment's accuracy is compared with; None where there is no baseline with an accuracy."""
        subject = self.subject(deployment.subject)
        able = [one for one in self.of(subject) if one.name == subject.baseline and subject.metric in one.accuracies]
        same = [one for one in able if one.placement == deployment.placement]
        return next(iter([*same, *able]), None)


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Several studies as one, such as one of images and one of texts on the same tiers.

    Links are kept where all studies had the same ones (to one part in a hundred); else link sweeps are not possible.

    Raises:
        InputError: None, or a subject occurs in two of them.
    """
    if not parts:
        raise InputError("a decision needs one study at least")
    if len(parts) == 1:
        return parts[0]
    names = [subject.name for part in parts for subject in part.subjects]
    if len(set(names)) != len(names):
        raise InputError("studies that are taken together must have different subjects", got=", ".join(names))
    alike = all(_alike(parts[0].links, part.links) for part in parts)
    return Evidence(
        name=" + ".join(part.name for part in parts),
        source="study" if all(part.source == "study" for part in parts) else "import",
        subjects=tuple(subject for part in parts for subject in part.subjects),
        deployments=tuple(one for part in parts for one in part.deployments),
        links=parts[0].links if alike else (),
        samples={key: value for part in parts for key, value in part.samples.items()},
        judged={key: value for part in parts for key, value in part.judged.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _alike(one: Sequence[LinkFigures], other: Sequence[LinkFigures]) -> bool:
    if [(link.lower, link.upper) for link in one] != [(link.lower, link.upper) for link in other]:
        return False
    pairs = [
        figures
        for a, b in zip(one, other, strict=True)
        for figures in ((a.up_bps, b.up_bps), (a.down_bps, b.down_bps), (a.rtt_s + 0.01, b.rtt_s + 0.01))
    ]
    return all(abs(first - second) <= 0.01 * max(first, second) for first, second in pairs)
