"""Measuring links and tiers before use, with retries: other work spoils figures for a while."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from tierwise._errors import EmulationError, UnavailableError
from tierwise.testbed._calibration import (
    TOLERANCE_FRAC,
    LinkCalibration,
    TierCalibration,
    asked_link,
    check_link,
    check_tier,
)
from tierwise.testbed._links import Network
from tierwise.testbed._meter import LinkFigures, MeterPlan
from tierwise.testbed._process import Spawner
from tierwise.topology import Link

__all__ = ["measure_link", "verify_link", "verify_real_link", "verify_tier"]

Figures = TypeVar("Figures")
Entry = TypeVar("Entry")

# Other work on a shared machine comes and goes by tens of seconds: each pause is longer than the one before it.
_PAUSES_S = (2.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
# A link that is this much slower than asked is not held up by other work: it cannot do it. And other work may make a
# node's sleep too long and the next one too short, but not by so much.
_HOPELESS = 2.0
_TOO_FAST = 1.4
_METER = "tierwise.testbed._meter"
# Name, inputs and outputs are the node's promise; one unit is about a millisecond of one thread.
_PROBE = "tierwise.probe"
_SHORT_UNITS, _SHORT_REPEATS = 2, 31
_LONG_UNITS, _LONG_REPEATS = 30, 7
_IDLE_S = 0.008


def measure_link(network: Network, link: Link, spawner: Spawner) -> LinkFigures:
    """What ``link`` of ``network`` really does, by a process at either end.

    Raises:
        UnavailableError: A measuring process failed; the message holds what it wrote.
    """
    plan = MeterPlan(
        up_bps=link.up_bps,
        down_bps=link.down_bps,
        rtt_s=link.rtt_s,
        loss_frac=link.loss_frac if network.carries_packets else 0.0,
    )
    name = f"meter-{link.lower}-{link.upper}"
    server = spawner.start_module(
        f"{name}-server", _METER, "serve", network.listen_host(link.upper), prefix=network.prefix(link.upper)
    )
    try:
        address = network.address(link.lower, link.upper, int(server.line(20.0)))
        text = msgspec.json.encode(plan).decode()
        client = spawner.start_module(name, _METER, "measure", address, text, prefix=network.prefix(link.lower))
        try:
            return msgspec.json.decode(client.line(90.0), type=LinkFigures)
        finally:
            spawner.stop(client)
    finally:
        spawner.stop(server)


def verify_link(network: Network, link: Link, means: str, spawner: Spawner) -> LinkCalibration:
    """Measure ``link`` until it comes out right, some times at most.

    Raises:
        EmulationError: It never did; the message holds asked and measured.
        UnavailableError: A measuring process failed.
    """

    def slowed(figures: LinkFigures) -> bool:
        rates = (figures.up_bps / link.up_bps, figures.down_bps / link.down_bps)
        too_fast = max(rates) > 1 + TOLERANCE_FRAC or figures.rtt_s < link.rtt_s * (1 - TOLERANCE_FRAC)
        return min(rates) > 1 / _HOPELESS and not too_fast

    return _retried(
        lambda: measure_link(network, link, spawner),
        lambda figures, tries: check_link(link, means, figures, tries),
        slowed,
    )


def verify_real_link(link: Link, address: str | None) -> LinkCalibration:
    """A link to a remote tier: used as it is, so nothing is compared; the round trip is that of connecting to it.

    Args:
        link: The link as the topology describes it.
        address: ``host:port`` of its upper end as reached from here; None when the lower end is remote as well.

    Raises:
        UnavailableError: Nobody answers there.
    """
    calibration = asked_link(link, "real")
    if address is None:
        return calibration
    host, _, port = address.rpartition(":")
    times_s = []
    try:
        for _ in range(5):
            begin_s = time.perf_counter()
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            times_s.append(time.perf_counter() - begin_s)
    except OSError as error:
        raise UnavailableError(
            f"a node must listen at {address}",
            got=str(error),
            where=f"tier {link.upper}",
            fix=f"Start one there: tierwise node --listen 0.0.0.0:{port} --tier {link.upper}",
        ) from error
    return msgspec.structs.replace(calibration, rtt_s=statistics.median(times_s), tries=1)


def verify_tier(asked: TierCalibration, control: str) -> TierCalibration:
    """Measure how much slower than full speed the node at ``control`` works, until it comes out right.

    Raises:
        EmulationError: It never did; the message holds asked and measured.
        RemoteError: The node does not answer.
    """
    # Imported here: relays and proxies, which start by the same package, need neither gRPC nor NumPy.
    import numpy as np

    from tierwise.wire import InferenceClient

    with InferenceClient(control) as client:

        def slowdown(units: int, repeats: int) -> float:
            ratios: list[float] = []
            for _ in range(repeats):
                # Idle first, as between two requests: back to back, a quota slows down even what it lets pass alone.
                time.sleep(_IDLE_S)
                outputs = client.infer(_PROBE, {"work": np.array([units], dtype=np.int64)}).outputs
                ratios.append(outputs["wall_ns"].item() / outputs["cpu_ns"].item())
            return statistics.median(ratios)

        slowdown(_SHORT_UNITS, 3)  # the first calls open connections and fill caches
        return _retried(
            lambda: (slowdown(_SHORT_UNITS, _SHORT_REPEATS), slowdown(_LONG_UNITS, _LONG_REPEATS)),
            lambda both, tries: check_tier(asked, both[0], both[1], tries),
            lambda both: min(both) > asked.asked_slowdown / _TOO_FAST,
        )


def _retried(
    measure: Callable[[], Figures], check: Callable[[Figures, int], Entry], slowed: Callable[[Figures], bool]
) -> Entry:
    """Measure and check until it is right.

    Args:
        measure: Measures once.
        check: Makes an entry of figures and the number of tries, or raises `EmulationError`.
        slowed: Whether other work may be what made wrong figures wrong, so that another try makes sense.
    """
    for tries, pause_s in enumerate((*_PAUSES_S, None), start=1):
        figures = measure()
        try:
            return check(figures, tries)
        except EmulationError:
            if pause_s is None or not slowed(figures):
                raise
            time.sleep(pause_s)
    raise AssertionError("unreachable: the last try returns or raises")
