"""The evolutionary search of schemes, as it was published; it need not find the best one."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from tierwise._config import Spec
from tierwise._seeds import stream
from tierwise.training.search._table import Budget, Choice, Table

__all__ = ["Evolution", "search_evolving"]

Positive = Annotated[int, msgspec.Meta(gt=0)]


class Evolution(Spec, frozen=True, kw_only=True):
    """How the search goes. The publication gives no numbers; these take about a second.

    Attributes:
        population: Schemes alive.
        generations: How often they are replaced.
        parents: How many of the best ones the next generation comes from.
        mutation: Chance that a layer's ratio, or the depth, is drawn anew.
        seed: Of everything random.
    """

    population: Positive = 100
    generations: Positive = 60
    parents: Positive = 25
    mutation: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    seed: int = 0


def search_evolving(table: Table, budget: Budget, how: Evolution | None = None) -> Choice | None:
    """The best choice that evolution finds; None where not even the shallowest depth fits.

    Half of each generation are mutated parents, half crossed ones; what is over the budget loses random slices until it
    fits. (Lin et al., arXiv 2206.15472, section 2.2; the population's handling is ours.)
    """
    how = how if how is not None else Evolution()
    rng = stream(how.seed, "evolution")
    if not any(table.fits(Choice(depth), budget) for depth in range(len(table.depths))):
        return None
    layers: dict[str, list[int]] = {}
    for place, part in enumerate(table.slices):
        layers.setdefault(part.layer, []).append(place)
    people = [_mutated(table, budget, layers, Choice(0), 1.0, rng) for _ in range(how.population)]
    for _ in range(how.generations):
        parents = sorted(people, key=table.gain, reverse=True)[: how.parents]
        children = list(parents)
        while len(children) < how.population:
            one, other = (parents[int(i)] for i in rng.integers(len(parents), size=2))
            if rng.random() < 0.5:
                children.append(_mutated(table, budget, layers, one, how.mutation, rng))
            else:
                children.append(_crossed(table, budget, layers, one, other, rng))
        people = children
    return max(people, key=table.gain)


def _mutated(
    table: Table, budget: Budget, layers: dict[str, list[int]], choice: Choice, chance: float, rng: np.random.Generator
) -> Choice:
    depth = int(rng.integers(len(table.depths))) if rng.random() < chance else choice.depth
    chosen = set(choice.slices)
    for places in layers.values():
        if rng.random() < chance:
            chosen -= set(places)
            drawn = int(rng.integers(len(places) + 1))
            chosen |= set(places[drawn : drawn + 1])
    return _affordable(table, budget, Choice(depth, tuple(sorted(chosen))), rng)


def _crossed(
    table: Table,
    budget: Budget,
    layers: dict[str, list[int]],
    one: Choice,
    other: Choice,
    rng: np.random.Generator,
) -> Choice:
    chosen: list[int] = []
    for places in layers.values():
        parent = one if rng.random() < 0.5 else other
        chosen += [place for place in parent.slices if place in places]
    depth = one.depth if rng.random() < 0.5 else other.depth
    return _affordable(table, budget, Choice(depth, tuple(sorted(chosen))), rng)


def _affordable(table: Table, budget: Budget, choice: Choice, rng: np.random.Generator) -> Choice:
    """``choice`` without what its depth does not reach, then without random slices, then less deep, until it fits."""
    depth = choice.depth
    while depth > 0 and not table.fits(Choice(depth), budget):
        depth -= 1
    if not table.fits(Choice(depth), budget):
        depth = next(i for i in range(len(table.depths)) if table.fits(Choice(i), budget))
    chosen = [place for place in choice.slices if table.slices[place].biases <= table.depths[depth].biases]
    while chosen and not table.fits(Choice(depth, tuple(chosen)), budget):
        chosen.pop(int(rng.integers(len(chosen))))
    return Choice(depth, tuple(chosen))
