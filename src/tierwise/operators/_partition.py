"""Cutting the model in a head for the lower tier and a tail for the upper one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import msgspec
import numpy.typing as npt
import onnx

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise._units import format_bytes
from tierwise.artifact import TensorSpec
from tierwise.capture import Affine, Cut, composition_error, cut_points, find_cut, read_graph, run, split
from tierwise.operators._exit import attach
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Task

__all__ = ["Partition", "calibration_feeds", "named_cut", "partition", "partition_cuts", "resolve_partition"]

_CHECK_ITEMS = 8
_RANGE_ITEMS = 64
_INTEGERS = ("UINT8", "INT8")


class Partition(Spec, frozen=True, kw_only=True, tag="partition", tag_field="op"):
    """Cut the model at one tensor.

    Attributes:
        cut: Tensor, label or module path to cut at (`tierwise.capture.find_cut`); ``auto`` leaves it to the cost model.
        boundary: How the tensor crosses. ``fp32``: as float. ``uint8``: as bytes; a float model gets a quantisation
            there, with the range seen on the calibration split, while a quantised model is cut where it holds bytes
            anyway, so that nothing more is lost.
    """

    NAME: ClassVar[str] = "partition"
    STAGE: ClassVar[Stage] = Stage.SPLIT
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx",)
    REVISION: ClassVar[int] = 1

    cut: str = "auto"
    boundary: Literal["fp32", "uint8"] = "fp32"


def partition_cuts(model: onnx.ModelProto, boundary: Literal["fp32", "uint8"]) -> tuple[Cut, ...]:
    """The cuts a partition of ``model`` can choose from; ``bytes`` is what really crosses.

    In a quantised model, a float tensor beside a quantise/dequantise pair is no candidate: cutting there would tear the
    pair from the operator it is fused with, which would then run in float. The bytes inside the pair are; with a float
    boundary they are dequantised to cross and quantised again behind, which is exact.
    """
    readers: dict[str, list[str]] = {}
    makers: dict[str, str] = {}
    for node in model.graph.node:
        makers.update(dict.fromkeys(node.output, node.op_type))
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    chosen = []
    for cut in cut_points(read_graph(model)):
        name, elements = cut.tensor.name, cut.tensor.nbytes() // _size(cut.tensor)
        torn = makers.get(name) == "DequantizeLinear" or "QuantizeLinear" in readers.get(name, [])
        integer = cut.tensor.dtype in _INTEGERS
        if torn or (not integer and cut.tensor.dtype != "FP32"):
            continue
        if boundary == "uint8" and not integer and any(op == "QuantizeLinear" for op in makers.values()):
            continue
        crossing = elements * (1 if boundary == "uint8" else 4)
        chosen.append(dataclasses.replace(cut, bytes=cut.bytes - cut.tensor.nbytes() + crossing))
    return tuple(chosen)


def _size(tensor: TensorSpec) -> int:
    return msgspec.structs.replace(tensor, shape=()).nbytes()


def resolve_partition(spec: Partition, work: Work, context: Context) -> Partition:
    """``spec`` with the cut named by its tensor.

    Raises:
        InputError: The model has no legal cut, none by that name, or the choice is left to a cost model that is absent.
    """
    cuts = partition_cuts(work.model, spec.boundary)
    if not cuts:
        raise InputError(
            f"the model must have a tensor at which it can be cut with a {spec.boundary} boundary",
            got="none",
            where=f"task {work.task.name!r}",
            fix="Leave partition out of the chain for this model",
        )
    if work.exits:
        return msgspec.structs.replace(spec, cut=_exit_cut(spec, work, cuts).tensor.name)
    if spec.cut == "auto":
        if context.choose_cut is None:
            raise InputError(
                'cut = "auto" needs a cost model to choose',
                where="partition",
                fix=f"Name a cut, for example {cuts[len(cuts) // 2].label!r}",
            )
        cut = context.choose_cut(cuts)
    else:
        cut = named_cut(cuts, spec.cut)
    return msgspec.structs.replace(spec, cut=cut.tensor.name)


def _exit_cut(spec: Partition, work: Work, cuts: Sequence[Cut]) -> Cut:
    """A model with an exit is cut there, so that what leaves at the exit never crosses."""
    if len(work.exits) > 1:
        raise InputError(
            "a partition takes a model with one exit",
            got=f"{len(work.exits)} exits",
            where=f"task {work.task.name!r}",
            fix="Name one cut in the options of early-exit",
        )
    cut = named_cut(cuts, work.exits[0].cut)
    if spec.cut not in ("auto", work.exits[0].cut) and named_cut(cuts, spec.cut) != cut:
        raise InputError(
            "a model with an exit must be cut at the exit",
            got=repr(spec.cut),
            where="partition",
            fix='Name that cut in the options of early-exit instead, and leave cut = "auto" here',
        )
    return cut


def named_cut(cuts: Sequence[Cut], name: str) -> Cut:
    """The cut that ``name`` means, see `tierwise.capture.find_cut`.

    Raises:
        InputError: None of them.
    """
    # The bytes of a tensor in a quantised model answer to the tensor's own name too, so that one name serves both.
    for cut in cuts:
        if cut.tensor.name == f"{name}_QuantizeLinear_Output":
            return cut
    return find_cut(cuts, name)


def partition(spec: Partition, work: Work, context: Context) -> Work:
    """Cut ``work.model`` and check the parts against the whole on calibration items.

    Raises:
        InputError: As `resolve_partition`.
    """
    spec = resolve_partition(spec, work, context)
    cut = find_cut(partition_cuts(work.model, spec.boundary), spec.cut)
    title = f"cut at {cut.label}"
    with context.progress.step(title, None):
        integer = cut.tensor.dtype in _INTEGERS
        boundary = None
        if spec.boundary == "uint8" and not integer:
            head, _ = split(work.model, cut)
            boundary = _range(head, cut.tensor.name, work.task)
        head, tail = split(work.model, cut, boundary)
        if spec.boundary == "fp32" and integer:
            _widen(work.model, head, tail, cut.tensor)
        for one in work.exits:
            attach(head, cut, one.head)
        error = composition_error(work.model, (head, tail), calibration_feeds(work.task))
    share = cut.head_macs / max(1, cut.head_macs + cut.tail_macs)
    carried = "".join(f", with {q.name}" for q in cut.carried)
    note = (
        f"partition: {title} ({cut.tensor.name}), {format_bytes(cut.bytes)} an item as {spec.boundary}{carried}; "
        f"{100 * share:.0f} % of the arithmetic before it"
    )
    return dataclasses.replace(
        work,
        segments=(head, tail),
        history=(*work.history, spec),
        notes=(*work.notes, note),
        composition_error=error,
    )


def calibration_feeds(task: Task, items: int = _CHECK_ITEMS) -> dict[str, npt.NDArray[Any]]:
    """Model inputs of the first calibration items."""
    return task.tensors(task.splits["calibration"].head(items).items)


def _range(head: onnx.ModelProto, name: str, task: Task) -> Affine:
    seen = run([head], calibration_feeds(task, _RANGE_ITEMS))[name]
    return Affine.covering(float(seen.min()), float(seen.max()))


def _widen(model: onnx.ModelProto, head: onnx.ModelProto, tail: onnx.ModelProto, tensor: TensorSpec) -> None:
    """Let bytes cross as float: the head ends with their dequantisation, the tail starts with the inverse."""
    pair = next(node for node in model.graph.node if tensor.name in node.output)
    sent = f"{tensor.name}_float"
    head.graph.node.append(onnx.helper.make_node("DequantizeLinear", [tensor.name, *pair.input[1:]], [sent], sent))
    inverse = f"{tensor.name}_inverse"
    tail.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [sent, *pair.input[1:]], [tensor.name], inverse))
    present = {entry.name for entry in tail.graph.initializer}
    for entry in model.graph.initializer:
        if entry.name in pair.input and entry.name not in present:
            tail.graph.initializer.append(entry)
    for value in (head.graph.output[0], tail.graph.input[0]):
        value.name = sent
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for part in (head, tail):
        onnx.checker.check_model(part)
