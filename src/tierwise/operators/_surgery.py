"""Parts of a torch module between tensors that are named as in its ONNX export."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import fx, nn

from tierwise._errors import InputError

__all__ = ["Anatomy"]


@final
class Anatomy:
    """A module as a graph of operators, from which parts can be taken.

    Operators are those of evaluation: batch norms keep their statistics, dropout is gone.

    Args:
        module: The model, with one input.
        example: Its input by name, a batch of at least 2.

    Raises:
        InputError: It has several inputs, or `torch.export` cannot follow it.
    """

    def __init__(self, module: nn.Module, example: Mapping[str, torch.Tensor]) -> None:
        if len(example) != 1:
            raise InputError(
                "a bottleneck needs a model with one input", got=", ".join(example), where=type(module).__name__
            )
        batch = torch.export.Dim("batch", min=1)
        (tensor,) = example.values()
        training = module.training
        try:
            with _quiet(), torch.no_grad():
                program = torch.export.export(module.eval(), args=(tensor,), dynamic_shapes=({0: batch},), strict=False)
        except Exception as error:  # torch.export raises many trees of its own
            raise InputError(
                f"torch.export must be able to follow the model ({str(error).strip().partition(chr(10))[0]})",
                where=type(module).__name__,
            ) from error
        finally:
            module.train(training)
        with _quiet():
            self._whole = program.module(check_guards=False)
        self._nodes = {node.name: node for node in self._whole.graph.nodes}
        self._input = next(node.name for node in self._whole.graph.nodes if node.op == "placeholder")
        (answers,) = next(node for node in self._whole.graph.nodes if node.op == "output").args
        self._answer: str = (answers if isinstance(answers, fx.Node) else answers[0]).name

    def knows(self, tensor: str) -> bool:
        """Whether a tensor of the ONNX export can be named here."""
        return tensor in self._nodes

    def head(self, tensor: str) -> nn.Module:
        """From the input to a tensor; a copy."""
        return self._part(self._input, (tensor,))

    def tail(self, tensor: str | None, watched: Sequence[str] = ()) -> nn.Module:
        """From a tensor (None: the input) to (the answer, the ``watched`` tensors ...); a copy."""
        return self._part(tensor or self._input, (self._answer, *watched))

    def _part(self, start: str, ends: Sequence[str]) -> nn.Module:
        needed = self._needed(start, ends)
        graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
        source = made[self._nodes[start]] = graph.placeholder("x")
        for node in self._whole.graph.nodes:
            if node in made or node not in needed:
                continue
            if _is_batch(node):
                # The batch is the same everywhere, so that a part need not know the input to know it.
                made[node] = graph.call_function(torch.ops.aten.sym_size.int, (source, 0))
            else:
                made[node] = graph.node_copy(node, lambda old: made[old])
        found = tuple(made[self._nodes[end]] for end in ends)
        graph.output(found if len(found) > 1 else found[0])
        with _quiet():
            return copy.deepcopy(fx.GraphModule(self._whole, graph))

    def _needed(self, start: str, ends: Sequence[str]) -> set[fx.Node]:
        pending, needed = [self._nodes[end] for end in ends], set[fx.Node]()
        while pending:
            node = pending.pop()
            if node in needed or node.name == start:
                continue
            needed.add(node)
            if not _is_batch(node):
                pending += node.all_input_nodes
        return needed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Graphs are copied by what torch itself calls old; nobody here can change that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_batch(node: Any) -> bool:
    return node.target is torch.ops.aten.sym_size.int and node.args[1] == 0
