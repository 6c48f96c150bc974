"""A student that starts as its teacher with some of the layers left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

__all__ = ["Inheritance", "inherit"]

Signature = tuple[tuple[str, tuple[int, ...]], ...]


@final
@dataclass(frozen=True)
class Inheritance:
    """What a student took over.

    Attributes:
        kept: For each list of layers that is shorter in the student: its path, the positions taken, and how many the
            teacher has.
    """

    kept: tuple[tuple[str, tuple[int, ...], int], ...]

    @property
    def words(self) -> str:
        """In words, counting from 1."""
        return ", ".join(f"{len(taken)} of {count} ({_counted(taken)})" for _, taken, count in self.kept)


def inherit(teacher: nn.Module, student: nn.Module) -> Inheritance | None:
    """Fill ``student`` with the tensors of ``teacher``; where it has fewer layers, with evenly spaced ones.

    First and last layer of every run of like layers are among them. That gives the layers which the published code of
    DistilBERT takes (Sanh et al. 2019, arXiv 1910.01108): the 1., 3., 5., 8., 10. and 12. of twelve. A residual
    network's stages are such runs.

    Args:
        teacher: Stays as it is.
        student: Changed in place, whole or not at all.

    Returns:
        What was taken; None where a tensor of the student has no like in the teacher, or nothing is left out.
    """
    others = dict(teacher.named_modules())
    kept = []
    for path, layers in student.named_modules():
        other = others.get(path)
        if not (isinstance(layers, (nn.Sequential, nn.ModuleList)) and isinstance(other, type(layers))):
            continue
        if len(layers) < len(other):
            taken = _matched([_signature(layer) for layer in other], [_signature(layer) for layer in layers])
            if taken is None:
                return None
            kept.append((path, taken, len(other)))
    if not kept:
        return None
    found = Inheritance(tuple(kept))
    given, filled = teacher.state_dict(), {}
    for name, tensor in student.state_dict().items():
        source = given.get(_renamed(name, found))
        if source is None or source.shape != tensor.shape:
            return None
        filled[name] = source
    student.load_state_dict(filled)
    return found


def _matched(teacher: Sequence[Signature], student: Sequence[Signature]) -> tuple[int, ...] | None:
    """Positions in the teacher for the student's layers: run by run, evenly spaced inside each."""
    runs = iter(_runs(teacher))
    taken: list[int] = []
    for signature, start, stop in _runs(student):
        wanted = stop - start
        match = next((run for run in runs if run[0] == signature and run[2] - run[1] >= wanted), None)
        if match is None:
            return None
        taken.extend(match[1] + place for place in _spaced(wanted, match[2] - match[1]))
    return tuple(taken)


def _spaced(count: int, among: int) -> list[int]:
    if count == 1:
        return [0]
    return [round(i * (among - 1) / (count - 1)) for i in range(count)]


def _runs(layers: Sequence[Signature]) -> Iterator[tuple[Signature, int, int]]:
    """(signature, first, past the last) of layers of one kind that follow each other."""
    start = 0
    for i in range(1, len(layers) + 1):
        if i == len(layers) or layers[i] != layers[start]:
            yield layers[start], start, i
            start = i


def _signature(layer: nn.Module) -> Signature:
    state: dict[str, torch.Tensor] = layer.state_dict()
    return tuple((name, tuple(tensor.shape)) for name, tensor in state.items())


def _renamed(name: str, found: Inheritance) -> str:
    for path, taken, _ in found.kept:
        prefix = f"{path}."
        if name.startswith(prefix):
            position, dot, rest = name.removeprefix(prefix).partition(".")
            return f"{prefix}{taken[int(position)]}{dot}{rest}"
    return name


def _counted(taken: Sequence[int]) -> str:
    return "the " + ", ".join(f"{position + 1}." for position in taken)
