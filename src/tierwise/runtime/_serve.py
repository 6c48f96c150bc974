"""A node: a process that serves until it is told to stop."""

from __future__ import annotations

import gc
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import final

import grpc

from tierwise import __version__
from tierwise._clock import SystemClock
from tierwise._errors import UnavailableError
from tierwise.artifact import Artifact
from tierwise.runtime._desk import Desk
from tierwise.runtime._executor import default_threads
from tierwise.runtime._grpc_front import GrpcFront
from tierwise.runtime._guard import OpenGuard
from tierwise.runtime._line import Line
from tierwise.runtime._log import EventLog, open_log
from tierwise.runtime._metrics import NodeMetrics
from tierwise.runtime._metrics_server import metrics_server
from tierwise.runtime._node_observer import NodeObserver
from tierwise.runtime._observer import Observer
from tierwise.runtime._open_files import allow_open_files
from tierwise.runtime._probe import PROBE, Probe
from tierwise.runtime._repository import Repository
from tierwise.runtime._served import Served
from tierwise.runtime._spec import NodeSpec, Share
from tierwise.runtime._tracing import open_tracing
from tierwise.wire import CHANNEL_OPTIONS, InferenceClient

__all__ = ["serve"]

# Threads beside those that requests for inference may take up, so that liveness is answered and models are loaded.
_SPARE_THREADS = 16
# For answers that are made but not yet sent.
_LAST_S = 0.5


def serve(spec: NodeSpec) -> None:
    """Serve on the given addresses until SIGTERM or SIGINT; must be called from the main thread.

    Prints ``tierwise node TIER ready on ADDRESS[, ADDRESS]`` when it serves, with the real ports.

    Raises:
        UnavailableError: An address cannot be listened on.
    """
    stopped = threading.Event()
    allow_open_files()
    import onnxruntime  # noqa: F401 - now rather than inside the first model's cold start

    # Told to stop before it serves, a node stops as soon as it does.
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _repository_folder(spec) as folder, _Forwards() as forwards, _observed(spec) as (observer, log):
            server, desk, addresses = _start(spec, folder, forwards, observer, log)
            with _rest(spec, desk) as urls:
                addresses += urls
                # What is here now stays; searching it for garbage again and again would cost every request.
                gc.collect()
                gc.freeze()
                print(f"tierwise node {spec.tier} ready on {', '.join(addresses)}", flush=True)
                log.info("ready", addresses=", ".join(addresses), version=__version__)
                stopped.wait()
                log.info("draining")
                # Requests under way get their time; those that wait for a node above are then cut off with its client.
                desk.drain(spec.grace_s)
            ended = server.stop(_LAST_S)
            forwards.close()
            ended.wait()
            desk.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _observed(spec: NodeSpec) -> Iterator[tuple[NodeObserver, EventLog]]:
    """Who is told what the node does, and its log; what is still to be told at the end is."""
    asked = spec.observability
    log = open_log(asked, spec.tier, SystemClock())
    metrics, tracing = NodeMetrics(spec.tier), open_tracing(asked, spec.tier)
    metrics.loaded(PROBE, "1")
    with ExitStack() as stack:
        if asked.metrics_listen is not None:
            address = stack.enter_context(metrics_server(asked.metrics_listen, metrics.exposition))
            log.info("metrics", address=f"http://{address}/metrics")
        yield NodeObserver(metrics, log, tracing, asked.request_log_frac), log
    log.info("stopped")
    if tracing is not None:
        tracing.close()


@final
class _Forwards:
    """Clients of the next nodes, one for each address, open as long as this node serves."""

    def __init__(self) -> None:
        self._clients: dict[str, InferenceClient] = {}

    def __enter__(self) -> _Forwards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, address: str) -> InferenceClient:
        """The client of ``address``."""
        if address not in self._clients:
            self._clients[address] = InferenceClient(address)
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

    with http_server(rest_app(desk), spec.rest) as urls:
        yield urls


def _start(
    spec: NodeSpec, folder: Path, forwards: _Forwards, observer: Observer, log: EventLog
) -> tuple[grpc.Server, Desk, list[str]]:
    guard, clock = OpenGuard(), SystemClock()
    width = 1 if spec.threads is None else max(1, default_threads(spec.cpus) // spec.threads)
    line = Line(width, clock)

    def make(name: str, version: str, artifact: Artifact, share: Share) -> Served:
        # The quota is read when a model is loaded: it may have been set after the node was started.
        threads = spec.threads or default_threads(spec.cpus)
        forward = forwards.client(share.forward) if share.forward else None
        return Served(name, version, artifact, share, threads, spec.batching, line, forward, observer)

    repository = Repository(folder, spec.repository is not None, make, Probe(spec.max_message_bytes))
    desk = Desk(spec, repository, line, clock, guard, observer)
    for name, reason in desk.restore().items():
        log.error("model is not served again", model=name, reason=reason)
    pool = ThreadPoolExecutor(spec.max_waiting + _SPARE_THREADS, thread_name_prefix="request")
    front = GrpcFront(desk)
    # Two nodes on one port would share its requests; the second shall fail instead.
    server = grpc.server(pool, options=(*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)))
    server.add_generic_rpc_handlers((front.routes(), front.own_routes()))
    addresses = [_listen(server, address) for address in spec.listen]
    server.start()
    return server, desk, addresses


def _listen(server: grpc.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise UnavailableError(
            f"the node must be able to listen there ({error})",
            where=address,
            fix="Give a free HOST:PORT of this machine (port 0 picks one) or unix:PATH in a folder that exists",
        ) from error
    host, _, asked = address.rpartition(":")
    return f"{host}:{port}" if asked == "0" and not address.startswith("unix:") else address
