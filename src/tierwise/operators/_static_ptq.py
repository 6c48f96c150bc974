"""Static post-training quantisation: 8-bit weights and activations with ranges seen on the calibration split."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import msgspec
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.measure import Advance, isa
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Split, Task

__all__ = ["StaticPTQ", "resolve_static_ptq", "static_ptq"]

_BATCH = 16


class StaticPTQ(Spec, frozen=True, kw_only=True, tag="sptq", tag_field="op"):
    """Quantise the exported model with ONNX Runtime (QDQ form).

    Attributes:
        items: Calibration items to use, from the start of the calibration split.
        per_channel: One weight scale per output channel instead of one per tensor.
        isa: Instruction set of the machines that will run it; it decides the integer types:
            ``x86-vnni``: unsigned activations, signed weights (the pair the VNNI instructions multiply);
            ``x86``: the same with 7-bit weights, since two products of full range overflow the 16-bit sum there;
            ``arm64``: both signed; ``auto``: that of the machine that builds.
    """

    NAME: ClassVar[str] = "sptq"
    STAGE: ClassVar[Stage] = Stage.QUANTISE
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    REVISION: ClassVar[int] = 1

    items: Annotated[int, msgspec.Meta(gt=0)] = 128
    per_channel: bool = True
    isa: Literal["auto", "x86-vnni", "x86", "arm64"] = "auto"


def resolve_static_ptq(spec: StaticPTQ) -> StaticPTQ:
    """``spec`` with the instruction set named."""
    return msgspec.structs.replace(spec, isa=isa()) if spec.isa == "auto" else spec


def static_ptq(spec: StaticPTQ, work: Work, context: Context) -> Work:
    """Quantise ``work.model``.

    Convolutional models are quantised throughout. In models with attention only the matrix products are: their masks
    hold values near the lowest float, which would leave no resolution for the scores they are added to.

    Raises:
        InputError: The calibration split is empty, or ONNX Runtime cannot quantise the model.
    """
    spec = resolve_static_ptq(spec)
    calibration = work.task.splits["calibration"].head(spec.items)
    if len(calibration) == 0:
        raise InputError("static quantisation needs calibration items", got="none", where=f"task {work.task.name!r}")
    attention = _has_attention(work.model)
    started = time.process_time()
    with context.progress.step("quantise", len(calibration)) as advance:
        reader = _Reader(work.task, calibration, _free_batch(work.model), advance)
        try:
            model = _quantised(spec, work.model, reader, context.folder, attention)
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's tools raise whatever comes
            raise InputError(
                f"ONNX Runtime must be able to quantise the model ({str(error).strip().partition(chr(10))[0]})",
                where=f"task {work.task.name!r}",
                fix="Quantise a simpler export of the model, or leave sptq out of the chain",
            ) from error
    seconds = time.process_time() - started
    note = f"sptq: {_types(spec)[2]} for {spec.isa}, ranges from {len(calibration)} calibration items"
    if attention:
        note += "; matrix products only, because the model has attention masks"
    return dataclasses.replace(
        work,
        model=model,
        history=(*work.history, spec),
        notes=(*work.notes, note),
        training_s=work.training_s + seconds,
    )


def _types(spec: StaticPTQ) -> tuple[QuantType, QuantType, str]:
    match spec.isa:
        case "arm64":
            return QuantType.QInt8, QuantType.QInt8, "S8S8"
        case "x86":
            return QuantType.QUInt8, QuantType.QInt8, "U8S8 with 7-bit weights"
        case _:
            return QuantType.QUInt8, QuantType.QInt8, "U8S8"


def _quantised(
    spec: StaticPTQ, model: onnx.ModelProto, reader: CalibrationDataReader, folder: Path, attention: bool
) -> onnx.ModelProto:
    given, prepared, done = (str(folder / f"{name}.onnx") for name in ("given", "prepared", "quantised"))
    onnx.save(model, given)
    quant_pre_process(given, prepared)
    activation, weight, _ = _types(spec)
    quantize_static(
        prepared,
        done,
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"] if attention else None,
        per_channel=spec.per_channel,
        reduce_range=spec.isa == "x86",
        activation_type=activation,
        weight_type=weight,
    )
    quantised = onnx.load(done)
    _keep_answers_float(quantised)
    _copy_scopes(model, quantised)
    del quantised.graph.value_info[:]
    onnx.checker.check_model(quantised)
    return quantised


def _has_attention(model: onnx.ModelProto) -> bool:
    """Whether two computed tensors are multiplied as matrices, as scores and values are."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type in ("MatMul", "Einsum") and not constants & set(node.input) for node in model.graph.node
    ) or any(node.op_type in ("Attention", "MultiHeadAttention") for node in model.graph.node)


def _free_batch(model: onnx.ModelProto) -> bool:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_value <= 0


def _keep_answers_float(model: onnx.ModelProto) -> None:
    """Drop the quantise/dequantise pair behind a last matrix product.

    It would round the answer to 256 levels, with ties among the classes, and spares nothing: the integer product can
    answer in float. A convolution cannot, and keeps its pair.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for output in model.graph.output:
        back = makers.get(output.name)
        forth = makers.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        maker = makers.get(forth.input[0]) if forth is not None and forth.op_type == "QuantizeLinear" else None
        if maker is None or back is None or forth is None or maker.op_type not in ("Gemm", "MatMul"):
            continue
        if uses[forth.output[0]] > 1 or uses[forth.input[0]] > 1 or uses.get(output.name):
            continue
        maker.output[0] = output.name
        model.graph.node.remove(forth)
        model.graph.node.remove(back)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _copy_scopes(source: onnx.ModelProto, target: onnx.ModelProto) -> None:
    """Give operators their module paths back, which ONNX Runtime's tools drop."""
    by_name = {node.name: node for node in source.graph.node if node.name}
    for node in target.graph.node:
        if node.name in by_name and not node.metadata_props:
            node.metadata_props.extend(by_name[node.name].metadata_props)


@final
class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime comes without types
    """Feeds the calibration split, as a node would preprocess it."""

    def __init__(self, task: Task, split: Split, batched: bool, advance: Advance) -> None:
        self._batches = self._read(task, split, _BATCH if batched else 1, advance)

    @staticmethod
    def _read(task: Task, split: Split, size: int, advance: Advance) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        for start in range(0, len(split), size):
            items = split.items[start : start + size]
            yield task.tensors(items)
            advance(len(items))

    def get_next(self) -> Mapping[str, npt.NDArray[Any]] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)
