"""ONNX operators as torch functions, so that a graph can be trained as it will be deployed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from torch.nn import functional

from tierwise._errors import InputError

__all__ = ["Function", "torch_function"]

Tensor = torch.Tensor
Function = Callable[..., Tensor]
Attributes = Mapping[str, Any]

_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool, onnx.TensorProto.DOUBLE: torch.float64,
}  # fmt: skip


def torch_function(node: onnx.NodeProto) -> Function:
    """What ``node`` computes: a function of its inputs in their order (None for those left out).

    Raises:
        InputError: An operator, or a variant of one, that cannot be trained here.
    """
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type]
    if node.op_type in _WITH_ATTRIBUTES and len([name for name in node.output if name]) == 1:
        return _WITH_ATTRIBUTES[node.op_type](given)
    raise InputError(
        "quantisation-aware training must know every operator of the model",
        got=f"{node.op_type} {node.name!r}",
        where="ONNX graph",
        fix="Use sptq instead of qat for this model, or write that part of the model with common operators",
    )


def _conv(given: Attributes) -> Function:
    _no_auto_pad(given, "Conv")
    strides, dilations, groups = given.get("strides"), given.get("dilations"), int(given.get("group", 1))

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = weight.ndim - 2
        run = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
        padded, padding = _padding(x, given.get("pads") or [0] * (2 * axes), 0.0)
        return run(padded, weight, bias, strides or [1] * axes, padding, dilations or [1] * axes, groups)

    return conv


def _padding(x: Tensor, pads: list[int], value: float) -> tuple[Tensor, list[int]]:
    """Padding that torch takes as it is, or the padded tensor where the two ends differ."""
    begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    if begin == end:
        return x, list(begin)
    flat = [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair]
    return functional.pad(x, flat, value=value), [0] * len(begin)


def _no_auto_pad(given: Attributes, op: str) -> None:
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise InputError(f"a trained {op} must have explicit padding", got=given["auto_pad"].decode())


def _max_pool(given: Attributes) -> Function:
    _no_auto_pad(given, "MaxPool")
    kernel = given["kernel_shape"]
    ceil = bool(given.get("ceil_mode", 0))

    def pool(x: Tensor) -> Tensor:
        run = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
        padded, padding = _padding(x, given.get("pads") or [0] * (2 * len(kernel)), -torch.inf)
        pooled: Tensor = run(
            padded, kernel, given.get("strides") or [1] * len(kernel), padding, given.get("dilations") or 1, ceil
        )
        return pooled

    return pool


def _average_pool(given: Attributes) -> Function:
    _no_auto_pad(given, "AveragePool")
    kernel = given["kernel_shape"]
    pads = given.get("pads") or [0] * (2 * len(kernel))
    counted = bool(given.get("count_include_pad", 0))
    if pads[: len(kernel)] != pads[len(kernel) :] or len(kernel) > 2:
        raise InputError("a trained AveragePool must have equal padding on both sides and at most two axes", got=pads)
    run: Any = functional.avg_pool1d if len(kernel) == 1 else functional.avg_pool2d
    strides, ceil = given.get("strides") or [1] * len(kernel), bool(given.get("ceil_mode", 0))
    return lambda x: run(x, kernel, strides, list(pads[: len(kernel)]), ceil, counted)


def _gemm(given: Attributes) -> Function:
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if given.get("transA") else a) @ (b.T if given.get("transB") else b)
        product = product if alpha == 1.0 else alpha * product
        return product if c is None else product + (c if beta == 1.0 else beta * c)

    return gemm


def _reshape(given: Attributes) -> Function:
    keeps_zero = bool(given.get("allowzero", 0))

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        sizes = [int(size) for size in shape]
        return x.reshape([x.shape[i] if s == 0 and not keeps_zero else s for i, s in enumerate(sizes)])

    return reshape


def _flatten(given: Attributes) -> Function:
    axis = int(given.get("axis", 1))
    return lambda x: x.reshape(*x.shape[:axis], -1) if axis == 1 else x.reshape(int(x.shape[:axis].numel()), -1)


def _reduced(name: str) -> Callable[[Attributes], Function]:
    run = {"ReduceMean": torch.mean, "ReduceSum": torch.sum}[name]

    def make(given: Attributes) -> Function:
        def reduce(x: Tensor, axes: Tensor | None = None) -> Tensor:
            chosen = given.get("axes") if axes is None else [int(axis) for axis in axes]
            if not chosen and given.get("noop_with_empty_axes"):
                return x
            reduced: Tensor = run(x, dim=chosen or list(range(x.ndim)), keepdim=bool(given.get("keepdims", 1)))
            return reduced

        return reduce

    return make


def _layer_norm(given: Attributes) -> Function:
    axis, epsilon = int(given.get("axis", -1)), float(given.get("epsilon", 1e-5))

    def norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)

    return norm


def _batch_norm(given: Attributes) -> Function:
    epsilon = float(given.get("epsilon", 1e-5))
    return lambda x, scale, bias, mean, var: functional.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _gather(given: Attributes) -> Function:
    axis = int(given.get("axis", 0))

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
        taken = torch.index_select(x, axis, flat)
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis:][1:])

    return gather


def _gather_nd(given: Attributes) -> Function:
    if given.get("batch_dims", 0):
        raise InputError("a trained GatherND must have no batch_dims", got=given["batch_dims"])
    return lambda x, indices: x[tuple(indices.unbind(-1))]


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    chosen = range(len(starts)) if axes is None else [int(axis) for axis in axes]
    index: list[slice] = [slice(None)] * x.ndim
    for i, axis in enumerate(chosen):
        step = 1 if steps is None else int(steps[i])
        if step < 1:
            raise InputError("a trained Slice must go forward", got=step)
        size = x.shape[axis]
        # Exporters write the largest integer for "to the end"; torch wants no end beyond the tensor.
        index[axis] = slice(max(int(starts[i]), -size), min(int(ends[i]), size), step)
    return x[tuple(index)]


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in axes))


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(int(axis) % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return (
        x * torch.ones([int(size) for size in shape], dtype=x.dtype)
        if x.dtype != torch.bool
        else (x | torch.zeros([int(size) for size in shape], dtype=torch.bool))
    )


def _shape(given: Attributes) -> Function:
    start, end = int(given.get("start", 0)), given.get("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _gelu(given: Attributes) -> Function:
    kind = given.get("approximate", b"none").decode()
    return lambda x: functional.gelu(x, approximate=kind)


def _constant(given: Attributes) -> Function:
    array = onnx.numpy_helper.to_array(given["value"])
    value = torch.from_numpy(array.copy())
    return lambda: value


def _constant_of_shape(given: Attributes) -> Function:
    value = torch.from_numpy(onnx.numpy_helper.to_array(given["value"]).copy()) if "value" in given else torch.zeros(1)
    return lambda shape: value.reshape(()).expand([int(size) for size in shape]).clone()


def _hard_sigmoid(given: Attributes) -> Function:
    alpha, beta = float(given.get("alpha", 0.2)), float(given.get("beta", 0.5))
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


_PLAIN: dict[str, Function] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Clip": _clip, "Div": torch.div, "Equal": torch.eq,
    "Erf": torch.erf, "Exp": torch.exp, "Expand": _expand, "GreaterOrEqual": torch.ge,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x, "Dropout": lambda x, *_: x, "Less": torch.lt, "MatMul": torch.matmul, "Mul": torch.mul,
    "Neg": torch.neg, "Not": torch.logical_not, "Pow": torch.pow, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Sigmoid": torch.sigmoid, "Slice": _slice, "Sqrt": torch.sqrt, "Squeeze": _squeeze, "Sub": torch.sub,
    "Tanh": torch.tanh, "Unsqueeze": _unsqueeze, "Where": torch.where,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "Max": lambda *xs: functools.reduce(torch.maximum, xs),
    "Min": lambda *xs: functools.reduce(torch.minimum, xs),
    "Ceil": torch.ceil, "Cos": torch.cos, "Floor": torch.floor, "Greater": torch.gt, "IsNaN": torch.isnan,
    "LessOrEqual": torch.le, "Or": torch.logical_or, "Sin": torch.sin,
    "Range": lambda start, limit, step: torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype),
    "CumSum": lambda x, axis: torch.cumsum(x, int(axis)),
}  # fmt: skip

_WITH_ATTRIBUTES: dict[str, Callable[[Attributes], Function]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda given: lambda x: x.to(_TYPES[given["to"]]),
    "Concat": lambda given: lambda *xs: torch.cat(xs, int(given["axis"])),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Elu": lambda given: lambda x: functional.elu(x, float(given.get("alpha", 1.0))),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda given: lambda x: functional.leaky_relu(x, float(given.get("alpha", 0.01))),
    "MaxPool": _max_pool,
    "ReduceMean": _reduced("ReduceMean"),
    "ReduceSum": _reduced("ReduceSum"),
    "Reshape": _reshape,
    "Shape": _shape,
    "Softmax": lambda given: lambda x: torch.softmax(x, int(given.get("axis", -1))),
    "Transpose": lambda given: lambda x: x.permute(given.get("perm") or tuple(reversed(range(x.ndim)))),
}
