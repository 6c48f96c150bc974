"""How a latent crosses from the encoder's segment to the other: its codec, and what each rate costs and scores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from tierwise.artifact import Boundary, Rate
from tierwise.capture import composition_error, cut_points, find_cut, read_graph, split
from tierwise.codecs import Codec, CodecKind, PriorCodec, decode, encode, read_codec, write_codec
from tierwise.operators._session import open_session
from tierwise.operators._weights import weight_bits
from tierwise.tasks import Task

if TYPE_CHECKING:
    from tierwise.operators._work import Work

__all__ = ["LATENT", "TABLES", "Crossing", "crossing_of", "neighbours", "refitted", "to_boundary"]

LATENT = "latent"
"""Name of the tensor in the graph."""

TABLES = "latent.tables"
"""File of the codec's tables in an artifact."""

_BATCH = 64


class Crossing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The codec of a model's latent.

    Attributes:
        kind: Which.
        tables: As `tierwise.codecs` writes them.
        prefixes: How many channels may be sent, all of them last.
        rates: What that costs and scores on the validation split, as the model is now.
        estimated_bits: Of an item by the tables, all channels; None without a prior.
    """

    kind: CodecKind
    tables: bytes
    prefixes: tuple[int, ...]
    rates: tuple[Rate, ...] = ()
    estimated_bits: float | None = None


def crossing_of(codec: Codec, prefixes: tuple[int, ...]) -> Crossing:
    """The crossing that uses ``codec``."""
    kind, tables = write_codec(codec)
    return Crossing(kind=kind, tables=tables, prefixes=prefixes)


def to_boundary(crossing: Crossing, head: onnx.ModelProto) -> Boundary:
    """What stands in the manifest."""
    return Boundary(
        tensor=LATENT, codec=crossing.kind, tables=TABLES, rates=crossing.rates, encoder_bits=weight_bits(head)
    )


def neighbours(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the operators that make and that read the latent, which their integers would round a second time."""
    return tuple(node.name for node in model.graph.node if LATENT in node.output or LATENT in node.input)


def refitted(work: Work) -> Work:
    """``work`` with its two segments made from its model as it is now, and each rate measured on them."""
    assert work.crossing is not None, "only a model with a latent has a crossing"
    head, tail = split(work.model, find_cut(cut_points(read_graph(work.model)), LATENT))
    feeds = work.task.tensors(work.task.splits["calibration"].head(8).items)
    error = composition_error(work.model, (head, tail), feeds)
    crossing = _measured(work.crossing, head, tail, work.task)
    return dataclasses.replace(
        work,
        segments=(head, tail),
        crossing=crossing,
        composition_error=error,
        notes=(*work.notes, _note(crossing, work.task)),
    )


def _measured(crossing: Crossing, head: onnx.ModelProto, tail: onnx.ModelProto, task: Task) -> Crossing:
    """Frames of single items, as a device sends them; answers from what arrives."""
    codec = read_codec(crossing.kind, crossing.tables)
    latents, answers = _ran(head, task), open_session(tail)
    name = tail.graph.output[0].name
    rates, labels = [], task.splits["validation"].labels
    for channels in crossing.prefixes:
        frames = [encode(codec, latents[i : i + 1], channels) for i in range(len(latents))]
        arrived = [np.ascontiguousarray(decode(codec, frame)) for frame in frames]
        given = [
            answers.run([name], {LATENT: np.concatenate(arrived[at : at + _BATCH])})[0]
            for at in range(0, len(arrived), _BATCH)
        ]
        mean = sum(map(len, frames)) / max(1, len(frames))
        value = task.score(np.concatenate(given), labels)
        rates.append(Rate(channels=channels, item_bytes=mean, metric=task.metric, value=float(value)))
    bits = codec.tables.bits(latents) / len(latents) if isinstance(codec, PriorCodec) else None
    return msgspec.structs.replace(crossing, rates=tuple(rates), estimated_bits=bits)


def _ran(head: onnx.ModelProto, task: Task) -> npt.NDArray[Any]:
    items, session = task.splits["validation"].items, open_session(head)
    parts = [
        session.run([LATENT], task.tensors(items[start : start + _BATCH]))[0] for start in range(0, len(items), _BATCH)
    ]
    return np.concatenate(parts)


def _note(crossing: Crossing, task: Task) -> str:
    told = "; ".join(
        f"{rate.channels} channels: {rate.item_bytes:.1f} B an item, {rate.metric} {rate.value:.4f}"
        for rate in crossing.rates
    )
    estimate = ""
    if crossing.estimated_bits is not None:
        estimate = f" (by its tables {crossing.estimated_bits / 8:.1f} B of payload)"
    return f"bottleneck: {crossing.kind} frames on the validation split, {told}{estimate}"
