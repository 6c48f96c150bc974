"""One session: all processes are started, every strategy is deployed, and what is still missing is measured."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec

from tierwise._clock import SystemClock
from tierwise._errors import EmulationError, RemoteError, UnavailableError
from tierwise._units import format_bytes
from tierwise.artifact import Artifact
from tierwise.measure import (
    InaMeter,
    Progress,
    RaplMeter,
    Reply,
    Turn,
    Wattmeter,
    open_meters,
    read_environment,
    run_block,
    run_cold,
    warm_up,
)
from tierwise.runtime import Pipeline, PipelineSUT, Placed, Share, deploy, undeploy
from tierwise.study._inputs import Inputs
from tierwise.study._plan import Plan
from tierwise.study._results import Strategy
from tierwise.study._store import Store
from tierwise.study._stored import StoredSession
from tierwise.testbed import Testbed, open_testbed
from tierwise.topology import Topology
from tierwise.wire import InferenceClient

__all__ = ["Bench", "Equipment", "run_session"]

# What disturbs a machine may be over soon; a topology that it cannot emulate stays that way.
_OPENINGS, _PAUSE_S = 3, 10.0
# A request that takes longer has failed; over the slowest link an answer may well take seconds.
_TIMEOUT_S = 30.0


@final
@dataclass(frozen=True)
class Equipment:
    """What every session of a study uses.

    Attributes:
        plan: What is measured.
        strategies: By id.
        artifacts: By variant key.
        inputs: What requests are made of.
        topology: As asked.
        machine_cpus: CPUs to fit it to.
        link_means: Means of emulating links; None: the best there is.
        limiter: Means of limiting CPUs; None: the best there is.
        workdir: For logs and sockets of the nodes.
        sys_root: Where the kernel shows this machine's energy meters.
    """

    plan: Plan
    strategies: Mapping[str, Strategy]
    artifacts: Mapping[str, Artifact]
    inputs: Inputs
    topology: Topology
    machine_cpus: float
    link_means: str | None
    limiter: str | None
    workdir: Path
    sys_root: Path = Path("/sys")


def run_session(equipment: Equipment, store: Store, number: int, progress: Progress) -> bool:
    """Measure what session ``number`` still lacks.

    Returns:
        Whether it is complete; False where a node died, so that the session must be opened again.

    Raises:
        EmulationError: A tier or a link came out too far from its spec.
        UnavailableError: The machine cannot emulate the topology, or a node died of loading a strategy.
    """
    plan = equipment.plan
    title = f"session {number + 1} of {plan.profile.sessions}"
    with contextlib.ExitStack() as stack:
        with progress.step(f"{title}: start nodes, verify links and tiers", None):
            bed = _open(stack, equipment, store, progress)
        wattmeter = _wattmeter(equipment)
        stored = StoredSession(
            environment=read_environment(),
            calibration=msgspec.to_builtins(bed.calibration),
            rest=None if wattmeter is None else wattmeter.rest,
        )
        attempt = store.open_session(number, stored)
        turn = Turn(session=number, attempt=attempt, labels=equipment.inputs.labels)
        bench = Bench(equipment, bed, store, turn, wattmeter)
        stack.enter_context(bench.pipelines())
        bench.cold_starts(title, progress)
        bench.warm_up(title, progress)
        with _quiet_collector():
            complete = bench.measure(title, progress)
        store.add_to_session(number, attempt, "environment_after", read_environment())
    return complete


def _open(stack: contextlib.ExitStack, equipment: Equipment, store: Store, progress: Progress) -> Testbed:
    """Enter a testbed that is as asked, by the same means in all sessions of a study."""
    link_means, limiter = equipment.link_means, equipment.limiter
    for row in store.sessions()[:1]:
        first = msgspec.json.decode(row[2], type=StoredSession).calibration
        link_means, limiter = first["link_means"], first["limiter"]
    left = _OPENINGS
    while True:
        left -= 1
        try:
            return stack.enter_context(
                open_testbed(
                    equipment.topology,
                    workdir=equipment.workdir,
                    link_means=link_means,
                    limiter=limiter,
                    machine_cpus=equipment.machine_cpus,
                    report=progress.say,
                )
            )
        except EmulationError as error:
            if left == 0:
                raise
            progress.say(f"{error} Trying again in {_PAUSE_S:g} s, {left} more times.")
            time.sleep(_PAUSE_S)


def _wattmeter(equipment: Equipment) -> Wattmeter | None:
    """This machine's meters; None where none of them counts what its processors draw, or no tier runs on it."""
    meters = open_meters(root=equipment.sys_root)
    # Nodes compute on processors: the counters of graphics cards alone would leave out all that requests cost.
    counted = any(isinstance(meter, InaMeter | RaplMeter) for meter in meters)
    if not counted or all(tier.address is not None for tier in equipment.topology.tiers):
        return None
    with contextlib.suppress(UnavailableError):
        return Wattmeter(meters, SystemClock())
    return None


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep what is alive out of garbage collections: with torch loaded, one takes a tenth of a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@final
class Bench:
    """A running testbed with the strategies on it."""

    def __init__(
        self, equipment: Equipment, bed: Testbed, store: Store, turn: Turn, wattmeter: Wattmeter | None = None
    ) -> None:
        self._equipment, self._bed, self._store, self._turn = equipment, bed, store, turn
        self._wattmeter = wattmeter
        self._plan, self._clock = equipment.plan, SystemClock()
        self._systems: dict[str, PipelineSUT] = {}

    @contextlib.contextmanager
    def pipelines(self) -> Iterator[None]:
        """The client's connections: one per strategy, to the device's node."""
        device = self._equipment.topology.tiers[0].name
        requests = self._equipment.inputs.requests
        with contextlib.ExitStack() as stack:
            for strategy in self._equipment.strategies.values():
                encoding = self._artifact(strategy).manifest.input
                pipeline = stack.enter_context(
                    Pipeline(self._bed.control[device], strategy.id, encoding, timeout_s=_TIMEOUT_S)
                )
                self._systems[strategy.id] = PipelineSUT(strategy.id, pipeline, requests.__getitem__)
            yield

    def cold_starts(self, title: str, progress: Progress) -> None:
        """Deploy everything; the first request after each loading is recorded, unless an earlier attempt has it."""
        cold_starts = self._plan.cold_starts(self._turn.session)
        known = self._store.keys(self._turn.session)
        deployed: set[str] = set()
        with progress.step(f"{title}: deploy, cold starts", len(cold_starts) or len(self._systems)) as advance:
            for cold in cold_starts:
                key = (cold.strategy, self._plan.scenario.TAG, self._turn.session, cold.number, 0, True)
                if key not in known or cold.strategy not in deployed:
                    strategy = self._equipment.strategies[cold.strategy]
                    load_s, failure = self._deploy(strategy, again=cold.strategy in deployed)
                    deployed.add(cold.strategy)
                    if key not in known:
                        record = run_cold(
                            _Unloaded(strategy.id, failure) if failure else self._systems[strategy.id],
                            self._plan.scenario,
                            cold.number,
                            cold.sample,
                            load_s,
                            self._clock,
                            self._turn,
                        )
                        self._store.append([record])
                advance(1)
            for strategy in self._equipment.strategies.values():
                if strategy.id not in deployed:
                    self._deploy(strategy, again=False)
                    advance(1)

    def warm_up(self, title: str, progress: Progress) -> None:
        """Send requests until latencies stand still; nothing of it becomes a record."""
        profile = self._plan.profile
        with progress.step(f"{title}: warm up", len(self._systems)) as advance:
            warmups = warm_up(
                self._systems,
                samples=self._plan.samples,
                window=profile.warmup_window,
                windows=profile.warmup_windows,
                seed=self._plan.seed,
                session=self._turn.session,
                clock=self._clock,
                advance=advance,
            )
        self._store.add_to_session(self._turn.session, self._turn.attempt, "warmups", warmups)

    def measure(self, title: str, progress: Progress) -> bool:
        """Run the blocks that are not in the store yet; False where a node died."""
        session = self._turn.session
        known = self._store.keys(session)
        with progress.step(f"{title}: measure", self._plan.least_requests()) as advance:
            for block in self._plan.blocks(session, functools.partial(self._store.measured_s, session)):
                keys = self._plan.block_keys(session, block)
                # Blocks are written whole, so one key stands for all.
                if not keys <= known:
                    records = run_block(
                        block, self._systems, self._plan.scenario, self._clock, self._turn, self._wattmeter
                    )
                    self._store.append(records)
                    if any(record.error for record in records) and not self._bed.alive():
                        return False
                advance(len(keys))
        return True

    def _artifact(self, strategy: Strategy) -> Artifact:
        return self._equipment.artifacts[strategy.variant]

    def _deploy(self, strategy: Strategy, *, again: bool) -> tuple[float, RemoteError | None]:
        """Load a strategy onto its nodes.

        Returns:
            The sum of their session creation times, and why it could not be loaded (None where it could): a node that
            refuses a strategy is a finding about the strategy, and its requests will fail with what the node says.

        Raises:
            UnavailableError: A node died of it; nothing can be measured beside that strategy.
        """
        placement = self._placement(strategy)
        try:
            if again:
                with contextlib.suppress(RemoteError):  # the last time it may have failed too
                    undeploy(strategy.id, placement)
            deploy(self._artifact(strategy), strategy.id, placement)
            return sum(_load_s(placed.control, strategy.id) for placed in placement), None
        except RemoteError as error:
            if self._bed.alive():
                return 0.0, error
            memory = ", ".join(f"{tier.name} {format_bytes(tier.memory_bytes)}" for tier in self._bed.topology.tiers)
            raise UnavailableError(
                f"every node must bear all strategies of the study at once (memory: {memory})",
                got=f"a node that died while {strategy.id} was loaded",
                where=strategy.id,
                fix="Take that strategy out of the study, or give its tiers more memory",
            ) from error

    def _placement(self, strategy: Strategy) -> Sequence[Placed]:
        shares = []
        done = 0
        count = len(self._artifact(strategy).manifest.segments)
        for position, tier in enumerate(strategy.path):
            runs = strategy.segments.count(tier)
            last = position == len(strategy.path) - 1
            forward = None if last else self._bed.forward(tier, strategy.path[position + 1])
            shares.append(
                # The last one runs all that is left: a model with exits has several segments on one tier.
                Placed(
                    control=self._bed.control[tier],
                    share=Share(segments=(done, count if last else done + runs), forward=forward),
                )
            )
            done += runs
        return shares


@final
class _Unloaded:
    """A strategy that no node would load, as a system under test."""

    def __init__(self, name: str, reason: RemoteError) -> None:
        self.name, self._reason = name, reason

    def issue(self, sample: int) -> Reply:
        """Fail as loading did."""
        raise self._reason


def _load_s(address: str, model: str) -> float:
    with InferenceClient(address) as client:
        text = client.model_metadata(model).properties.get("tierwise.load_s", "0")
    try:
        return float(text)
    except ValueError as error:
        raise RemoteError("a node must say how long loading took", got=repr(text), where=address) from error
