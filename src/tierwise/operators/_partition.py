"""Cutting the model in parts: a head for the lowest tier, a tail for the highest, and what lies between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, final

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
    """Cut the model at one tensor, or at several for as many tiers more.

    Attributes:
        parts: Into how many parts; one less is the number of cuts.
        cut: Tensor, label or module path to cut at (`tierwise.capture.find_cut`), or as many as there are cuts;
            ``auto`` leaves them to the cost model.
        boundary: How the tensor crosses. ``fp32``: as float. ``uint8``: as bytes; a float model gets a quantisation
            there, with the range seen on the calibration split, while a quantised model is cut where it holds bytes
            anyway, so that nothing more is lost.
    """

    NAME: ClassVar[str] = "partition"
    STAGE: ClassVar[Stage] = Stage.SPLIT
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx",)
    REVISION: ClassVar[int] = 1

    parts: Annotated[int, msgspec.Meta(ge=2, le=8)] = 2
    cut: str | tuple[str, ...] = "auto"
    boundary: Literal["fp32", "uint8"] = "fp32"


def partition_cuts(
    model: onnx.ModelProto, boundary: Literal["fp32", "uint8"], primary: str | None = None
) -> tuple[Cut, ...]:
    """The cuts a partition of ``model`` can choose from; ``bytes`` is what really crosses.

    ``primary`` is the input that the cuts keep below, the largest one where it is None.

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
    for cut in cut_points(read_graph(model), primary):
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
    """``spec`` with the cuts named by their tensors, in the order of the model.

    Raises:
        InputError: The model has no legal cut, too few, none by that name, or the choice is left to a cost model that
            is absent.
    """
    cuts = partition_cuts(work.model, spec.boundary)
    count = spec.parts - 1
    if len(cuts) < count:
        raise InputError(
            f"the model must have {count} {'tensor' if count == 1 else 'tensors'} at which it can be cut with a "
            f"{spec.boundary} boundary",
            got=len(cuts) or "none",
            where=f"task {work.task.name!r}",
            fix="Leave partition out of the chain for this model, or ask for fewer parts",
        )
    if work.exits:
        chosen = _exit_cuts(spec, work, cuts)
    elif spec.cut == "auto":
        if context.choose_cuts is None:
            raise InputError(
                'cut = "auto" needs a cost model to choose',
                where="partition",
                fix=f"Name a cut, for example {cuts[len(cuts) // 2].label!r}",
            )
        chosen = context.choose_cuts(cuts, count)
    else:
        chosen = tuple(named_cut(cuts, name) for name in _names(spec))
    names = [cut.tensor.name for cut in sorted(chosen, key=lambda cut: cut.position)]
    if len(set(names)) != count:
        raise InputError(
            f"{spec.parts} parts must have {count} different {'cut' if count == 1 else 'cuts'}",
            got=", ".join(names),
            where="partition",
            fix=f"Give {count} names in cut, or set parts",
        )
    return msgspec.structs.replace(spec, cut=names[0] if count == 1 else tuple(names))


def _names(spec: Partition) -> tuple[str, ...]:
    return (spec.cut,) if isinstance(spec.cut, str) else spec.cut


def _exit_cuts(spec: Partition, work: Work, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """A model with exits is cut at them, so that what leaves at an exit never crosses the border behind it."""
    if len(work.exits) != spec.parts - 1:
        raise InputError(
            f"a model in {spec.parts} parts must have as many exits as cuts, {spec.parts - 1}",
            got=f"{len(work.exits)} exits",
            where=f"task {work.task.name!r}",
            fix=f"Name {spec.parts - 1} in the options of the operator that adds exits, or set parts = "
            f"{len(work.exits) + 1} here",
        )
    at_exits = tuple(named_cut(cuts, one.cut) for one in work.exits)
    if spec.cut != "auto" and {named_cut(cuts, name) for name in _names(spec)} != set(at_exits):
        raise InputError(
            "a model with exits must be cut at the exits",
            got=", ".join(_names(spec)),
            where="partition",
            fix='Name those cuts in the options of the operator that adds exits instead, and leave cut = "auto" here',
        )
    return at_exits


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

    Thresholds of exits stay as they are: an exit reads its tensor before that is rounded to cross. Only what lies
    behind an earlier uint8 border of a float model sees rounded values, as the model's own answer does; the share that
    leaves at a later exit may differ from what was counted at calibration.

    Raises:
        InputError: As `resolve_partition`.
    """
    spec = resolve_partition(spec, work, context)
    whole_cuts = partition_cuts(work.model, spec.boundary)
    cuts = [find_cut(whole_cuts, name) for name in _names(spec)]
    title = "cut at " + " and ".join(cut.label for cut in cuts)
    with context.progress.step(title, None):
        knife = _Knife(work, spec.boundary)
        segments = knife.cut([cut.tensor.name for cut in cuts])
        error = composition_error(work.model, segments, calibration_feeds(work.task))
    return dataclasses.replace(
        work,
        segments=segments,
        history=(*work.history, spec),
        notes=(*work.notes, _note(spec, title, cuts)),
        composition_error=error,
    )


def _note(spec: Partition, title: str, cuts: Sequence[Cut]) -> str:
    parts = []
    for cut in cuts:
        carried = "".join(f", with {q.name}" for q in cut.carried)
        share = cut.head_macs / max(1, cut.head_macs + cut.tail_macs)
        parts.append(
            f"({cut.tensor.name}), {format_bytes(cut.bytes)} an item as {spec.boundary}{carried}; "
            f"{100 * share:.0f} % of the arithmetic before it"
        )
    return f"partition: {title} " + "; then ".join(parts)


@final
class _Knife:
    """Cuts a model from its input to its answer, each time what is left of it."""

    def __init__(self, work: Work, boundary: Literal["fp32", "uint8"]) -> None:
        self._work, self._boundary = work, boundary

    def cut(self, names: Sequence[str]) -> tuple[onnx.ModelProto, ...]:
        """The parts between the tensors ``names``, which are in the order of the model."""
        done: list[onnx.ModelProto] = []
        rest, primary = self._work.model, None
        for i, name in enumerate(names):
            cut = find_cut(partition_cuts(rest, self._boundary, primary), name)
            head, tail = self._in_two(rest, cut, done)
            # Both end and begin with what crosses; `split` puts it first.
            primary = tail.graph.input[0].name
            if i < len(self._work.exits):
                attach(head, cut, self._work.exits[i].head)
            done.append(head)
            rest = tail
        return (*done, rest)

    def _in_two(
        self, model: onnx.ModelProto, cut: Cut, before: Sequence[onnx.ModelProto]
    ) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        integer = cut.tensor.dtype in _INTEGERS
        boundary = None
        if self._boundary == "uint8" and not integer:
            head, _ = split(model, cut)
            boundary = _range([*before, head], cut.tensor.name, self._work.task)
        head, tail = split(model, cut, boundary)
        if self._boundary == "fp32" and integer:
            _widen(model, head, tail, cut.tensor)
        return head, tail


def calibration_feeds(task: Task, items: int = _CHECK_ITEMS) -> dict[str, npt.NDArray[Any]]:
    """Model inputs of the first calibration items."""
    return task.tensors(task.splits["calibration"].head(items).items)


def _range(parts: Sequence[onnx.ModelProto], name: str, task: Task) -> Affine:
    seen = run(parts, calibration_feeds(task, _RANGE_ITEMS))[name]
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
