"""Graphs of a step as ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import onnx
import torch

from tierwise._errors import InputError
from tierwise.artifact import Trained
from tierwise.capture import origin, quietly
from tierwise.training.compiler._model import Model
from tierwise.training.compiler._split import Part

__all__ = ["part_to_onnx", "predictor_to_onnx"]

_OPSET = 20


def part_to_onnx(part: Part) -> bytes:
    """A graph of fixed shapes, with its frozen tensors inside.

    Raises:
        InputError: It cannot be exported; the message names the operator.
    """
    examples = [
        torch.zeros(value.shape, dtype=value.dtype)
        for value in (node.meta["val"] for node in part.graph.graph.nodes if node.op == "placeholder")
    ]
    model = _exported(part.graph, part.graph.graph, tuple(examples), part.inputs, part.outputs, None)
    content: bytes = model.SerializeToString()
    return content


def predictor_to_onnx(
    model: Model, trained: Sequence[Trained], start: Mapping[str, torch.Tensor], example: Sequence[torch.Tensor]
) -> onnx.ModelProto:
    """The whole model for any batch; its trained tensors are initialisers that a caller may override by name."""
    names = [one.tensor for one in trained]
    free = {0: torch.export.Dim("batch", min=1)}
    axes = ((*({**free} for _ in example), *(None for _ in trained)),)
    exported = _exported(
        _Predictor(model, trained),
        model.graph.graph,
        (*example, *(start[name] for name in names)),
        (*model.inputs, *names),
        ("logits",),
        axes,
    )
    by_name = {value.name: value for value in exported.graph.input}
    for name in names:
        exported.graph.initializer.append(onnx.numpy_helper.from_array(start[name].numpy(), name))
        if name not in by_name:
            raise InputError("every trained tensor must be an input of the exported model", got=name)
    del exported.graph.value_info[:]
    symbol = exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*exported.graph.input, *exported.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = "batch"
    return exported


@final
class _Predictor(torch.nn.Module):
    def __init__(self, model: Model, trained: Sequence[Trained]) -> None:
        super().__init__()
        self._model, self._trained = model, tuple(trained)
        whole = {one.name for one in trained if not one.channels}
        self._names = [name for name in model.tensors if name not in whole]
        for i, name in enumerate(self._names):
            self.register_buffer(f"held_{i}", model.tensors[name].detach())

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Logits from the model's inputs and the trained tensors."""
        count = len(self._model.inputs)
        parts = list(zip(self._trained, given[count:], strict=True))
        tensors = {name: getattr(self, f"held_{i}") for i, name in enumerate(self._names)}
        tensors.update({one.name: value for one, value in parts if not one.channels})
        return self._model(given[:count], tensors, {one.name: (one, value) for one, value in parts if one.channels})


def _exported(
    module: torch.nn.Module,
    source: torch.fx.Graph,
    args: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Any,
) -> onnx.ModelProto:
    try:
        with quietly(), torch.no_grad():
            program = torch.export.export(module, args, dynamic_shapes=axes)
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=_OPSET,
                verbose=False,
                optimize=False,  # its optimiser takes additions of 1e-8, as Adam has, for additions of zero
            )
    except Exception as error:  # torch.export and the ONNX exporter raise many trees of their own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        operator, line = origin(error, source)
        reason = f"operator {operator} has no ONNX form" if operator else str(cause).strip().splitlines()[0][:300]
        raise InputError(
            f"the training step must export to ONNX ({reason})",
            where=line or "the compiled graph",
            fix="Write that line with other operators",
        ) from error
    if made is None:
        raise InputError("the exporter must return a program", where="the compiled graph")
    model: onnx.ModelProto = made.model_proto
    names = [value.name for value in model.graph.input]
    if names != list(inputs):
        raise InputError(f"the exported graph must take {list(inputs)}", got=names)
    return model
