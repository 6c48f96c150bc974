"""What has to be measured, all of it known from the campaign and the seed: placements, cold starts, rounds, blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import final

from tierwise._errors import SpecError
from tierwise._seeds import stream
from tierwise.measure import Block, Profile, Scenario, plan_round
from tierwise.study._campaign import Campaign, StrategySpec
from tierwise.topology import Topology

__all__ = ["Asked", "ColdStart", "Plan", "asked_strategies"]

# A system that answers at once would otherwise be asked for ever to fill the shortest duration.
_MAX_ROUNDS = 1000


@final
@dataclass(frozen=True)
class Asked:
    """A strategy before anything was built.

    Attributes:
        id: ``NAME@PLACEMENT``.
        spec: The campaign's entry it comes from.
        segments: ``segments[i]`` is the tier that segment i runs on.
        path: Every tier from the device up to the last segment's.
    """

    id: str
    spec: StrategySpec
    segments: tuple[str, ...]
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The part of the id before the ``@``."""
        return self.spec.name or self.spec.chain.replace(" ", "")

    @property
    def placement(self) -> str:
        """Tiers of the segments joined by ``|``."""
        return "|".join(self.segments)


def asked_strategies(campaign: Campaign, topology: Topology) -> tuple[Asked, ...]:
    """Every chain on every placement, in the order of the campaign.

    A chain that ends in ``partition`` makes two segments, or as many as its option ``parts``; one with ``bottleneck``
    makes two; any other makes one. A
    placement is legal when its tiers climb: each segment runs on a higher tier than the one before.

    Raises:
        SpecError: A placement names an unknown tier, has the wrong number of tiers or does not climb; no placement
            is legal; or two strategies have the same id.
    """
    found: dict[str, Asked] = {}
    for position, spec in enumerate(campaign.strategies):
        where = f"strategies[{position}]"
        for segments in _placements(spec, topology, where):
            top = topology.index(segments[-1])
            asked = Asked("", spec, segments, tuple(tier.name for tier in topology.tiers[: top + 1]))
            asked = Asked(f"{asked.name}@{asked.placement}", spec, segments, asked.path)
            if asked.id in found:
                raise SpecError(
                    "every strategy must have a name of its own",
                    got=f"{asked.id} twice",
                    where=where,
                    fix='Give one of the entries a name, as name = "sptq-64"',
                )
            found[asked.id] = asked
    return tuple(found.values())


def _parts(spec: StrategySpec, where: str) -> int:
    """On how many tiers a chain is spread."""
    names = spec.chain.replace(" ", "").split("+")
    if "bottleneck" in names:
        return 2
    if names[-1] != "partition":
        return 1
    parts = spec.options.get("partition", {}).get("parts", 2)
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 2:
        raise SpecError(
            "parts must be a whole number of at least 2", got=repr(parts), where=f"{where}.options.partition"
        )
    return parts


def _placements(spec: StrategySpec, topology: Topology, where: str) -> list[tuple[str, ...]]:
    names = [tier.name for tier in topology.tiers]
    count = _parts(spec, where)
    if spec.placements == "auto":
        placements = list(itertools.combinations(names, count))
        if not placements:
            raise SpecError(f"the chain {spec.chain!r} needs {count} tiers", got=len(names), where=where)
        return placements
    placements = []
    for index, text in enumerate(spec.placements):
        tiers = tuple(part.strip() for part in text.split("|"))
        climbs = all(tier in names for tier in tiers) and all(
            names.index(lower) < names.index(upper) for lower, upper in itertools.pairwise(tiers)
        )
        if len(tiers) != count or not climbs:
            raise SpecError(
                f"a placement of {spec.chain!r} must be {count} of {', '.join(names)}, from the device upward",
                got=repr(text),
                where=f"{where}.placements[{index}]",
                fix="Write it like " + "|".join(names[-count:]),
            )
        placements.append(tiers)
    return placements


@final
@dataclass(frozen=True)
class ColdStart:
    """One cold start to come: which strategy, which of its cold starts in the session, which input."""

    strategy: str
    number: int
    sample: int


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a study measures.

    Attributes:
        scenario: How load is put on.
        profile: How much.
        seed: Root of the streams.
        strategies: Ids.
        samples: Number of loaded inputs.
    """

    scenario: Scenario
    profile: Profile
    seed: int
    strategies: tuple[str, ...]
    samples: int

    def cold_starts(self, session: int) -> tuple[ColdStart, ...]:
        """The cold starts of a session in their order: all strategies once in random order, then all again."""
        generator = stream(self.seed, "cold", session)
        return tuple(
            ColdStart(self.strategies[int(index)], number, int(generator.integers(self.samples)))
            for number in range(self.profile.cold_starts)
            for index in generator.permutation(len(self.strategies))
        )

    def blocks(self, session: int, measured_s: Callable[[int], float]) -> Iterator[Block]:
        """The blocks of a session in their order.

        Args:
            session: Number of the session.
            measured_s: Gives the sum of the latencies measured in the rounds before a round. It is asked when the
                planned rounds are over, to see whether the session has lasted long enough.
        """
        for round in range(_MAX_ROUNDS):
            if round >= self.profile.rounds and measured_s(round) >= self.profile.min_duration_s:
                return
            yield from self.round(session, round)

    def round(self, session: int, round: int) -> tuple[Block, ...]:
        """The blocks of one round."""
        return plan_round(
            self.scenario, self.strategies, samples=self.samples, seed=self.seed, session=session, round=round
        )

    def complete(
        self,
        session: int,
        keys: Set[tuple[str, str, int, int, int, bool]],
        measured_s: Callable[[int], float],
    ) -> bool:
        """Whether ``keys`` hold every record that a session shall have.

        Args:
            session: Number of the session.
            keys: `Record.key` of its records.
            measured_s: As in `blocks`.
        """
        return self.cold_keys(session) <= keys and all(
            self.block_keys(session, block) <= keys for block in self.blocks(session, measured_s)
        )

    def least_requests(self) -> int:
        """Warm requests of a session when nothing has to be added to fill the shortest duration."""
        return self.profile.rounds * sum(len(block.order) * len(block.queries) for block in self.round(0, 0))

    def cold_keys(self, session: int) -> set[tuple[str, str, int, int, int, bool]]:
        """`Record.key` of every cold start of a session."""
        return {(cold.strategy, self.scenario.TAG, session, cold.number, 0, True) for cold in self.cold_starts(session)}

    def block_keys(self, session: int, block: Block) -> set[tuple[str, str, int, int, int, bool]]:
        """`Record.key` of every record of a block."""
        return {
            (strategy, self.scenario.TAG, session, block.round, query.number, False)
            for strategy in block.order
            for query in block.queries
        }
