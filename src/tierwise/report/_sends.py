"""What a device stores, computes and sends under each strategy, by the three measures of SC2.

Source of the measures: Matsubara et al. 2023, SC2 benchmark (arXiv 2203.08875): bits of the encoder's parameters, bytes
of an item, the task's metric. Beside them stands the encoder's arithmetic.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any, final

from tierwise.artifact import ImageInput, Manifest
from tierwise.planner import Evidence, pareto
from tierwise.study import Strategy, StudyData, Variant

__all__ = ["Sent", "sends"]


@final
@dataclass(frozen=True)
class Sent:
    """One way to send: a variant that the device runs so much of, at one rate.

    Attributes:
        strategies: Names of the strategies that send so.
        chain: Operators.
        method: What it is compared as: the presets of a coded latent, ``partition``, ``whole input``, ``all local``.
        artifact: Ways with the same one are rates of each other.
        channels: Of a coded latent, how many are sent; None where there is none.
        frame_bytes: Mean frame of one item on the validation split; None where no latent is coded.
        link_bytes: Of a request on the device's link, protocol included: the median of what was measured. At a rate
            that did not run, that of the whole latent less the difference of their frames. None where nothing ran.
        metric: Name of the metric.
        validation: It on the validation split, of a coded latent from what arrives; None where not measured.
        test: It on the test split; None where not measured.
        device_bits: Of all parameters that the device holds; without those figures (artifacts of earlier releases), of
            the files that hold them.
        device_macs: Multiply-accumulates of an item on the device.
        on_front: Whether no other way is as good by all of link_bytes, device_bits and test, and better by one.
    """

    strategies: str
    chain: str
    method: str
    artifact: str
    channels: int | None
    frame_bytes: float | None
    link_bytes: float | None
    metric: str
    validation: float | None
    test: float | None
    device_bits: int
    device_macs: int
    on_front: bool = False

    @property
    def drawn(self) -> bool:
        """Whether all three measures are known."""
        return self.link_bytes is not None and self.test is not None


def sends(data: StudyData, evidence: Evidence | None) -> list[Sent]:
    """Every way to send, the fewest bytes first; empty where no variant codes a latent.

    Args:
        data: The study.
        evidence: Of it; None where nothing has been answered yet.
    """
    if not any(part.boundary for one in data.variants.values() for part in one.manifest.segments):
        return []
    bytes_of = {} if evidence is None else {one.id: one.hops or () for one in evidence.deployments}
    groups: dict[tuple[str, int], list[Strategy]] = {}
    for strategy in data.strategies:
        groups.setdefault((strategy.variant, _held(strategy)), []).append(strategy)
    found = []
    for (key, held), own in groups.items():
        measured = [
            # The link above the tier of the first segment; of the whole input, the first it crosses.
            hops[one.path.index(one.segments[0]) if held else 0].up_bytes if _sends(one, held) else 0.0
            for one in own
            if (hops := bytes_of.get(one.id)) is not None
        ]
        link_bytes = statistics.median(measured) if measured else None
        found += _ways(data.variants[key], held, own, link_bytes, data.metric)
    found.sort(key=lambda one: (one.link_bytes is None, one.link_bytes or 0.0, one.device_bits))
    return _with_front(found)


def _held(strategy: Strategy) -> int:
    """Segments on the device: of a cut model those of its first tier; of a whole one all, or none if it runs above."""
    if len(set(strategy.segments)) == 1 and strategy.segments[0] != strategy.path[0]:
        return 0
    return strategy.segments.count(strategy.segments[0])


def _sends(strategy: Strategy, held: int) -> bool:
    return held < len(strategy.segments)


def _ways(variant: Variant, held: int, own: list[Strategy], link_bytes: float | None, metric: str) -> list[Sent]:
    manifest = variant.manifest
    tests = {one.metric: one.value for one in manifest.accuracy if one.split == "test"}
    sent = held < len(own[0].segments)
    boundary = manifest.segments[held - 1].boundary if held and sent else None
    whole = Sent(
        strategies=", ".join(dict.fromkeys(one.name for one in own)),
        chain=manifest.provenance.chain,
        method=_method(manifest, held, sent, coded=boundary is not None),
        artifact=f"{variant.key}/{held}",
        channels=None,
        frame_bytes=None,
        link_bytes=link_bytes,
        metric=metric,
        validation=None,
        test=tests.get(metric),
        device_bits=_device_bits(manifest, held),
        device_macs=sum(part.macs for part in manifest.segments[:held]),
    )
    if boundary is None:
        return [whole]
    full = boundary.rates[-1]
    return [
        dataclasses.replace(
            whole,
            channels=rate.channels,
            frame_bytes=rate.item_bytes,
            link_bytes=None if link_bytes is None else link_bytes - full.item_bytes + rate.item_bytes,
            validation=rate.value,
            test=whole.test if rate is full else rate.test,
        )
        for rate in boundary.rates
    ]


def _method(manifest: Manifest, held: int, sent: bool, *, coded: bool) -> str:
    if not sent:
        return "all local"
    if not held:
        encoding = f" ({manifest.input.encoding})" if isinstance(manifest.input, ImageInput) else ""
        return f"whole input{encoding}"
    if not coded:
        return "plain cut"
    specs = {str(spec.get("op")): spec for spec in manifest.provenance.specs}
    return "+".join(_named(name, specs) for name in manifest.provenance.chain.split("+"))


def _named(name: str, specs: dict[str, dict[str, Any]]) -> str:
    return str(specs.get(name, {}).get("preset", name))


def _device_bits(manifest: Manifest, held: int) -> int:
    parts = manifest.segments[:held]
    known = [part.weight_bits for part in parts if part.weight_bits is not None]
    if len(known) == len(parts):
        return sum(known)
    sizes = {file.name: file.bytes for file in manifest.files}
    return sum(
        part.boundary.encoder_bits if part.boundary is not None else 8 * sizes.get(part.file, 0) for part in parts
    )


def _with_front(found: list[Sent]) -> list[Sent]:
    drawn = [
        (i, (one.link_bytes, one.device_bits, -one.test))
        for i, one in enumerate(found)
        if one.link_bytes is not None and one.test is not None
    ]
    front = {drawn[i][0] for i in pareto([measures for _, measures in drawn])}
    return [dataclasses.replace(one, on_front=i in front) for i, one in enumerate(found)]
