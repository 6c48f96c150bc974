"""An artifact as a node serves it: preprocessing, its share of the segments, and the way on to the next node."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Final, final

import grpc

from tierwise._errors import InputError, RemoteError, SpecError
from tierwise.artifact import Artifact, InputLimits, Preprocessor, TrainingStep, request_tensors
from tierwise.runtime._batcher import Batcher
from tierwise.runtime._call import Answer, Call, Tensors
from tierwise.runtime._executor import Executor, tensors_at
from tierwise.runtime._hop import CHANNELS, Account, ask_account, count_hop
from tierwise.runtime._learnt import Learnt
from tierwise.runtime._line import Line, Ticket
from tierwise.runtime._observer import Forwarded, Observer
from tierwise.runtime._passage import Passage, merge
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._seal import seal_at
from tierwise.runtime._spec import Batching, Share
from tierwise.runtime._statistics import Counters
from tierwise.runtime._visit import Visit
from tierwise.wire import Exchange, Framed, InferenceClient, ModelMetadata, infer_request, status_of

__all__ = ["Served"]

# What a refusal of the node above means for who asked this one; all else it may say is UNAVAILABLE.
_ABOVE: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID,
    grpc.StatusCode.NOT_FOUND: Code.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION: Code.UNSUITED,
    grpc.StatusCode.UNAUTHENTICATED: Code.UNSUITED,
    grpc.StatusCode.PERMISSION_DENIED: Code.UNSUITED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.TOO_LATE,
    grpc.StatusCode.INTERNAL: Code.INTERNAL,
}
# Elements of a latent that takes some tens of milliseconds at most.
_SOON_DECODED: Final = 1 << 20


@final
class Served:
    """One share of an artifact, ready to be asked; may be used from several threads.

    ``counters`` holds what it has done.

    Args:
        name: Name it is served under.
        version: Version of it.
        artifact: A verified artifact.
        share: Which part of it.
        threads: Threads of its sessions, where the share does not say.
        batching: How it computes several requests at once, where the share does not say.
        line: Where its requests wait.
        forward: A client of the next node, where the share names one.
        observer: Who is told of what goes to the next node.
        limits: What a request's pictures and texts may become.

    Raises:
        InputError: The share does not fit the artifact.
        ArtifactError: A segment, or the tables of a coded latent, cannot be loaded.
        UnavailableError: The preprocessing needs a library that is not installed.
        RefusalError: Segments come after the share, but it names no next node.
    """

    def __init__(
        self,
        name: str,
        version: str,
        artifact: Artifact,
        share: Share,
        threads: int,
        batching: Batching | None,
        line: Line,
        forward: InferenceClient | None,
        observer: Observer,
        limits: InputLimits | None = None,
    ) -> None:
        count = len(artifact.manifest.segments)
        self.name, self.version, self.artifact, self.share = name, version, artifact, share
        self._limits = limits or InputLimits()
        self._first, self._last = (0, count) if share.segments is None else share.segments
        self._forward, self._forward_model, self._observer = forward, share.forward_model or name, observer
        if self._last > count:
            raise InputError(
                f"the share must lie within the artifact's {count} segments", got=f"[{self._first}, {self._last})"
            )
        runs = self._first < self._last
        if forward is None and (self._last < count or not runs):
            raise RefusalError(
                Code.UNSUITED,
                SpecError(
                    f"a share [{self._first}, {self._last}) of {count} segments must name the node to forward to",
                    where=name,
                    fix="Set forward in the share",
                ),
            )
        if forward is not None and runs and self._last == count:
            raise SpecError("a share that runs the last segment must not forward", got=share.forward, where=name)
        self._opening = seal_at(artifact, self._first) if runs else None
        self._closing = seal_at(artifact, self._last) if runs else None
        if share.channels is not None and self._closing is None:
            raise SpecError(
                "a share that sends no coded latent must not choose channels", got=share.channels, where=name
            )
        if self._closing is not None:
            self._closing.check_channels(share.channels)
        self.counters = Counters()
        self._executor = Executor(artifact, (self._first, self._last), share.threads or threads) if runs else None
        self._batcher = None if self._executor is None else self._batched(self._executor, batching, line)
        self._places = _Places(share.max_waiting, name)
        self._output_names = [spec.name for spec in artifact.manifest.outputs]

    @property
    def load_s(self) -> float:
        """Seconds that making its sessions took; 0 where it has none."""
        return self._executor.load_s if self._executor else 0.0

    @property
    def can_learn(self) -> bool:
        """Whether all of a model that can be trained is here."""
        return (
            isinstance(self.artifact.manifest.training, TrainingStep)
            and self._executor is not None
            and (self._first == 0 and self._last == len(self.artifact.manifest.segments))
        )

    @property
    def weights(self) -> str | None:
        """Label of the learnt weights that answer; None: the artifact's own."""
        learnt = None if self._executor is None else self._executor.learnt
        return None if learnt is None else learnt.label

    def take_over(self, learnt: Learnt) -> None:
        """Answer with these weights from now on; requests that compute end with those they began with.

        Raises:
            InputError: They do not fit the model, or its first segment is not here.
        """
        if self._executor is None or self._first:
            raise InputError("only a node that runs the first segment can take over weights", where=self.name)
        self._executor.adopt(learnt)

    def answer(self, call: Call, visit: Visit) -> Answer:
        """Answer a request with this node's share and those above it.

        Raises:
            InputError: The request does not fit the model.
            RefusalError: As many requests as the share lets wait are under way, or the next node failed.
            TierwiseError: A segment failed.
        """
        self._places.take()
        try:
            return self._answered(call, visit)
        finally:
            self._places.give_back()

    @property
    def brief(self) -> bool:
        """Whether all that a request needs beside its turn to compute is soon done: `begin` and `end` may be used."""
        return self._batcher is not None and self._forward is None and self._opening is None

    def begin(self, call: Call, visit: Visit, told: Callable[[Ticket], None]) -> None:
        """Answer a request as far as can be without waiting; only where the model is `brief`.

        When ``told`` was called, which is once and perhaps before this returns, `end` has the rest to do with the
        ticket that it got. Where this raises, it is not called.

        Raises:
            InputError: As `answer`.
            RefusalError: As `answer`.
        """
        assert self._batcher is not None
        self._places.take()
        try:
            self._wanted(call)
            self._channels(call)
            self._batcher.submit(self._decoded(call, visit), visit, told)
        except BaseException:
            self._places.give_back()
            raise

    def end(self, ticket: Ticket, call: Call, visit: Visit) -> Answer:
        """The answer to what `begin` began; it computes, if it is the ticket's turn.

        Raises:
            TierwiseError: As `answer`.
        """
        assert self._batcher is not None
        try:
            return self._answer_here(self._wanted(call), self._batcher.result(ticket, visit), call, visit)
        finally:
            self._places.give_back()

    def _wanted(self, call: Call) -> tuple[str, ...]:
        wanted = call.wanted or tuple(self._output_names)
        unknown = [name for name in wanted if name not in self._output_names]
        if unknown:
            raise InputError(f"outputs must be among {self._output_names}", got=repr(unknown[0]))
        return wanted

    def _answer_here(self, wanted: tuple[str, ...], passage: Passage, call: Call, visit: Visit) -> Answer:
        account = Account(path=(visit.tier,), exit_frac=passage.exit_frac, weights=passage.weights)
        return self._answer(self._merged(wanted, passage, passage.tensors), account, call, visit)

    def _answered(self, call: Call, visit: Visit) -> Answer:
        wanted, batcher, forward = self._wanted(call), self._batcher, self._forward
        channels = self._channels(call)
        if batcher is not None:
            passage = batcher.compute(self._decoded(call, visit), visit)
            if forward is None or passage.all_left:
                return self._answer_here(wanted, passage, call, visit)
            with visit.computing("encode"):
                sent = passage.tensors
                if self._closing is not None:
                    sent = self._closing.close(sent, channels)
                onward = infer_request(self._forward_model, sent, call.wanted)
            response, account = self._pass_on(forward, onward, call, visit)
            return self._rejoined(wanted, passage, response, account, call, visit)
        assert forward is not None, "the constructor refuses a share with neither segments nor a way on"
        return self._answer(*self._pass_on(forward, self._unchanged(call, visit), call, visit), call, visit)

    def _channels(self, call: Call) -> int | None:
        """How many channels of the latent this request sends on; a share without segments leaves that to the next."""
        asked = call.parameters.get(CHANNELS)
        if asked is None or self._batcher is None:
            return self.share.channels
        if self._closing is None or isinstance(asked, bool) or not isinstance(asked, int):
            raise InputError(
                f"{CHANNELS} must be a whole number, for a model that sends a coded latent", got=asked, where=self.name
            )
        self._closing.check_channels(asked)
        return asked

    def _answer(self, outputs: Tensors | Framed, account: Account, call: Call, visit: Visit) -> Answer:
        return Answer(self.name, self.version, call.id, outputs, account, visit, call)

    def _unchanged(self, call: Call, visit: Visit) -> Framed:
        """What a share without segments received goes on as it is: its tensors stay the bytes they are, if they are."""
        if not isinstance(call.contents, Framed):
            with visit.computing("decode"):
                tensors = call.contents.tensors()
            with visit.computing("encode"):
                onward = infer_request(self._forward_model, tensors, call.wanted)
            asked = call.parameters.get(CHANNELS)
            if isinstance(asked, int):
                onward.message.parameters[CHANNELS].int64_param = asked
            return onward
        request = call.contents
        request.message.model_name, request.message.model_version = self._forward_model, ""
        return request

    def _batched(self, executor: Executor, batching: Batching | None, line: Line) -> Batcher:
        manifest = self.artifact.manifest
        prepare = None if self._first else Preprocessor(manifest.input, self.artifact.directory, self._limits)
        stage = _stage(self._first, self._last, len(manifest.segments))
        share = self.share
        return Batcher(
            executor, prepare, stage, share.batching or batching, manifest.outputs, share.priority, self.counters, line
        )

    def _decoded(self, call: Call, visit: Visit) -> Tensors:
        with visit.computing("decode"):
            tensors, opening = call.contents.tensors(), self._opening
            if opening is None:
                return tensors
            frame = opening.read(tensors, self._limits.latent_elements)
            if opening.elements(frame) <= _SOON_DECODED:
                return opening.unpack(tensors, frame)
        # As long a work as computing, so it waits for its turn as that does, and not beyond the client's deadline.
        with visit.turn(), visit.computing("decode"):
            return opening.unpack(tensors, frame)

    def _merged(self, wanted: tuple[str, ...], passage: Passage, rest: Tensors) -> Tensors:
        """The answer to the whole request from that to the items that left here and that to the rest."""
        if passage.left is None:
            return {name: rest[name] for name in wanted}
        specs = [spec for spec in self.artifact.manifest.outputs if spec.name in wanted]
        merged = merge(specs, passage.left, passage.answers or {}, rest)
        return {name: merged[name] for name in wanted}

    def _rejoined(
        self, wanted: tuple[str, ...], passage: Passage, response: Framed, account: Account, call: Call, visit: Visit
    ) -> Answer:
        """The answer from above, joined with that to the items that left here."""
        here = passage.exit_frac
        if here is None:
            return self._answer(response, account, call, visit)
        account = dataclasses.replace(account, exit_frac=here + (1.0 - here) * (account.exit_frac or 0.0))
        if here == 0.0:
            return self._answer(response, account, call, visit)
        with visit.computing("decode"):
            rest = response.tensors()
        return self._answer(self._merged(wanted, passage, rest), account, call, visit)

    def _pass_on(self, forward: InferenceClient, onward: Framed, call: Call, visit: Visit) -> tuple[Framed, Account]:
        try:
            exchange: Exchange = forward.exchange(ask_account(onward), visit.left_s, self._observer.onward(call))
        except RemoteError as error:
            self._observer.forward_failed(call, forward.address, status_of(error).name)
            # Its message names the address, and what the node above said names that tier.
            raise RefusalError(_ABOVE.get(status_of(error), Code.UNAVAILABLE), error) from error
        above = count_hop(exchange, visit.tier, forward.address, visit.timeline)
        up, down = exchange.sent_bytes, exchange.received_bytes
        self._observer.forwarded(call, Forwarded(forward.address, above.path[0], above.way_ns, up, down))
        return exchange.response, Account(
            path=(visit.tier, *above.path),
            bytes_up=up + above.bytes_up,
            bytes_down=down + above.bytes_down,
            exit_frac=above.exit_frac,
            weights=above.weights,
        )

    def metadata(self, tier: str) -> ModelMetadata:
        """What a client may send and gets, and figures about loading as properties."""
        manifest, executor = self.artifact.manifest, self._executor
        inputs = request_tensors(manifest.input) if self._first == 0 else tensors_at(self.artifact, self._first)
        if self._opening is not None:
            coded = self._opening.spec
            inputs = tuple(coded if spec.name == coded.name else spec for spec in inputs)
        properties = {
            "tierwise.tier": tier,
            "tierwise.digest": self.artifact.digest,
            "tierwise.segments": f"{self._first}:{self._last} of {len(manifest.segments)}",
            "tierwise.load_s": str(self.load_s),
        }
        if executor is not None:
            properties["tierwise.threads"] = str(executor.threads)
            if executor.first_run_s is not None:
                properties["tierwise.first_run_s"] = str(executor.first_run_s)
        if self.weights is not None:
            properties["tierwise.weights"] = self.weights
        if self.share.label is not None:
            properties["tierwise.label"] = self.share.label
        if self.share.forward is not None:
            properties["tierwise.forward"] = f"{self.share.forward} {self._forward_model}"
        return ModelMetadata(
            name=self.name,
            versions=(self.version,),
            platform="onnxruntime_onnx",
            inputs=inputs,
            outputs=manifest.outputs,
            properties=properties,
        )


@final
class _Places:
    """The bound on a model's requests under way."""

    def __init__(self, most: int | None, model: str) -> None:
        self._most, self._model = most, model
        self._mutex = threading.Lock()
        self._taken = 0

    def take(self) -> None:
        """One more is under way.

        Raises:
            RefusalError: There is no place.
        """
        with self._mutex:
            if self._most is not None and self._taken >= self._most:
                full = InputError(
                    f"at most {self._most} requests may wait for the model", where=self._model, fix="Ask again later"
                )
                raise RefusalError(Code.EXHAUSTED, full, retry_after_s=1.0)
            self._taken += 1

    def give_back(self) -> None:
        """One is over."""
        with self._mutex:
            self._taken -= 1


def _stage(first: int, last: int, count: int) -> str:
    if first == 0:
        return "infer" if last == count else "head"
    return "tail" if last == count else "middle"
