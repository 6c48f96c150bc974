"""From a float model and the ranges of its tensors to an integer model, in the form ONNX Runtime fuses (QDQ)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.shape_inference import quant_pre_process

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.capture import COMPUTE_OPS
from tierwise.measure import Advance
from tierwise.operators._calibration import QUANTISED_OPS, Method, Range, calibrated
from tierwise.operators._session import free_batch
from tierwise.tasks import Task

__all__ = [
    "Isa",
    "Scheme",
    "behind_the_arithmetic",
    "calibration_ranges",
    "compute_nodes",
    "has_attention",
    "integer_types",
    "prepared",
    "quantised",
    "quantiser_errors",
]

Isa = Literal["auto", "x86-vnni", "x86", "arm64"]
_BATCH = 16


class Scheme(Spec, frozen=True, kw_only=True):
    """What a quantised model's integers look like.

    Attributes:
        isa: Instruction set of the machines that will run it; not ``auto``.
        per_channel: One weight scale per output channel instead of one per tensor.
        products_only: Whether only matrix products are quantised.
    """

    isa: Isa
    per_channel: bool = True
    products_only: bool = False


def integer_types(isa: Isa) -> tuple[QuantType, QuantType, str]:
    """Types of activations and weights, and how people call the pair."""
    match isa:
        case "arm64":
            return QuantType.QInt8, QuantType.QInt8, "S8S8"
        case "x86":
            return QuantType.QUInt8, QuantType.QInt8, "U8S8 with 7-bit weights"
        case _:
            return QuantType.QUInt8, QuantType.QInt8, "U8S8"


def prepared(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """``model`` as the quantiser wants it: batch norms folded, constants computed, shapes inferred."""
    given, done = (str(folder / f"{name}.onnx") for name in ("given", "prepared"))
    onnx.save(model, given)
    # Symbolic inference gives up on some free batch axes, and then leaves its state in the working folder. What the
    # quantiser asks of a tensor is its type, which the plain inference of ONNX gives.
    quant_pre_process(given, done, skip_symbolic_shape=True)
    return load_model_with_shape_infer(Path(done))


def calibration_ranges(
    model: onnx.ModelProto, task: Task, items: int, method: Method, percentile: float, advance: Advance
) -> dict[str, Range]:
    """Ranges of the prepared ``model`` on the calibration split.

    Raises:
        InputError: The split is empty.
    """
    split = task.splits["calibration"].head(items)
    if len(split) == 0:
        raise InputError("static quantisation needs calibration items", got="none", where=f"task {task.name!r}")
    size = _BATCH if free_batch(model) else 1
    batches = [task.tensors(split.items[start : start + size]) for start in range(0, len(split), size)]
    return calibrated(model, batches, method, percentile, advance)


def quantised(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    *,
    only: Collection[str] = (),
    floating: Collection[str] = (),
    scopes: onnx.ModelProto | None = None,
) -> onnx.ModelProto:
    """The integer model.

    Args:
        model: A float model that `prepared` gave; not changed.
        ranges: Range of every float tensor at a quantisable operator.
        scheme: The integers.
        only: Names of the operators to quantise; all of them where empty.
        floating: Names of operators to leave in float.
        scopes: Where operators' module paths are copied from.
    """
    activation, weight, _ = integer_types(scheme.isa)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantiser = QDQQuantizer(
        copy,
        scheme.per_channel,
        scheme.isa == "x86",
        weight,
        activation,
        TensorsData(CalibrationMethod.MinMax, data),
        sorted(only),
        sorted(floating),
        ["MatMul", "Gemm"] if scheme.products_only else sorted(QUANTISED_OPS),
        {},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    result: onnx.ModelProto = quantiser.model.model
    _keep_answers_float(result)
    _copy_scopes(scopes or model, result)
    del result.graph.value_info[:]
    onnx.checker.check_model(result)
    return result


def compute_nodes(model: onnx.ModelProto, scheme: Scheme) -> list[onnx.NodeProto]:
    """The operators with arithmetic that ``scheme`` quantises, in order."""
    kinds = {"MatMul", "Gemm"} if scheme.products_only else COMPUTE_OPS & QUANTISED_OPS
    return [node for node in model.graph.node if node.op_type in kinds]


def behind_the_arithmetic(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the operators between the last products and the outputs, such as those that join a detector's answer."""
    makers = {name: node for node in model.graph.node for name in node.output}
    ahead, found = [value.name for value in model.graph.output], dict[str, None]()
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.op_type not in COMPUTE_OPS and node.name not in found:
            found[node.name] = None
            ahead.extend(node.input)
    return tuple(sorted(found))


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether two computed tensors are multiplied as matrices, as scores and values are."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type in ("MatMul", "Einsum") and not constants & set(node.input) for node in model.graph.node
    ) or any(node.op_type in ("Attention", "MultiHeadAttention") for node in model.graph.node)


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


@contextmanager
def quantiser_errors(task: Task, operator: str) -> Iterator[None]:
    """The block uses ONNX Runtime's tools, which raise whatever comes: it leaves as one error that names the task.

    Raises:
        InputError: Something failed in the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"ONNX Runtime must be able to quantise the model ({str(error).strip().partition(chr(10))[0]})",
            where=f"task {task.name!r}",
            fix=f"Quantise a simpler export of the model, or leave {operator} out of the chain",
        ) from error
