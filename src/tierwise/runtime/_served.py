"""An artifact as a node serves it: preprocessing, its share of the segments, and the way on to the next node."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import grpc
import numpy.typing as npt

from tierwise._errors import InputError, RemoteError, SpecError
from tierwise.artifact import PAYLOAD_INPUT, Artifact, ImageInput, Preprocessor, TensorInput, TensorSpec
from tierwise.runtime._executor import Executor, tensors_at
from tierwise.runtime._hop import Account, count_hop
from tierwise.runtime._passage import Passage, merge
from tierwise.runtime._refusal import RefusalError
from tierwise.runtime._spec import Share
from tierwise.runtime._visit import Visit
from tierwise.wire import Exchange, Framed, InferenceClient, infer_request, infer_response, protocol, status_of

__all__ = ["Served", "metadata_message"]

Tensors = dict[str, npt.NDArray[Any]]


@final
class Served:
    """One share of an artifact, ready to be asked; may be used from several threads.

    Args:
        name: Name it is served under.
        artifact: A verified artifact.
        share: Which part of it.
        threads: Threads of its sessions, where the share does not say.
        forward: A client of the next node, where the share names one.

    Raises:
        InputError: The share does not fit the artifact.
        ArtifactError: A segment cannot be loaded.
        UnavailableError: The preprocessing needs a library that is not installed.
        RefusalError: Segments come after the share, but it names no next node.
    """

    def __init__(
        self, name: str, artifact: Artifact, share: Share, threads: int, forward: InferenceClient | None
    ) -> None:
        count = len(artifact.manifest.segments)
        self.name, self.artifact, self.share = name, artifact, share
        self._first, self._last = (0, count) if share.segments is None else share.segments
        self._forward, self._forward_model = forward, share.forward_model or name
        if self._last > count:
            raise InputError(
                f"the share must lie within the artifact's {count} segments", got=f"[{self._first}, {self._last})"
            )
        runs = self._first < self._last
        if forward is None and (self._last < count or not runs):
            raise RefusalError(
                grpc.StatusCode.FAILED_PRECONDITION,
                SpecError(
                    f"a share [{self._first}, {self._last}) of {count} segments must name the node to forward to",
                    where=name,
                    fix="Set forward in the share",
                ),
            )
        if forward is not None and runs and self._last == count:
            raise SpecError("a share that runs the last segment must not forward", got=share.forward, where=name)
        self._executor = Executor(artifact, (self._first, self._last), share.threads or threads) if runs else None
        self._preprocessor = (
            Preprocessor(artifact.manifest.input, artifact.directory) if runs and self._first == 0 else None
        )
        self._stage = _stage(self._first, self._last, count)
        self._output_names = [spec.name for spec in artifact.manifest.outputs]

    def answer(self, request: Framed, visit: Visit) -> tuple[Framed, Account]:
        """Answer a request with this node's share and those above it.

        Raises:
            InputError: The request does not fit the model.
            RefusalError: The next node failed.
            TierwiseError: A segment failed.
        """
        asked = request.message
        wanted = [output.name for output in asked.outputs] or self._output_names
        unknown = [name for name in wanted if name not in self._output_names]
        if unknown:
            raise InputError(f"outputs must be among {self._output_names}", got=repr(unknown[0]))
        executor, forward, request_id = self._executor, self._forward, asked.id
        if executor is not None:
            passage = self._compute(executor, request, visit)
            with visit.computing("encode"):
                if forward is None or passage.all_left:
                    response = infer_response(self.name, request_id, self._merged(wanted, passage, passage.tensors))
                    return response, Account(path=(visit.tier,), exit_frac=passage.exit_frac)
                onward = infer_request(self._forward_model, passage.tensors, [o.name for o in asked.outputs])
            above = self._pass_on(forward, onward, request_id, visit)
            return above if passage.left is None else self._rejoined(wanted, passage, *above, visit)
        assert forward is not None, "the constructor refuses a share with neither segments nor a way on"
        # What a share without segments received goes on as it is: its tensors stay the bytes they are.
        request.message.model_name, request.message.model_version = self._forward_model, ""
        return self._pass_on(forward, request, request_id, visit)

    def _compute(self, executor: Executor, request: Framed, visit: Visit) -> Passage:
        with visit.computing("decode"):
            tensors = request.tensors()
        with visit.turn():
            if self._preprocessor is not None:
                with visit.computing("preprocess"):
                    tensors = self._preprocessor(tensors)
            with visit.computing(self._stage):
                return executor.advance(tensors)

    def _merged(self, wanted: list[str], passage: Passage, rest: Tensors) -> Tensors:
        """The answer to the whole request from that to the items that left here and that to the rest."""
        if passage.left is None:
            return {name: rest[name] for name in wanted}
        specs = [spec for spec in self.artifact.manifest.outputs if spec.name in wanted]
        merged = merge(specs, passage.left, passage.answers or {}, rest)
        return {name: merged[name] for name in wanted}

    def _rejoined(
        self, wanted: list[str], passage: Passage, response: Framed, account: Account, visit: Visit
    ) -> tuple[Framed, Account]:
        """The answer from above, joined with that to the items that left here."""
        here = passage.exit_frac or 0.0
        account = dataclasses.replace(account, exit_frac=here + (1.0 - here) * (account.exit_frac or 0.0))
        if here == 0.0:
            return response, account
        with visit.computing("decode"):
            rest = response.tensors()
        with visit.computing("encode"):
            merged = self._merged(wanted, passage, rest)
            return infer_response(self.name, response.message.id, merged), account

    def _pass_on(
        self, forward: InferenceClient, onward: Framed, request_id: str, visit: Visit
    ) -> tuple[Framed, Account]:
        try:
            exchange: Exchange = forward.exchange(onward, visit.left_s)
        except RemoteError as error:
            status = status_of(error)
            if status in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED):
                status = grpc.StatusCode.UNAVAILABLE
            # Its message names the address, and what the node above said names that tier.
            raise RefusalError(status, error) from error
        above = count_hop(exchange, visit.tier, forward.address, visit.timeline)
        answer = exchange.response.message
        answer.parameters.clear()
        answer.model_name, answer.model_version, answer.id = self.name, "1", request_id
        return exchange.response, Account(
            path=(visit.tier, *above.path),
            bytes_up=exchange.sent_bytes + above.bytes_up,
            bytes_down=exchange.received_bytes + above.bytes_down,
            exit_frac=above.exit_frac,
        )

    def metadata(self, tier: str) -> protocol.ModelMetadataResponse:
        """What a client may send and gets, and figures about loading as properties."""
        manifest, executor = self.artifact.manifest, self._executor
        inputs = _client_inputs(self.artifact) if self._first == 0 else tensors_at(self.artifact, self._first)
        properties = {
            "tierwise.tier": tier,
            "tierwise.digest": self.artifact.digest,
            "tierwise.segments": f"{self._first}:{self._last} of {len(manifest.segments)}",
            "tierwise.load_s": str(executor.load_s if executor else 0.0),
        }
        if executor is not None:
            properties["tierwise.threads"] = str(executor.threads)
            if executor.first_run_s is not None:
                properties["tierwise.first_run_s"] = str(executor.first_run_s)
        if self.share.label is not None:
            properties["tierwise.label"] = self.share.label
        if self.share.forward is not None:
            properties["tierwise.forward"] = f"{self.share.forward} {self._forward_model}"
        return metadata_message(self.name, "onnxruntime_onnx", inputs, manifest.outputs, properties)


def metadata_message(
    name: str,
    platform: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    properties: dict[str, str],
) -> protocol.ModelMetadataResponse:
    """A model's metadata as the protocol's message."""
    message = protocol.ModelMetadataResponse(name=name, versions=["1"], platform=platform, properties=properties)
    for target, specs in ((message.inputs, inputs), (message.outputs, outputs)):
        for spec in specs:
            target.add(name=spec.name, datatype=spec.dtype, shape=spec.shape)
    return message


def _client_inputs(artifact: Artifact) -> tuple[TensorSpec, ...]:
    encoding = artifact.manifest.input
    if isinstance(encoding, TensorInput):
        return encoding.tensors
    if isinstance(encoding, ImageInput) and encoding.encoding == "uint8":
        return (TensorSpec(name=PAYLOAD_INPUT, dtype="UINT8", shape=(-1, -1, -1, encoding.channels)),)
    columns = 1 if isinstance(encoding, ImageInput) else 1 + encoding.pair
    return (TensorSpec(name=PAYLOAD_INPUT, dtype="BYTES", shape=(-1, columns)),)


def _stage(first: int, last: int, count: int) -> str:
    if first == 0:
        return "infer" if last == count else "head"
    return "tail" if last == count else "middle"
