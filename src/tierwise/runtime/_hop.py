"""One hop of a request to the next node: its time on either side and between, and its account as parameters.

The answering node says when the request's bytes had arrived and when the answer's left, on which clock. Where that is
the asking side's clock too, the way there is ``uplink`` and the way back ``downlink`` (both ``local`` where no link
lies between). Otherwise both together are ``network``: the time between sending and receiving less that on the other
host.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import msgspec

from tierwise import __version__
from tierwise.runtime._visit import Timeline
from tierwise.wire import Exchange, Framed, Parameter, read_parameters

__all__ = [
    "ACCOUNT",
    "CHANNELS",
    "Account",
    "ask_account",
    "clock_name",
    "count_hop",
    "path_parameters",
    "to_parameters",
]

ACCOUNT: Final = "tierwise.account"
"""The request parameter that asks for the account of an answer: where the time went, and bytes between the tiers."""

CHANNELS: Final = "tierwise.channels"
"""The request parameter that says how many channels of a coded latent are sent on, one of the artifact's rates."""

_PATH_PARAMETER: Final = "tierwise.path"
_WEIGHTS_PARAMETER: Final = "tierwise.weights"

_STAGES = msgspec.json.Decoder(list[tuple[str, str, int]])
_PATH = msgspec.json.Decoder(list[str])


@functools.cache
def clock_name() -> str:
    """Names the monotonic clock of this process: equal where two processes read the same clock, else different."""
    # Processes of one boot share the clock, except those that were started in a time namespace of their own.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # Two clocks are never taken for one by mistake: a wrong uplink is worse than none.
        return f"unknown/{platform.node()}/{os.getpid()}"
    namespace = Path("/proc/self/ns/time")
    return f"{boot}/{namespace.readlink() if namespace.is_symlink() else ''}"


@final
@dataclass(frozen=True)
class Account:
    """What a node and those above it did for one request.

    Attributes:
        path: Tiers that took part, this one first.
        bytes_up: Message bytes sent upwards over all hops from here on.
        bytes_down: Message bytes that came down over them.
        exit_frac: Share of the request's items that left at an exit; None where the model has none.
        way_ns: Time of the hop to the first of them, both ways together; None where it gives no account.
        weights: Label of the learnt weights that answered; None: the artifact's own.
    """

    path: tuple[str, ...]
    bytes_up: int = 0
    bytes_down: int = 0
    exit_frac: float | None = None
    way_ns: int | None = None
    weights: str | None = None


def ask_account(request: Framed) -> Framed:
    """The request, asking for the account of its answer."""
    request.message.parameters[ACCOUNT].bool_param = True
    return request


@functools.lru_cache(maxsize=256)
def path_parameters(path: tuple[str, ...], weights: str | None = None) -> Mapping[str, Parameter]:
    """Which tiers took part, as the parameter that every answer has, and which learnt weights, where there are any.

    Few paths are taken again and again, so that their text is not made for every request.
    """
    learnt = {} if weights is None else {_WEIGHTS_PARAMETER: weights}
    return MappingProxyType({_PATH_PARAMETER: msgspec.json.encode(path).decode(), **learnt})


def to_parameters(
    account: Account, stages: Sequence[tuple[str, str, int]], received_ns: int, answered_ns: int
) -> dict[str, Parameter]:
    """The account as parameters of an answer, the path among them."""
    exit_frac = {} if account.exit_frac is None else {"tierwise.exit": account.exit_frac}
    return {
        **exit_frac,
        "tierwise.stages": msgspec.json.encode(stages).decode(),
        **path_parameters(account.path, account.weights),
        "tierwise.bytes_up": account.bytes_up,
        "tierwise.bytes_down": account.bytes_down,
        "tierwise.version": __version__,
        "tierwise.clock": clock_name(),
        "tierwise.received_ns": received_ns,
        "tierwise.answered_ns": answered_ns,
    }


def count_hop(exchange: Exchange, tier: str, address: str, timeline: Timeline, *, over_link: bool = True) -> Account:
    """Add a hop and everything above it to the asking side's timeline.

    Args:
        exchange: The hop.
        tier: Name of the asking side; the link above it is counted for it.
        address: Where it went; stands in the path for a server that gives no account of itself.
        timeline: Receives the stages.
        over_link: Whether a link lies between; without one (an application and the node of its own device) the way
            there and back is ``local``.

    Returns:
        The account of the answering node (without the bytes of this hop).
    """
    told = read_parameters(exchange.response.message.parameters)
    timeline.add(tier, "encode", exchange.encode_ns)
    outside_ns = exchange.answered_ns - exchange.sent_ns
    try:
        received_ns, answered_ns = int(told["tierwise.received_ns"]), int(told["tierwise.answered_ns"])
        stages = _STAGES.decode(str(told["tierwise.stages"]))
        account = Account(
            path=tuple(_PATH.decode(str(told[_PATH_PARAMETER]))),
            bytes_up=int(told["tierwise.bytes_up"]),
            bytes_down=int(told["tierwise.bytes_down"]),
            exit_frac=float(told["tierwise.exit"]) if "tierwise.exit" in told else None,
            way_ns=max(outside_ns - (answered_ns - received_ns), 0),
            weights=str(told[_WEIGHTS_PARAMETER]) if _WEIGHTS_PARAMETER in told else None,
        )
    except (KeyError, ValueError, msgspec.DecodeError, RecursionError):
        # Another implementation of the protocol: all that is known is how long it took, link and all.
        timeline.add(tier, "network", outside_ns)
        timeline.add(tier, "decode", exchange.decode_ns)
        return Account(path=(address,))
    same_clock = told.get("tierwise.clock") == clock_name()
    if same_clock:
        timeline.add(tier, "uplink" if over_link else "local", received_ns - exchange.sent_ns)
    else:
        timeline.add(tier, "network", outside_ns - (answered_ns - received_ns))
    for stage_tier, stage, ns in stages:
        timeline.add(stage_tier, stage, ns)
    if same_clock:
        timeline.add(tier, "downlink" if over_link else "local", exchange.answered_ns - answered_ns)
    timeline.add(tier, "decode", exchange.decode_ns)
    return account
