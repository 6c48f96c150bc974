"""The order of a step's nodes that needs least memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx

from tierwise.training.compiler._timeline import Run, Tensors, Timeline, reads, timeline_of

__all__ = ["order_for_memory"]

_NEXT, _CHECKED = "next.", "loss"


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
    before = _before(model.graph)
    legal = [order for order in orders if _legal(before, order)]
    best = min(legal, key=lambda order: timeline_of(model, order).peak_bytes)
    nodes = [model.graph.node[i] for i in best]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return timeline_of(model)


def _late(model: onnx.ModelProto, order: Sequence[int]) -> list[int]:
    """``order``, but what makes more than ends with it stands right before the first that must come behind."""
    tensors = Tensors(model.graph)
    run, place = Run(tensors), {i: float(at) for at, i in enumerate(order)}
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


def _legal(before: Sequence[set[int]], order: Sequence[int]) -> bool:
    done: set[int] = set()
    for i in order:
        if not before[i] <= done:
            return False
        done.add(i)
    return len(done) == len(before)


def _before(graph: onnx.GraphProto) -> list[set[int]]:
    """For every node those that must have run."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    read = [set(reads(node)) for node in graph.node]
    before = [{maker[name] for name in names if name in maker} for names in read]
    for name in (value.name for value in graph.output):
        old = name.removeprefix(_NEXT)
        writer = maker.get(name)
        if old == name or writer is None:
            continue
        if _CHECKED in maker:
            before[writer].add(maker[_CHECKED])
        before[writer].update(i for i, names in enumerate(read) if i != writer and old in names)
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
    tensors, before = Tensors(model.graph), _before(model.graph)
    readers = {name: set(places) for name, places in tensors.readers.items()}
    done = set[int]()

    def key(run: Run, i: int) -> tuple[int, int, int]:
        made, growth = run.change(i)
        widest = max((tensors.bytes.get(name, 0) for name in tensors.reads[i]), default=0)
        if growth <= 0 or 4 * made <= widest:
            return (0, growth, i)
        led = {reader for name in tensors.makes[i] for reader in readers.get(name, ())}
        useful = any(before[reader] - {i} <= done for reader in led)
        return (1 if useful else 2, growth, i)

    found = []
    for i in _listed(model, key):
        done.add(i)
        found.append(i)
    return found


def _shrinking_first(model: onnx.ModelProto) -> list[int]:
    late = _when_needed(model)

    def key(run: Run, i: int) -> tuple[int, int]:
        growth = run.change(i)[1]
        return (0 if growth <= 0 else 1, late[i])

    return list(_listed(model, key))


def _when_needed(model: onnx.ModelProto) -> list[int]:
    """The place of a node; of one that reads only what is given, the place of the first that reads it."""
    nodes = model.graph.node
    given = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    place = list(range(len(nodes)))
    readers = Tensors(model.graph).readers
    for i in reversed(range(len(nodes))):
        if all(name in given for name in reads(nodes[i])):
            later = [place[j] for name in nodes[i].output for j in readers.get(name, ())]
            place[i] = min(later, default=i)
    return place


def _listed(model: onnx.ModelProto, key: Callable[[Run, int], Any]) -> Iterator[int]:
    tensors = Tensors(model.graph)
    run, before = Run(tensors), _before(model.graph)
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
