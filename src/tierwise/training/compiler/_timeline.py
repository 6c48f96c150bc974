"""The graph of a step as the engine runs it: which buffer lives when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import onnx

from tierwise.training._trial import Held

__all__ = ["Moment", "Run", "Tensors", "Timeline", "reads", "timeline_of"]

# The output shares the memory of the first input, always.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
# What a kernel takes for itself while it runs, in tensors of its output's size.
_WORKSPACE = {"Where": 2}


@final
@dataclass(frozen=True)
class Moment:
    """One operator of a step.

    Attributes:
        name: Of the operator.
        kind: What it computes.
        bytes: Intermediate tensors alive while it runs.
    """

    name: str
    kind: str
    bytes: int


@final
@dataclass(frozen=True)
class Timeline:
    """Which tensor lives when, over one step; weights, state, inputs and outputs are the caller's and not counted.

    Attributes:
        moments: In the order of the run.
        held: Buffers, in the order of their making.
    """

    moments: tuple[Moment, ...]
    held: tuple[Held, ...]

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at once."""
        return max((moment.bytes for moment in self.moments), default=0)

    def at_peak(self, count: int = 10) -> tuple[Held, ...]:
        """The largest buffers that live at the (first) peak.

        Args:
            count: At most so many.
        """
        peak = next((i for i, moment in enumerate(self.moments) if moment.bytes == self.peak_bytes), 0)
        alive = [one for one in self.held if one.first <= peak <= one.last]
        return tuple(sorted(alive, key=lambda one: -one.bytes)[:count])


@final
class Tensors:
    """What is to know of a graph's tensors: sizes, and which are the caller's."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.given = {value.name for value in (*graph.input, *graph.initializer)}
        self.wanted = {value.name for value in graph.output}
        self.bytes = {value.name: _bytes(value) for value in (*graph.value_info, *graph.output)}
        self.reads = [tuple(dict.fromkeys(reads(node))) for node in graph.node]
        self.makes = [tuple(name for name in node.output if name) for node in graph.node]
        self.viewed = [node.input[0] if node.op_type in _VIEWS else "" for node in graph.node]
        self.readers: dict[str, list[int]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                self.readers.setdefault(name, []).append(i)


@final
class Run:
    """The buffers while nodes run one after another."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.left = {name: len(readers) for name, readers in tensors.readers.items()}
        self._buffer: dict[str, str] = {}
        self._inside: dict[str, list[str]] = {}
        self._changes: dict[int, tuple[int, int]] = {}  # what was asked and has not altered since
        self.users: dict[str, int] = {}
        self.sizes: dict[str, int] = {"": 0}  # what is shared with the caller has no size here
        self.live = 0

    def change(self, i: int) -> tuple[int, int]:
        """Bytes that node ``i`` adds while it runs, and what is left of them behind it (less what ends with it)."""
        known = self._changes.get(i)
        if known is None:
            known = self._changes[i] = self._change(i)
        return known

    def _change(self, i: int) -> tuple[int, int]:
        tensors, taken, made, unread = self._tensors, self._taken(i), 0, 0
        for name in tensors.makes[i]:
            if name not in taken and name not in tensors.wanted:
                made += tensors.bytes.get(name, 0)
                unread += 0 if self.left.get(name) else tensors.bytes.get(name, 0)
        ended = sum(self.sizes[buffer] for buffer in self._ending(i) if buffer not in taken.values())
        return made, made - ended - unread

    def run(self, i: int) -> tuple[list[str], list[str]]:
        """Run node ``i``; the buffers that it made and those that end with it."""
        taken, ending = self._taken(i), self._ending(i)
        made, touched = [], set[str]()
        for name in self._tensors.makes[i]:
            if name in self._tensors.wanted:
                continue
            buffer = taken.get(name, name)
            if buffer == name:
                made.append(name)
                self.sizes[name] = self._tensors.bytes.get(name, 0)
                self.live += self.sizes[name]
            self._buffer[name] = buffer
            self._inside.setdefault(buffer, []).append(name)
            self.users[buffer] = self.users.get(buffer, 0) + self.left.get(name, 0)
            touched.add(buffer)
        for name in self._tensors.reads[i]:
            self.left[name] -= 1
            if name in self._buffer:
                self.users[self._buffer[name]] -= 1
                touched.add(self._buffer[name])
        for buffer in touched:  # the change of a node follows from the buffers that it reads
            for name in self._inside[buffer]:
                for reader in self._tensors.readers.get(name, ()):
                    self._changes.pop(reader, None)
        ended = [buffer for buffer in (*ending, *made) if self.users.get(buffer) == 0]
        return made, ended

    def free(self, buffers: Sequence[str]) -> None:
        """Give buffers back."""
        for buffer in buffers:
            self.live -= self.sizes.pop(buffer)

    def _ending(self, i: int) -> list[str]:
        ending: dict[str, int] = {}
        for name in self._tensors.reads[i]:
            if name in self._buffer:
                ending[self._buffer[name]] = ending.get(self._buffer[name], 0) + 1
        return [buffer for buffer, count in ending.items() if self.users[buffer] == count]

    def _taken(self, i: int) -> dict[str, str]:
        """Outputs that lie in a buffer that is there already."""
        made, viewed = self._tensors.makes[i], self._tensors.viewed[i]
        if not viewed or not made or made[0] in self._tensors.wanted:
            return {}
        if viewed in self._buffer:
            return {made[0]: self._buffer[viewed]}
        return {made[0]: ""} if viewed in self._tensors.given else {}


def timeline_of(model: onnx.ModelProto, order: Sequence[int] | None = None) -> Timeline:
    """Which tensor lives when, if ONNX Runtime runs ``model`` and frees every buffer behind its last reader.

    So it does when told to reuse no memory. Reuse writes results over inputs that nobody reads any more, but also keeps
    dead buffers for later tensors of their size; it has needed more wherever it was measured.

    Args:
        model: With the types of all its tensors, as ONNX Runtime writes an optimised graph.
        order: Positions of the nodes; None: as they stand.
    """
    tensors = Tensors(model.graph)
    run = Run(tensors)
    moments, first, held = [], dict[str, int](), []
    chosen = range(len(model.graph.node)) if order is None else order
    for at, i in enumerate(chosen):
        made, ended = run.run(i)
        first.update(dict.fromkeys(made, at))
        node = model.graph.node[i]
        own = _WORKSPACE.get(node.op_type, 0) * sum(tensors.bytes.get(name, 0) for name in node.output)
        moments.append(Moment(node.name, node.op_type, run.live + own))
        held += [Held(name, run.sizes[name], first[name], at) for name in ended if name]
        run.free([name for name in ended if name])
    return Timeline(tuple(moments), tuple(sorted(held, key=lambda one: one.first)))


def reads(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors that a node reads, those inside its own graphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in reads(inner)]
    return names


def _bytes(value: onnx.ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    if tensor.elem_type == 0:
        return 0
    wide = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return math.prod(int(dim.dim_value) for dim in tensor.shape.dim) * int(wide)
