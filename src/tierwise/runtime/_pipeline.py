"""The client's side of a deployment: items in, answer and account out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, RemoteError
from tierwise.artifact import PAYLOAD_INPUT, InputEncoding, to_payload
from tierwise.codecs import PictureFormat, encode_picture
from tierwise.measure import Reply, StageTime
from tierwise.runtime._hop import CHANNELS, ask_account, count_hop
from tierwise.runtime._tracing import Tracing
from tierwise.runtime._visit import Timeline
from tierwise.wire import TRACEPARENT, Credentials, Exchange, Framed, InferenceClient, infer_request, status_of

__all__ = ["CLIENT", "Answering", "Items", "Pipeline", "PipelineSUT", "payload_of"]

CLIENT = "client"
"""Name of the asking side in stages: the application on the device."""

Items = Sequence[Any] | Mapping[str, npt.NDArray[Any]]
"""What a request holds: items as `to_payload` takes them, or tensors by name."""


class Answering(Protocol):
    """Whatever answers requests: a pipeline, an artifact in this process, an adaptive pipeline."""

    def infer(self, items: Items) -> Reply:
        """The answer to ``items``."""
        ...


def payload_of(encoding: InputEncoding | None, items: Items) -> Mapping[str, npt.NDArray[Any]]:
    """The request's tensors by name.

    Raises:
        InputError: The items do not fit the encoding, or there is none.
    """
    if isinstance(items, Mapping):
        return items
    if encoding is None:
        raise InputError(
            "items need the model's input encoding", fix="Send tensors by name, or say the encoding (`input`)"
        )
    return {PAYLOAD_INPUT: to_payload(encoding, _several(items))}


def _several(items: Any) -> Any:
    scalar = isinstance(items, np.ndarray) and items.ndim == 0
    if scalar or isinstance(items, str | bytes) or not hasattr(items, "__len__"):
        raise InputError("items must be a list of them, or tensors by name", got=type(items).__name__)
    return items


def as_files(items: Items, kind: PictureFormat, quality: int) -> npt.NDArray[Any]:
    """The payload of pictures that travel as files.

    Args:
        items: Pictures as pixels, uint8 [height, width, channels] each; or the payload tensor with all of them.
        kind: Format of the files.
        quality: Theirs.

    Raises:
        InputError: They are no such pictures.
    """
    pictures = items.get(PAYLOAD_INPUT) if isinstance(items, Mapping) else items
    if pictures is None:
        raise InputError(f"pictures must come in the tensor {PAYLOAD_INPUT!r}", got=sorted(items))
    files = np.empty((len(_several(pictures)), 1), dtype=object)
    for i, picture in enumerate(pictures):
        files[i, 0] = encode_picture(np.asarray(picture), kind, quality)
    return files


@final
class Pipeline:
    """Asks the first node of a deployment; may be used from several threads.

    Args:
        address: The first node.
        model: Name it serves the model under.
        encoding: The artifact's input encoding; None where all requests are tensors by name.
        timeout_s: How long an answer may take where the request does not say.
        over_link: Whether a link lies between this side and the node; without one, the node is on this device.
        tracing: Makes a span for every request, within the application's current one, and hands its context to the
            nodes; None: no traces.
        credentials: How the node lets this side in; None: as the environment says.
        channels: Channels of a coded latent that the node shall send; None: as the model's share says.
        picture: Items are pixels, and files of this format and quality are sent; None: items are sent as they are.
    """

    def __init__(
        self,
        address: str,
        model: str,
        encoding: InputEncoding | None,
        timeout_s: float = 30.0,
        *,
        over_link: bool = False,
        tracing: Tracing | None = None,
        credentials: Credentials | None = None,
        channels: int | None = None,
        picture: tuple[PictureFormat, int] | None = None,
    ) -> None:
        self._channels, self._picture = channels, picture
        self.address, self.model, self._encoding, self._over_link = address, model, encoding, over_link
        self._tracing = tracing
        self._client = InferenceClient(address, timeout_s, credentials)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(self, items: Items, timeout_s: float | None = None) -> Reply:
        """Send items and wait for the answer.

        Args:
            items: As `to_payload` takes them; or the request's tensors by name.
            timeout_s: How long the answer may take; None: what the pipeline was made with.

        Returns:
            Outputs and the account of all that took part. Stages of this side carry the tier ``client``; bytes are
            those over links.

        Raises:
            InputError: The items do not fit the encoding.
            RemoteError: A node failed; the message names it.
        """
        started_ns = time.monotonic_ns()
        if self._picture is None:
            tensors = payload_of(self._encoding, items)
        else:
            tensors = {PAYLOAD_INPUT: as_files(items, *self._picture)}
        request = ask_account(infer_request(self.model, tensors))
        if self._channels is not None:
            request.message.parameters[CHANNELS].int64_param = self._channels
        timeline = Timeline()
        timeline.add(CLIENT, "encode", time.monotonic_ns() - started_ns)
        exchange = self._exchange(request, timeout_s)
        account = count_hop(exchange, CLIENT, self.address, timeline, over_link=self._over_link)
        started_ns = time.monotonic_ns()
        try:
            outputs = exchange.response.tensors()
        except InputError as error:
            raise RemoteError(f"the answer must hold valid tensors ({error})", where=self.address) from error
        timeline.add(CLIENT, "decode", time.monotonic_ns() - started_ns)
        return Reply(
            outputs=outputs,
            stages=tuple(StageTime(tier, stage, ns / 1e9) for tier, stage, ns in timeline.entries()),
            bytes_up=account.bytes_up + (exchange.sent_bytes if self._over_link else 0),
            bytes_down=account.bytes_down + (exchange.received_bytes if self._over_link else 0),
            path=account.path,
            exit_frac=account.exit_frac,
        )

    def _exchange(self, request: Framed, timeout_s: float | None) -> Exchange:
        """The request's span is the time it spends beyond this side: what the application does itself is its own."""
        if self._tracing is None:
            return self._client.exchange(request, timeout_s)
        trace = self._tracing.asking("tierwise.ask", {"tierwise.model": self.model, "tierwise.node": self.address})
        try:
            exchange = self._client.exchange(request, timeout_s, {TRACEPARENT: trace.context.header()})
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
        pipeline: Answering,
        items: Callable[[int], Items],
    ) -> None:
        self.name, self._pipeline, self._items = name, pipeline, items

    def issue(self, sample: int) -> Reply:
        """See `tierwise.measure.SystemUnderTest.issue`."""
        return self._pipeline.infer(self._items(sample))
