"""A node: a process that serves until it is told to stop."""

from __future__ import annotations

import fnmatch
import gc
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import final

from tierwise import __version__
from tierwise._clock import SystemClock
from tierwise._errors import SpecError
from tierwise._signals import Signals
from tierwise.artifact import Artifact, trusted_keys, verify
from tierwise.runtime._dangers import cautions
from tierwise.runtime._desk import Desk
from tierwise.runtime._executor import default_threads
from tierwise.runtime._grpc_servers import GrpcServers
from tierwise.runtime._line import Line
from tierwise.runtime._log import EventLog, open_log
from tierwise.runtime._metrics import NodeMetrics
from tierwise.runtime._node_observer import NodeObserver
from tierwise.runtime._observer import Observer
from tierwise.runtime._open_files import allow_open_files
from tierwise.runtime._probe import PROBE, Probe
from tierwise.runtime._repository import Repository
from tierwise.runtime._security import SecuritySpec
from tierwise.runtime._served import Served
from tierwise.runtime._spec import NodeSpec, Share
from tierwise.runtime._tracing import open_tracing
from tierwise.runtime._trainings import Trainings
from tierwise.runtime._warden import Warden
from tierwise.wire import InferenceClient, load_keyring, server_context

__all__ = ["serve"]

# Threads beside those that requests for inference may take up, so that liveness is answered and models are loaded.
_SPARE_THREADS = 16
# For answers that are made but not yet sent, and for gRPC to cut off the calls that are still there then.
_LAST_S = 0.5
_CUT_S = 2.0
_METRICS_CONNECTIONS = 16
# New objects before garbage is searched for: requests under way are not searched through again with every few others.
_GARBAGE = 5_000


def serve(spec: NodeSpec, trainer: Sequence[str] = ()) -> None:
    """Serve on the given addresses until SIGTERM or SIGINT; must be called from the main thread.

    Prints ``tierwise node TIER ready on ADDRESS[, ADDRESS]`` when it serves, with the real ports.

    Returns soon after ``spec.grace_s``, also where a model still computes: nothing interrupts native code, so its
    thread runs on until it is done or the process ends. Nobody hears of what it makes, and nothing on disk waits for
    it.

    Args:
        spec: How it serves.
        trainer: Command of the process that trains, which this room knows nothing else of; empty: it does not train.

    Raises:
        UnavailableError: An address cannot be listened on.
    """
    _bound_memory(spec.limits.memory_bytes)
    allow_open_files()
    import onnxruntime  # noqa: F401 - now rather than inside the first model's cold start

    with Signals() as signals, ExitStack() as stack:
        folder = stack.enter_context(_repository_folder(spec))
        forwards = stack.enter_context(_Forwards(spec.security))
        observer, log = stack.enter_context(_observed(spec))
        front, desk, addresses = _start(spec, folder, forwards, observer, log, trainer, stack)
        with _rest(spec, desk) as urls, _metrics(spec, desk, log):
            addresses += urls
            # What is here now stays; searching it for garbage again and again would cost every request.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GARBAGE)
            print(f"tierwise node {spec.tier} ready on {', '.join(addresses)}", flush=True)
            log.info("ready", addresses=", ".join(addresses), version=__version__)
            for caution in cautions(spec):
                log.warning("caution", text=caution)
            signals.wait()
            log.info("draining")
            # Requests under way get their time; those that wait for a node above are then cut off with its client.
            desk.drain(spec.grace_s)
        ended = front.stop(_LAST_S)
        forwards.close()
        for event in ended:
            event.wait(_LAST_S + _CUT_S)
        desk.close()


def _bound_memory(most_bytes: int | None) -> None:
    """What this process and its threads may allocate from now on."""
    if most_bytes is None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes if hard < 0 else min(most_bytes, hard), hard))


@contextmanager
def _observed(spec: NodeSpec) -> Iterator[tuple[NodeObserver, EventLog]]:
    """Who is told what the node does, and its log; what is still to be told at the end is."""
    asked = spec.observability
    log = open_log(asked, spec.tier, SystemClock())
    metrics, tracing = NodeMetrics(spec.tier), open_tracing(asked, spec.tier)
    metrics.loaded(PROBE, "1")
    yield NodeObserver(metrics, log, tracing, asked.request_log_frac), log
    log.info("stopped")
    if tracing is not None:
        tracing.close()


@final
class _Forwards:
    """Clients of the next nodes, one for each address, open as long as this node serves.

    Args:
        spec: Where requests may go, and what is shown there.
    """

    def __init__(self, spec: SecuritySpec) -> None:
        self._allowed = spec.forward_to
        self._keyring = None if spec.forward_credentials is None else load_keyring(Path(spec.forward_credentials))
        self._clients: dict[str, InferenceClient] = {}

    def __enter__(self) -> _Forwards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, address: str) -> InferenceClient:
        """The client of ``address``.

        Raises:
            SpecError: The node's configuration does not let requests go there, or it is not an address.
        """
        if not any(fnmatch.fnmatchcase(address, pattern) for pattern in self._allowed):
            raise SpecError(
                "a share must forward to an address that this node's configuration allows",
                got=repr(address[:200]),
                fix="Add it to security.forward_to",
            )
        if address not in self._clients:
            known = None if self._keyring is None else self._keyring.find(address)
            self._clients[address] = InferenceClient(address, credentials=known)
        return self._clients[address]

    def close(self) -> None:
        """Close all."""
        for client in self._clients.values():
            client.close()


@contextmanager
def _repository_folder(spec: NodeSpec) -> Iterator[Path]:
    if spec.repository is not None:
        folder = Path(spec.repository)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="tierwise-node-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _rest(spec: NodeSpec, desk: Desk) -> Iterator[list[str]]:
    if not spec.rest:
        yield []
        return
    # Here, because a node without it shall not pay for it.
    from tierwise.runtime._http_server import http_server
    from tierwise.runtime._rest_front import rest_app

    tls = None if spec.security.tls is None else server_context(spec.security.tls)
    with http_server(rest_app(desk), spec.rest, tls=tls, most_connections=spec.limits.connections) as urls:
        yield urls


@contextmanager
def _metrics(spec: NodeSpec, desk: Desk, log: EventLog) -> Iterator[None]:
    address = spec.observability.metrics_listen
    if address is None:
        yield
        return
    from tierwise.runtime._http_server import http_server
    from tierwise.runtime._rest_front import metrics_app

    tls = None if spec.security.tls is None else server_context(spec.security.tls)
    with http_server(metrics_app(desk), [address], tls=tls, most_connections=_METRICS_CONNECTIONS) as urls:
        log.info("metrics", address=f"{urls[0]}/metrics")
        yield


def _start(
    spec: NodeSpec,
    folder: Path,
    forwards: _Forwards,
    observer: Observer,
    log: EventLog,
    trainer: Sequence[str],
    stack: ExitStack,
) -> tuple[GrpcServers, Desk, list[str]]:
    clock, security, limits = SystemClock(), spec.security, spec.limits
    guard = Warden(security, limits, clock)
    width = 1 if spec.threads is None else max(1, default_threads(spec.cpus) // spec.threads)
    line = Line(width, clock)

    def make(name: str, version: str, artifact: Artifact, share: Share) -> Served:
        if security.require_signature:
            verify(artifact, trusted_keys(security.trusted_keys))
        # The quota is read when a model is loaded: it may have been set after the node was started.
        threads = spec.threads or default_threads(spec.cpus)
        forward = forwards.client(share.forward) if share.forward else None
        return Served(name, version, artifact, share, threads, spec.batching, line, forward, observer, limits.inputs)

    probe = Probe(spec.max_message_bytes)
    keep = spec.repository is not None
    repository = Repository(folder, keep, make, probe, limits.models, limits.repository_bytes)
    trainings = Trainings(spec, repository, trainer, log)
    stack.callback(trainings.close)
    desk = Desk(spec, repository, line, clock, guard, observer, trainings)
    for name, reason in desk.restore().items():
        log.error("model is not served again", model=name, reason=reason)
    trainings.restore()
    pool = ThreadPoolExecutor(spec.max_waiting + _SPARE_THREADS, thread_name_prefix="request")
    servers = GrpcServers(spec, desk, pool)
    return servers, desk, servers.addresses
