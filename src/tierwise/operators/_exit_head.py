"""The head of an exit: features of an inner tensor, a small network trained on them, and both as ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from tierwise._errors import InputError
from tierwise._seeds import stream, stream_seed
from tierwise.artifact import TensorSpec
from tierwise.measure import Advance
from tierwise.operators._exit import exit_names

__all__ = ["Array", "Parts", "features_graph", "head_model", "trained_layers"]

Array = npt.NDArray[np.float32]
Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]

_BATCH = 128


def features_graph(tensor: TensorSpec, prefix: str, grid: int, *, peaks: bool = False) -> Parts:
    """Nodes and constants from ``tensor`` to its features [n, f], and their name.

    Pictures are averaged over a grid of ``grid`` by ``grid`` fields; with ``peaks`` they give the average and the
    largest value of each channel over the whole picture instead. Sequences [n, length, width] give their first
    token and the average of all, and rows stay as they are.
    """
    name, out = tensor.name, f"{prefix}_flat"
    match len(tensor.shape):
        case 4 if peaks:
            nodes = [
                helper.make_node("GlobalAveragePool", [name], [f"{prefix}_mean"], f"{prefix}_average"),
                helper.make_node("GlobalMaxPool", [name], [f"{prefix}_peak"], f"{prefix}_largest"),
                helper.make_node(
                    "Concat", [f"{prefix}_mean", f"{prefix}_peak"], [f"{prefix}_both"], f"{prefix}_join", axis=1
                ),
                helper.make_node("Flatten", [f"{prefix}_both"], [out], f"{prefix}_flatten", axis=1),
            ]
            return nodes, [], out
        case 4:
            kernel = [max(1, size // min(grid, size)) for size in tensor.shape[2:]]
            nodes = [
                helper.make_node(
                    "AveragePool", [name], [f"{prefix}_pooled"], f"{prefix}_pool", kernel_shape=kernel, strides=kernel
                ),
                helper.make_node("Flatten", [f"{prefix}_pooled"], [out], f"{prefix}_flatten", axis=1),
            ]
            return nodes, [], out
        case 3:
            nodes = [
                helper.make_node("Gather", [name, f"{prefix}_zero"], [f"{prefix}_first"], f"{prefix}_gather", axis=1),
                helper.make_node("Transpose", [name], [f"{prefix}_turned"], f"{prefix}_turn", perm=[0, 2, 1]),
                helper.make_node("GlobalAveragePool", [f"{prefix}_turned"], [f"{prefix}_mean"], f"{prefix}_average"),
                helper.make_node("Flatten", [f"{prefix}_mean"], [f"{prefix}_all"], f"{prefix}_flatten", axis=1),
                helper.make_node("Concat", [f"{prefix}_first", f"{prefix}_all"], [out], f"{prefix}_join", axis=1),
            ]
            return nodes, [numpy_helper.from_array(np.array(0, np.int64), f"{prefix}_zero")], out
        case 2:
            return [helper.make_node("Flatten", [name], [out], f"{prefix}_flatten", axis=1)], [], out
        case _:
            raise InputError(
                "an exit must stand on a picture, a sequence or a row",
                got=f"shape {list(tensor.shape)}",
                where=f"tensor {name!r}",
                fix="Name another cut in the exit's options",
            )


def trained_layers(
    features: Array,
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    width: int,
    epochs: int,
    seed: int,
    advance: Advance,
) -> list[tuple[Array, Array]]:
    """Weights [in, out] and biases of a two-layer network on ``features``, trained by cross entropy.

    The features' own mean and size are folded into the first layer.
    """
    mean, size = features.mean(0), features.std(0) + 1e-6
    inputs, targets = torch.from_numpy((features - mean) / size), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "exit"))
        first, second = nn.Linear(inputs.shape[1], width), nn.Linear(width, classes)
        optimiser = torch.optim.AdamW([*first.parameters(), *second.parameters()], lr=3e-3, weight_decay=0.02)
        steps = -(-len(inputs) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * steps)
        for epoch in range(epochs):
            order = torch.from_numpy(stream(seed, "exit", epoch).permutation(len(inputs)))
            for chosen in torch.tensor_split(order, steps):
                loss = nn.functional.cross_entropy(second(torch.relu(first(inputs[chosen]))), targets[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            advance(1)
    weight, bias = first.weight.detach().numpy() / size, first.bias.detach().numpy()
    layers = [(weight, bias - weight @ mean), (second.weight.detach().numpy(), second.bias.detach().numpy())]
    return [(np.ascontiguousarray(w.T, np.float32), b.astype(np.float32)) for w, b in layers]


def head_model(
    model: onnx.ModelProto, tensor: TensorSpec, position: int, grid: int, layers: Sequence[tuple[Array, Array]]
) -> onnx.ModelProto:
    """The head as ONNX, from ``tensor`` of ``model`` to the names of `exit_names`."""
    prefix = f"exit{position}"
    confidence, answer = exit_names(position)
    nodes, constants, value = features_graph(tensor, prefix, grid)
    for i, (weight, bias) in enumerate(layers):
        made = answer if i == len(layers) - 1 else f"{prefix}_layer{i}"
        names = [f"{prefix}_weight{i}", f"{prefix}_bias{i}"]
        constants += [numpy_helper.from_array(array, name) for array, name in zip((weight, bias), names, strict=True)]
        nodes.append(helper.make_node("Gemm", [value, *names], [made], f"{prefix}_gemm{i}"))
        value = made
        if i < len(layers) - 1:
            value = f"{prefix}_active{i}"
            nodes.append(helper.make_node("Relu", [made], [value], f"{prefix}_relu{i}"))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), f"{prefix}_one"))
    nodes += [
        helper.make_node("Softmax", [answer], [f"{prefix}_shares"], f"{prefix}_softmax", axis=1),
        helper.make_node(
            "TopK", [f"{prefix}_shares", f"{prefix}_one"], [confidence, f"{prefix}_which"], f"{prefix}_top", axis=1
        ),
    ]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch if s < 0 else s for s in shape])
        for name, shape in (
            (tensor.name, tensor.shape),
            (confidence, (-1, 1)),
            (answer, (-1, len(layers[-1][1]))),
        )
    ]
    graph = helper.make_graph(nodes, prefix, values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
