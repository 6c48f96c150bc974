"""A request for inference and its answer, as the desk knows them: no protocol's messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy.typing as npt

from tierwise.runtime._guard import ANYBODY, Principal
from tierwise.runtime._hop import ACCOUNT, Account, path_parameters, to_parameters
from tierwise.runtime._visit import Visit
from tierwise.wire import Framed, Parameter, infer_response

__all__ = ["Answer", "Call", "Contents", "Tensors"]

Tensors = dict[str, npt.NDArray[Any]]


class Contents(Protocol):
    """The tensors of a request, decoded when they are first needed."""

    def tensors(self) -> Tensors:
        """All tensors by name; BYTES as object arrays of bytes.

        Raises:
            InputError: They are not what the request says they are.
        """
        ...


@final
@dataclass(frozen=True)
class Call:
    """A request for inference.

    Attributes:
        model: Name of the model.
        contents: Its tensors; a `tierwise.wire.Framed` request is passed on to other nodes without being decoded.
        encode: Makes the answer's bytes; called once, in the stage ``encode``, from the thread that computed. It may
            raise `TierwiseError`.
        size_bytes: Size of the request's message.
        received_ns: When its bytes had arrived, on the host's monotonic clock.
        version: Version of the model; empty: the newest that is ready.
        id: The client's name for it.
        wanted: Names of the outputs wanted; empty: all.
        timeout_s: Time from ``received_ns`` on that the protocol lets the client wait; None where it does not say.
        parameters: The request's parameters. The desk heeds ``priority`` (1 is served first, 0 as the model says),
            ``timeout`` (microseconds from ``received_ns`` on) and ``tierwise.account``; a model whose share ends at a
            coded latent ``tierwise.channels``.
        headers: Headers that observers may want (``traceparent``, ``tracestate``), names in lower case.
        principal: Who asks.
        front: Protocol it came by.
    """

    model: str
    contents: Contents
    encode: Callable[[Answer], bytes]
    size_bytes: int
    received_ns: int
    version: str = ""
    id: str = ""
    wanted: tuple[str, ...] = ()
    timeout_s: float | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    principal: Principal = ANYBODY
    front: str = "grpc"


@final
@dataclass
class Answer:
    """What a model answered, on its way into a protocol's bytes.

    Attributes:
        model: Name of the model.
        version: Version that answered.
        id: The client's name for the request.
        outputs: The outputs wanted by name, or the answer of another node as it came.
        account: Who took part.
        visit: The request on this node.
        call: The request.
    """

    model: str
    version: str
    id: str
    outputs: Tensors | Framed
    account: Account
    visit: Visit
    call: Call

    def tensors(self) -> Tensors:
        """The outputs by name, whatever form they have."""
        return self.outputs.tensors() if isinstance(self.outputs, Framed) else self.outputs

    def framed(self) -> Framed:
        """The answer as the protocol's message and contents, without parameters."""
        if not isinstance(self.outputs, Framed):
            return infer_response(self.model, self.id, self.outputs, self.version)
        # Another node's answer keeps the bytes of its tensors; what stands around them is this node's.
        message = self.outputs.message
        message.parameters.clear()
        message.model_name, message.model_version, message.id = self.model, self.version, self.id
        return self.outputs

    @property
    def accounted(self) -> bool:
        """Whether the request asked for the whole account of its answer."""
        return bool(self.call.parameters.get(ACCOUNT))

    def told(self) -> Mapping[str, Parameter]:
        """The answer's parameters: always which tiers made it, and the rest of the account where the request asked.

        Call it when the tensors are encoded: where the account is asked for, it ends the stage ``encode``.

        The account cannot hold the time of its own encoding, nor of joining it to the contents (a copy of them); both
        count as the way back.
        """
        if not self.accounted:
            return path_parameters(self.account.path, self.account.weights)
        self.visit.encoded()
        now_ns = self.visit.now_ns()
        return to_parameters(self.account, self.visit.timeline.entries(), self.call.received_ns, now_ns)
