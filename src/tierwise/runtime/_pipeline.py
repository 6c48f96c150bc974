"""The client's side of a deployment: items in, answer and account out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, final

import numpy.typing as npt

from tierwise._errors import InputError, RemoteError
from tierwise.artifact import PAYLOAD_INPUT, InputEncoding, to_payload
from tierwise.measure import Reply, StageTime
from tierwise.runtime._hop import count_hop
from tierwise.runtime._tracing import Tracing
from tierwise.runtime._visit import Timeline
from tierwise.wire import TRACEPARENT, Exchange, Framed, InferenceClient, infer_request, status_of

__all__ = ["CLIENT", "Pipeline", "PipelineSUT"]

CLIENT = "client"
"""Name of the asking side in stages: the application on the device."""


@final
class Pipeline:
    """Asks the first node of a deployment; may be used from several threads.

    Args:
        address: The first node.
        model: Name it serves the model under.
        encoding: The artifact's input encoding.
        timeout_s: How long an answer may take.
        tracing: Makes a span for every request, within the application's current one, and hands its context to the
            nodes; None: no traces.
    """

    def __init__(
        self,
        address: str,
        model: str,
        encoding: InputEncoding,
        timeout_s: float = 30.0,
        tracing: Tracing | None = None,
    ) -> None:
        self.address, self.model, self._encoding, self._tracing = address, model, encoding, tracing
        self._client = InferenceClient(address, timeout_s)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(self, items: Sequence[Any] | Mapping[str, npt.NDArray[Any]]) -> Reply:
        """Send items and wait for the answer.

        Args:
            items: As `to_payload` takes them; or the request's tensors by name.

        Returns:
            Outputs and the account of all that took part. Stages of this side carry the tier ``client``; bytes are
            those between nodes.

        Raises:
            InputError: The items do not fit the encoding.
            RemoteError: A node failed; the message names it.
        """
        started_ns = time.monotonic_ns()
        tensors = items if isinstance(items, Mapping) else {PAYLOAD_INPUT: to_payload(self._encoding, items)}
        request = infer_request(self.model, tensors)
        timeline = Timeline()
        timeline.add(CLIENT, "encode", time.monotonic_ns() - started_ns)
        exchange = self._exchange(request)
        account = count_hop(exchange, CLIENT, self.address, timeline, over_link=False)
        started_ns = time.monotonic_ns()
        try:
            outputs = exchange.response.tensors()
        except InputError as error:
            raise RemoteError(f"the answer must hold valid tensors ({error})", where=self.address) from error
        timeline.add(CLIENT, "decode", time.monotonic_ns() - started_ns)
        return Reply(
            outputs=outputs,
            stages=tuple(StageTime(tier, stage, ns / 1e9) for tier, stage, ns in timeline.entries()),
            bytes_up=account.bytes_up,
            bytes_down=account.bytes_down,
            path=account.path,
            exit_frac=account.exit_frac,
        )

    def _exchange(self, request: Framed) -> Exchange:
        """The request's span is the time it spends beyond this side: what the application does itself is its own."""
        if self._tracing is None:
            return self._client.exchange(request)
        trace = self._tracing.asking("tierwise.ask", {"tierwise.model": self.model, "tierwise.node": self.address})
        try:
            exchange = self._client.exchange(request, headers={TRACEPARENT: trace.context.header()})
        except RemoteError as error:
            trace.end(status_of(error).name)
            raise
        trace.end()
        return exchange


@final
class PipelineSUT:
    """A deployment as the load generators know it, a `tierwise.measure.SystemUnderTest`.

    Args:
        name: Name its records carry.
        pipeline: How to ask it.
        items: Gives the items of sample number n.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        items: Callable[[int], Sequence[Any] | Mapping[str, npt.NDArray[Any]]],
    ) -> None:
        self.name, self._pipeline, self._items = name, pipeline, items

    def issue(self, sample: int) -> Reply:
        """See `tierwise.measure.SystemUnderTest.issue`."""
        return self._pipeline.infer(self._items(sample))
