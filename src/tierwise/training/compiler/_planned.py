"""The graph of a step as the engine runs it: which buffer lives when, and the order in which they need least."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import onnx

__all__ = ["Held", "Moment", "Timeline", "order_for_memory", "timeline_of"]

# The output shares the memory of the first input, always.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
# What a kernel takes for itself while it runs, in tensors of its output's size.
_WORKSPACE = {"Where": 2}
_NEXT, _CHECKED = "next.", "loss"


@final
@dataclass(frozen=True)
class Held:
    """A buffer of one step.

    Attributes:
        name: Of the tensor it is made for.
        bytes: Its size.
        first: The moment at which it is made.
        last: The last moment at which it is read.
    """

    name: str
    bytes: int
    first: int
    last: int


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
class _Tensors:
    """What is to know of a graph's tensors: sizes, and which are the caller's."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.given = {value.name for value in (*graph.input, *graph.initializer)}
        self.wanted = {value.name for value in graph.output}
        self.bytes = {value.name: _bytes(value) for value in (*graph.value_info, *graph.output)}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(graph.node):
            for name in set(_reads(node)):
                self.readers.setdefault(name, []).append(i)


@final
class _Run:
    """The buffers while nodes run one after another."""

    def __init__(self, graph: onnx.GraphProto, tensors: _Tensors) -> None:
        self._nodes, self._tensors = graph.node, tensors
        self.left = {name: len(readers) for name, readers in tensors.readers.items()}
        self._buffer: dict[str, str] = {}
        self.users: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.live = 0

    def change(self, i: int) -> tuple[int, int]:
        """Bytes that node ``i`` adds while it runs, and what is left of them behind it (less what ends with it)."""
        node, made = self._nodes[i], 0
        taken = self._taken(i)
        for name in node.output:
            if name and name not in taken and name not in self._tensors.wanted:
                made += self._tensors.bytes.get(name, 0)
        ended = sum(self.sizes[buffer] for buffer in self._ending(i) if buffer not in taken.values())
        unread = sum(
            self._tensors.bytes.get(name, 0)
            for name in node.output
            if name and name not in taken and name not in self._tensors.wanted and not self.left.get(name)
        )
        return made, made - ended - unread

    def run(self, i: int) -> tuple[list[str], list[str]]:
        """Run node ``i``; the buffers that it made and those that end with it."""
        node, taken, ending = self._nodes[i], self._taken(i), self._ending(i)
        made = []
        for name in node.output:
            if not name or name in self._tensors.wanted:
                continue
            buffer = taken.get(name, name)
            if buffer == name:
                made.append(name)
                self.sizes[name] = self._tensors.bytes.get(name, 0)
                self.live += self.sizes[name]
            self._buffer[name] = buffer
            self.users[buffer] = self.users.get(buffer, 0) + self.left.get(name, 0)
        for name in set(_reads(node)):
            self.left[name] -= 1
            if name in self._buffer:
                self.users[self._buffer[name]] -= 1
        ended = [buffer for buffer in (*ending, *made) if self.users.get(buffer) == 0]
        return made, ended

    def free(self, buffers: Sequence[str]) -> None:
        """Give buffers back."""
        for buffer in buffers:
            self.live -= self.sizes.pop(buffer)

    def _ending(self, i: int) -> list[str]:
        ending: dict[str, int] = {}
        for name in set(_reads(self._nodes[i])):
            if name in self._buffer:
                ending[self._buffer[name]] = ending.get(self._buffer[name], 0) + 1
        return [buffer for buffer, count in ending.items() if self.users[buffer] == count]

    def _taken(self, i: int) -> dict[str, str]:
        """Outputs that lie in a buffer that is there already."""
        node = self._nodes[i]
        if not node.output or node.output[0] in self._tensors.wanted:
            return {}
        out = node.output[0]
        if node.op_type in _VIEWS and node.input[0] in self._buffer:
            return {out: self._buffer[node.input[0]]}
        if node.op_type in _VIEWS and node.input[0] in self._tensors.given:
            return {out: ""}
        return {}


def timeline_of(model: onnx.ModelProto, order: Sequence[int] | None = None) -> Timeline:
    """Which tensor lives when, if ONNX Runtime runs ``model`` and frees every buffer behind its last reader.

    So it does when told to reuse no memory. Reuse writes results over inputs that nobody reads any more, but also keeps
    dead buffers for later tensors of their size; it has needed more wherever it was measured.

    Args:
        model: With the types of all its tensors, as ONNX Runtime writes an optimised graph.
        order: Positions of the nodes; None: as they stand.
    """
    tensors = _Tensors(model.graph)
    run = _Run(model.graph, tensors)
    run.sizes[""] = 0
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


def order_for_memory(model: onnx.ModelProto) -> Timeline:
    """Put the nodes of ``model`` into an order that needs little memory, and say what it needs.

    Four orders are compared and the one with the lowest peak is kept: the given one; the given one, but a node that
    frees at least what it makes runs as soon as it can; the greedy one, in which the node runs that adds least; and
    that, but nothing is made before somebody can use it. Each of them also with what grows moved to its first reader.
    A node that writes a new state comes behind all that read the old one, so the two may be one buffer, and behind the
    check of the loss.
    """
    orders = [list(range(len(model.graph.node))), _shrinking_first(model), _greedy(model), _useful_first(model)]
    orders += [_late(model, order) for order in orders]
    legal = [order for order in orders if _legal(model, order)]
    best = min(legal, key=lambda order: timeline_of(model, order).peak_bytes)
    nodes = [model.graph.node[i] for i in best]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return timeline_of(model)


def _late(model: onnx.ModelProto, order: Sequence[int]) -> list[int]:
    """``order``, but what makes more than ends with it stands right before the first that must come behind."""
    tensors = _Tensors(model.graph)
    run, place = _Run(model.graph, tensors), {i: float(at) for at, i in enumerate(order)}
    run.sizes[""] = 0
    grows = set()
    for i in order:
        if run.change(i)[1] > 0:
            grows.add(i)
        _, ended = run.run(i)
        run.free([name for name in ended if name])
    behind = _behind(_before(model.graph))
    for i in reversed(order):
        later = [place[j] for j in behind.get(i, ())]
        if i in grows and later:
            place[i] = min(later) - 1e-4
    return sorted(order, key=place.__getitem__)


def _legal(model: onnx.ModelProto, order: Sequence[int]) -> bool:
    done: set[int] = set()
    before = _before(model.graph)
    for i in order:
        if not before[i] <= done:
            return False
        done.add(i)
    return len(done) == len(model.graph.node)


def _before(graph: onnx.GraphProto) -> list[set[int]]:
    """For every node those that must have run."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    before = [{maker[name] for name in _reads(node) if name in maker} for node in graph.node]
    for name in (value.name for value in graph.output):
        old = name.removeprefix(_NEXT)
        writer = maker.get(name)
        if old == name or writer is None:
            continue
        if _CHECKED in maker:
            before[writer].add(maker[_CHECKED])
        for i, node in enumerate(graph.node):
            if i != writer and old in _reads(node):
                before[writer].add(i)
    return before


def _behind(before: Sequence[set[int]]) -> dict[int, list[int]]:
    behind: dict[int, list[int]] = {}
    for i, earlier in enumerate(before):
        for one in earlier:
            behind.setdefault(one, []).append(i)
    return behind


def _greedy(model: onnx.ModelProto) -> list[int]:
    return list(_listed(model, lambda run, i: (run.change(i)[1], i)))


def _useful_first(model: onnx.ModelProto) -> list[int]:
    """As greedy, but what grows runs only where a reader of it can run then: nothing is made long before its use.

    A small summary of what it reads (a mask, a sum) runs at once, since it spares what it was made of.
    """
    tensors, before = _Tensors(model.graph), _before(model.graph)
    readers = {name: set(places) for name, places in tensors.readers.items()}
    nodes, done = model.graph.node, set[int]()

    def key(run: _Run, i: int) -> tuple[int, int, int]:
        made, growth = run.change(i)
        widest = max((tensors.bytes.get(name, 0) for name in _reads(nodes[i])), default=0)
        if growth <= 0 or 4 * made <= widest:
            return (0, growth, i)
        led = {reader for name in nodes[i].output for reader in readers.get(name, ())}
        useful = any(before[reader] - {i} <= done for reader in led)
        return (1 if useful else 2, growth, i)

    found = []
    for i in _listed(model, key):
        done.add(i)
        found.append(i)
    return found


def _shrinking_first(model: onnx.ModelProto) -> list[int]:
    late = _when_needed(model)

    def key(run: _Run, i: int) -> tuple[int, int]:
        growth = run.change(i)[1]
        return (0 if growth <= 0 else 1, late[i])

    return list(_listed(model, key))


def _when_needed(model: onnx.ModelProto) -> list[int]:
    """The place of a node; of one that reads only what is given, the place of the first that reads it."""
    nodes = model.graph.node
    given = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    place = list(range(len(nodes)))
    readers = _Tensors(model.graph).readers
    for i in reversed(range(len(nodes))):
        if all(name in given for name in _reads(nodes[i])):
            later = [place[j] for name in nodes[i].output for j in readers.get(name, ())]
            place[i] = min(later, default=i)
    return place


def _listed(model: onnx.ModelProto, key: Any) -> Iterator[int]:
    tensors = _Tensors(model.graph)
    run, before = _Run(model.graph, tensors), _before(model.graph)
    run.sizes[""] = 0
    behind = _behind(before)
    waiting = [len(earlier) for earlier in before]
    ready = {i for i, count in enumerate(waiting) if count == 0}
    while ready:
        chosen = min(ready, key=lambda i: key(run, i))
        ready.remove(chosen)
        _, ended = run.run(chosen)
        run.free([name for name in ended if name])
        for i in behind.get(chosen, ()):
            waiting[i] -= 1
            if waiting[i] == 0:
                ready.add(i)
        yield chosen


def _reads(node: onnx.NodeProto) -> list[str]:
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in _reads(inner)]
    return names


def _bytes(value: onnx.ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    if tensor.elem_type == 0:
        return 0
    wide = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return math.prod(dim.dim_value for dim in tensor.shape.dim) * wide
