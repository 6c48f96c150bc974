"""How much a graph has learnt: the bits of its parameters."""

from __future__ import annotations

import onnx

__all__ = ["weight_bits"]


def weight_bits(model: onnx.ModelProto) -> int:
    """Bits of all parameters of ``model``, in the types they are kept in: the first measure of SC2.

    Source: Matsubara et al. 2023, SC2 benchmark (arXiv 2203.08875), section 3.
    """
    return sum(8 * onnx.numpy_helper.to_array(weight).nbytes for weight in model.graph.initializer)
