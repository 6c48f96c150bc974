"""A torch module as ONNX, through torch.export."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from tierwise._errors import InputError

__all__ = ["export", "origin", "quietly", "trace"]

_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'")
_CONSTANT = re.compile(r"to be a constant \((\d+)\)")
_LINE = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s+(.+)')
_TORCH = str(Path(torch.__file__).parent)
_STDLIB = str(Path(inspect.__file__).parent)


def export(
    module: torch.nn.Module, example: Mapping[str, torch.Tensor], outputs: Sequence[str], opset: int = 20
) -> onnx.ModelProto:
    """Export ``module`` with a free batch axis.

    Args:
        module: The model; exported in evaluation mode and left in the mode it was in.
        example: Its inputs by name, with a batch of at least 2 (a batch of 1 would be taken for a constant). The names
            become the ONNX inputs; they are passed by name where ``forward`` knows them all, else in their order.
        outputs: Names for its outputs, in order.
        opset: ONNX operator set.

    Returns:
        The model with all weights inside, checked.

    Raises:
        InputError: The model cannot be exported; the message names the operator or the line of the model that stands in
            the way.
    """
    if any(tensor.shape[0] < 2 for tensor in example.values()):
        raise InputError("an example for export must have a batch of at least 2", where="export")
    by_name = set(example) <= set(inspect.signature(module.forward).parameters)
    batch = torch.export.Dim("batch", min=1)
    axes: Any = {name: {0: batch} for name in example} if by_name else tuple({0: batch} for _ in example)
    training = module.training
    program: torch.export.ExportedProgram | None = None
    try:
        with quietly(), torch.no_grad():
            # In two steps: called with the module, the ONNX exporter falls back to a fixed batch without a word.
            program = torch.export.export(
                module.eval(),
                args=() if by_name else tuple(example.values()),
                kwargs=dict(example) if by_name else None,
                dynamic_shapes=axes,
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(example),
                output_names=list(outputs),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # torch.export and the ONNX exporter raise many trees of their own
        raise _explained(module, error, program) from error
    finally:
        module.train(training)
    if exported is None:
        raise InputError("the exporter must return a program", where=type(module).__name__)
    model: onnx.ModelProto = exported.model_proto
    _name_batch(model)
    onnx.checker.check_model(model)
    return model


def _name_batch(model: onnx.ModelProto) -> None:
    """Call the free axis "batch"; shapes inside, written with the exporter's symbol, go: readers infer them."""
    del model.graph.value_info[:]
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = "batch"


def trace(module: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> torch.fx.GraphModule:
    """The graph of ``module`` in evaluation mode with a free batch axis, its parameters under their own names.

    Args:
        module: The model; left in the mode it was in.
        example: As for `export`; the graph takes them in this order.

    Raises:
        InputError: The model cannot be captured; the message names the operator or the line that stands in the way.
    """
    if any(tensor.shape[0] < 2 for tensor in example.values()):
        raise InputError("an example for capture must have a batch of at least 2", where="capture")
    batch = torch.export.Dim("batch", min=1)
    axes: Any = tuple({0: batch} for _ in example)
    training = module.training
    try:
        with quietly():
            program = torch.export.export(module.eval(), args=tuple(example.values()), dynamic_shapes=axes)
            graph: torch.fx.GraphModule = program.module()
    except Exception as error:  # as in `export`
        raise _explained(module, error, None) from error
    finally:
        module.train(training)
    return graph


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporting prints advice about optional packages and dumps of graphs; what matters of them is in the error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def origin(error: BaseException, graph: torch.fx.Graph) -> tuple[str | None, str | None]:
    """The operator that an exporter's error names, and the line of the model that it comes from.

    Args:
        error: With those that caused it.
        graph: Where nodes keep the stack they were captured with.

    Returns:
        Each None where it is not known.
    """
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    found = _OPERATOR.search(text)
    if found is None:
        return None, _own_line(_LINE.findall(text))
    operator = found[1]
    line = _node_line(graph.nodes, operator)
    if line is None:
        family, _, name = operator.partition(".")
        made_of = [node for node in graph.nodes if _comes_from(family, name.partition(".")[0], node)]
        line = _node_line(made_of, "")
        operator = next((str(node.target) for node in made_of), operator)
    return operator, line


def _comes_from(family: str, name: str, node: torch.fx.Node) -> bool:
    """Whether ``node`` may have been written out as the operator ``name``.

    A gradient has its operator's name in front; ``prims.bessel_i1`` is what ``aten.special_i1`` is made of.
    """
    parts = str(node.target).split(".")
    if node.op != "call_function" or len(parts) < 2:
        return False
    if family == "prims":
        return parts[1].rpartition("_")[2] == name.rpartition("_")[2]
    return name != parts[1] and name.strip("_").removesuffix("_backward") == parts[1].strip("_")


def _explained(
    module: torch.nn.Module, error: BaseException, program: torch.export.ExportedProgram | None
) -> InputError:
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    operator = _OPERATOR.search(text)
    line = _operator_line(program, operator[1]) if operator and program is not None else _model_line(chain, text)
    reason = f"operator {operator[1]} has no ONNX form" if operator else _reason(str(chain[-1]))
    return InputError(
        f"the model must export to ONNX with a free batch axis ({reason})",
        where=line or type(module).__name__,
        fix="Rewrite that line with operators that torch.onnx knows, without Python control flow on tensor values and "
        "without fixing the batch size",
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _operator_line(program: torch.export.ExportedProgram, operator: str) -> str | None:
    """The line of the model from which ``operator`` came."""
    with quietly():
        nodes = list(program.graph.nodes) + list(program.run_decompositions().graph.nodes)
    return _node_line(nodes, operator)


def _node_line(nodes: Iterable[torch.fx.Node], operator: str) -> str | None:
    for node in nodes:
        if str(node.target).startswith(operator):
            found = _own_line(_LINE.findall(node.meta.get("stack_trace") or ""))
            if found:
                return found
    return None


def _model_line(chain: Sequence[BaseException], text: str) -> str | None:
    """The innermost line of the model's own code, from lines quoted in messages, else from the stack traces."""
    frames = [f for link in reversed(chain) for f in traceback.extract_tb(link.__traceback__)]
    return _own_line(_LINE.findall(text)) or _own_line([(f.filename, f.lineno or 0, f.line or "") for f in frames])


def _own_line(lines: Sequence[tuple[str, str | int, str]]) -> str | None:
    for file, number, code in reversed(lines):
        library = file.startswith((_TORCH, "<")) or (file.startswith(_STDLIB) and "site-packages" not in file)
        if not library and file != __file__:
            return f"{Path(file).name}:{number} `{code.strip()}`"
    return None


def _reason(message: str) -> str:
    constant = _CONSTANT.search(message)
    if constant:
        return f"its code works for a batch of {constant[1]} only"
    return message.strip().partition("\n")[0][:200]
