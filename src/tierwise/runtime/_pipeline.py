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
from tierwise.runtime._hop import ask_account, count_hop
from tierwise.runtime._visit import Timeline
from tierwise.wire import InferenceClient, infer_request

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
    """

    def __init__(self, address: str, model: str, encoding: InputEncoding, timeout_s: float = 30.0) -> None:
        self.address, self.model, self._encoding = address, model, encoding
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
        request = ask_account(infer_request(self.model, tensors))
        timeline = Timeline()
        timeline.add(CLIENT, "encode", time.monotonic_ns() - started_ns)
        exchange = self._client.exchange(request)
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
