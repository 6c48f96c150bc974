"""All places where a model can be cut at one tensor, found from the graph."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec
from tierwise.capture._graph import Graph, Node

__all__ = ["Cut", "cut_points", "find_cut"]


@final
@dataclass(frozen=True)
class Cut:
    """A place where the model falls into a head and a tail.

    Attributes:
        tensor: What the head computes and the tail continues from.
        carried: Inputs of the model that the tail needs too and that travel along unchanged (an attention mask).
        bytes: Size of ``tensor`` and ``carried`` together, for a batch of 1.
        head_macs: Multiply-accumulates before the cut.
        tail_macs: Multiply-accumulates after it.
        label: Module path and operator of the tensor's maker, ``layers.0/Relu``.
        position: Position of that operator in the graph.
    """

    tensor: TensorSpec
    carried: tuple[TensorSpec, ...]
    bytes: int
    head_macs: int
    tail_macs: int
    label: str
    position: int


def cut_points(graph: Graph, primary: str | None = None) -> tuple[Cut, ...]:
    """Every legal single-tensor cut, in the order of the graph.

    A computed tensor is a cut when every path from the primary input to an output goes through it (it dominates the
    outputs), and what the tail needs beside it comes from other inputs of the model by operators without arithmetic,
    which the tail repeats. The tensor must be one that can be sent (`Tensor.portable`).

    Tensors on paths from the primary input to the outputs are numbered in topological order. A tensor is on every path
    exactly when no edge leads from before it to behind it: one pass, linear in nodes and edges.

    Args:
        graph: The model's graph.
        primary: The input that the cut must keep below; the largest one (the first among equals) when None.

    Raises:
        InputError: The model has no input, or none called ``primary``.
    """
    source = _primary(graph, primary)
    line = _Line(graph, source)
    head = line.macs_up_to()
    tail_total = head[-1] if head else 0
    aside_head, aside_tail = line.aside_macs()
    cuts = []
    furthest = line.reach[0]
    for i, name in enumerate(line.order[1:], start=1):
        spanned, furthest = furthest > i, max(furthest, line.reach[i])
        tensor = graph.tensors[name]
        if spanned or name in graph.outputs or not tensor.portable or aside_tail[i] > 0:
            continue
        carried = [graph.tensors[q] for q in graph.inputs if q != source and line.last_use.get(q, -1) > i]
        node = graph.nodes[line.maker[name]]
        cuts.append(
            Cut(
                tensor=tensor.spec,
                carried=tuple(q.spec for q in carried),
                bytes=tensor.bytes + sum(q.bytes for q in carried),
                head_macs=head[i] + aside_head[i],
                tail_macs=tail_total - head[i],
                label=node.label,
                position=line.maker[name],
            )
        )
    return tuple(cuts)


def find_cut(cuts: Sequence[Cut], name: str) -> Cut:
    """The cut that ``name`` means: a tensor, a label, or a module path (the last cut inside that module).

    Raises:
        InputError: None of them; the message names the nearest ones.
    """
    for cut in cuts:
        if name in (cut.tensor.name, cut.label):
            return cut
    inside = [cut for cut in cuts if cut.label.startswith((f"{name}/", f"{name}."))]
    if inside:
        return inside[-1]
    labels = [cut.label for cut in cuts]
    near = difflib.get_close_matches(name, [*labels, *(cut.tensor.name for cut in cuts)], n=3, cutoff=0.3)
    raise InputError(
        "a cut must be named by a tensor, a label or a module path at which the model can be cut",
        got=repr(name),
        where=f"{len(cuts)} legal cuts",
        fix=f"Near it: {', '.join(near)}" if near else f"Legal ones: {', '.join(labels[:8]) or 'none'}",
    )


def _primary(graph: Graph, name: str | None) -> str:
    if not graph.inputs or (name is not None and name not in graph.inputs):
        raise InputError(f"the primary input must be one of {list(graph.inputs)}", got=repr(name), where="cut points")
    return name or max(graph.inputs, key=lambda q: graph.tensors[q].bytes)


@final
class _Line:
    """The tensors between the primary input and the outputs, numbered; and what stands aside of them.

    ``order``: their names, the input first. ``reach[i]``: the largest number an edge from tensor i leads to.
    ``maker``: position of each tensor's node. ``last_use``/``first_use``: for tensors that do not depend on the primary
    input, the largest/smallest number of a tensor that is made with their help.
    """

    def __init__(self, graph: Graph, source: str) -> None:
        below = _descendants(graph, source)
        needed = _ancestors(graph)
        self._nodes = [node for node in graph.nodes if any(name in needed for name in node.outputs)]
        self.maker = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
        made = (name for node in self._nodes for name in node.outputs if name in below and name in needed)
        self.order = [source, *made]
        self._number = {name: i for i, name in enumerate(self.order)}
        sink = len(self.order)
        self.reach = list(range(sink))
        self.last_use: dict[str, int] = {}
        self.first_use: dict[str, int] = {}
        for name in graph.outputs:
            if name in self._number:
                self.reach[self._number[name]] = sink
            else:
                self._use(name, sink, sink)
        for node in reversed(self._nodes):
            last = self._last_number(node)
            for name in node.inputs:
                if last is None:
                    outputs = [out for out in node.outputs if out in self.last_use]
                    self._use(name, max(self.last_use[o] for o in outputs), min(self.first_use[o] for o in outputs))
                elif name in self._number:
                    self.reach[self._number[name]] = max(self.reach[self._number[name]], last)
                else:
                    self._use(name, last, last)

    def _use(self, name: str, last: int, first: int) -> None:
        self.last_use[name] = max(self.last_use.get(name, last), last)
        self.first_use[name] = min(self.first_use.get(name, first), first)

    def _last_number(self, node: Node) -> int | None:
        return max((self._number[name] for name in node.outputs if name in self._number), default=None)

    def macs_up_to(self) -> list[int]:
        """MACs of the operators on the line that make tensors up to each number."""
        macs = [0] * len(self.order)
        for node in self._nodes:
            last = self._last_number(node)
            if last is not None:
                macs[last] += node.macs
        return list(accumulate(macs))

    def aside_macs(self) -> tuple[list[int], list[int]]:
        """MACs aside of the line that the head and that the tail of a cut at each number must compute."""
        first, last = [0] * (len(self.order) + 1), [0] * (len(self.order) + 1)
        for node in self._nodes:
            if self._last_number(node) is None:
                used = [name for name in node.outputs if name in self.last_use]
                first[min(self.first_use[name] for name in used)] += node.macs
                last[max(self.last_use[name] for name in used)] += node.macs
        up_to, total = list(accumulate(last)), sum(last)
        return list(accumulate(first)), [total - done for done in up_to]


def _descendants(graph: Graph, source: str) -> set[str]:
    reached = {source}
    for node in graph.nodes:
        if any(name in reached for name in node.inputs):
            reached.update(node.outputs)
    return reached


def _ancestors(graph: Graph) -> set[str]:
    needed: set[str] = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.outputs):
            needed.update(node.inputs)
    return needed
