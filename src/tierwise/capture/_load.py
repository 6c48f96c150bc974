"""An ONNX file brought by a user, made uniform: one file, no local functions, an operator set that can be quantised."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter

from tierwise._errors import InputError

__all__ = ["load_onnx"]

# QuantizeLinear per channel came with operator set 13.
_OLDEST_OPSET = 13
_OPSET = 17


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file with all its weights in memory.

    Local functions are inlined, and operator sets before 13 converted to 17.

    Raises:
        InputError: Not a readable or not a valid ONNX model, or its operator set cannot be converted.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(str(path))
    except Exception as error:  # protobuf, the checker and the file system raise unrelated errors
        raise InputError(
            f"the file must be a valid ONNX model ({str(error).strip().splitlines()[0]})",
            where=path,
            fix="Export the model again, or check the file with: python -m onnx.bin.checker FILE",
        ) from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), _OPSET)
    if version < _OLDEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OPSET)
        except Exception as error:  # the converter raises RuntimeError and its own, untyped
            raise InputError(
                f"operator sets before {_OLDEST_OPSET} must be convertible ({str(error).splitlines()[0]})",
                got=f"operator set {version}",
                where=path,
                fix=f"Export the model again with operator set {_OPSET} or later",
            ) from error
    return model
