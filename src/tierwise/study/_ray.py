"""Building the variants of a study as Ray tasks: on this machine, or on a cluster whose machines share no disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tierwise import _errors
from tierwise._config import Spec
from tierwise._errors import SpecError, StoreError, TierwiseError, UnavailableError
from tierwise.measure import Progress, usable_cpus
from tierwise.operators import OperatorSpec, Partition, parse_chain
from tierwise.study._order import KINDS, TASKS, Failure, Order, fulfil, packages
from tierwise.study._parcel import pack, unpack
from tierwise.study._plan import Asked
from tierwise.tasks import Task, TaskSpec

__all__ = ["build_on_ray", "ray_address"]

_RECEIPTS: Final = "builds"

Chain = tuple[OperatorSpec, ...]


class _Receipt(Spec, frozen=True, kw_only=True):
    """What an order brought, as ``KIND/NAME`` of the study's directory or the cache."""

    folders: tuple[str, ...]


def ray_address(on: str) -> str | None:
    """The cluster's address in ``ray=ADDRESS``; None for ``ray``, a local one.

    Raises:
        SpecError: Neither.
    """
    name, equals, address = on.partition("=")
    if name != "ray" or (equals and not address):
        raise SpecError("where to build must be ray or ray=ADDRESS", got=repr(on), where="--on")
    return address or None


def build_on_ray(
    task: Task,
    spec: TaskSpec,
    asked: Sequence[Asked],
    directory: Path,
    cache: Path,
    progress: Progress,
    address: str | None,
) -> None:
    """Build every chain of a campaign up to where it is cut, each prefix once and independent ones at the same time.

    Results come back as files into the same store that local builds use, where `prepare` finds them; a prefix that is
    there already is not built again. Cutting is left to `prepare`, since the cost model needs this machine's figures.

    Args:
        task: Loaded here.
        spec: What it was loaded from; workers load it themselves.
        asked: The strategies.
        directory: The study's.
        cache: For weights.
        progress: Shows how many are done.
        address: Of a cluster; None starts Ray here with as many CPUs as this process may use.

    Raises:
        UnavailableError: Ray is not installed or cannot be reached, or a worker lacks something.
        TierwiseError: What a build raises.
    """
    orders = _orders(task, spec, asked, cache)
    known = {chain: _receipt(directory, cache, order) for chain, order in orders.items()}
    missing = [chain for chain in orders if known[chain] is None]
    if not missing:
        return
    with _ray(address) as ray, progress.step("build variants on Ray", len(orders)) as advance:
        advance(len(orders) - len(missing))
        own = f"{TASKS}/{task.fingerprint[:24]}"
        parcels: dict[Chain, Any] = {(): ray.put(pack(cache, [own]) if (cache / own).is_dir() else {})}
        for chain, receipt in known.items():
            if receipt is not None:
                parcels[chain] = ray.put(_packed(directory, cache, receipt))
        remote = ray.remote(num_cpus=1, num_returns=2, max_retries=2)(_fulfil)
        running: dict[Any, tuple[Chain, Any]] = {}
        while missing or running:
            for chain in [chain for chain in missing if all(before in parcels for before in _before(chain))]:
                missing.remove(chain)
                given = [parcels[before] for before in _before(chain)]
                status, parcel = remote.remote(msgspec.json.encode(orders[chain]), *given)
                running[status] = (chain, parcel)
            done, _ = ray.wait(list(running), num_returns=1)
            ready, parcel = running.pop(done[0])
            _accept(orders[ready], _fetched(ray, done[0]), _fetched(ray, parcel), directory, cache)
            parcels[ready] = parcel
            advance(1)


def _fulfil(order: bytes, *parcels: dict[str, bytes]) -> tuple[bytes, dict[str, bytes]]:
    """What a worker runs; plain data in and out."""
    failure, made = fulfil(msgspec.json.decode(order, type=Order), parcels)
    return msgspec.json.encode(failure), made


def _orders(task: Task, spec: TaskSpec, asked: Sequence[Asked], cache: Path) -> dict[Chain, Order]:
    """Every prefix of every chain, shorter ones first; the model as it came is the root of all."""
    chains: list[Chain] = [parse_chain("identity")]
    for entry in asked:
        chain: Chain = tuple(
            s for s in parse_chain(entry.spec.chain, entry.spec.options) if not isinstance(s, Partition)
        )
        chains += [chain[:length] for length in range(1, len(chain) + 1)]
    versions = packages()
    found: dict[Chain, Order] = {}
    for chain in sorted(chains, key=len):
        found.setdefault(
            chain,
            Order(
                task=spec,
                fingerprint=task.fingerprint,
                chain=chain,
                packages=versions,
                cache=str(cache.resolve()),
            ),
        )
    return found


def _before(chain: Chain) -> list[Chain]:
    """What must be built before: the root, whose export and weights all need, and the chain's own prefixes."""
    root = parse_chain("identity")
    if chain == root:
        return [()]
    return [(), root, *(chain[:length] for length in range(1, len(chain)))]


def _accept(order: Order, status: bytes, parcel: Mapping[str, bytes], directory: Path, cache: Path) -> None:
    failure = msgspec.json.decode(status, type=Failure | None)
    if failure is not None:
        raise _error(failure, order)
    tasks = {name: content for name, content in parcel.items() if name.startswith(f"{TASKS}/")}
    rest = {name: content for name, content in parcel.items() if name not in tasks}
    if any(name.partition("/")[0] not in KINDS for name in rest):
        raise StoreError(f"a worker must give back {', '.join(KINDS)} or {TASKS}", got=sorted(rest)[0])
    unpack(cache, tasks)
    unpack(directory, rest)
    folders = sorted({"/".join(name.split("/")[:2]) for name in parcel})
    path = directory / _RECEIPTS / f"{order.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    stage.write_bytes(msgspec.json.encode(_Receipt(folders=tuple(folders))))
    stage.replace(path)


def _receipt(directory: Path, cache: Path, order: Order) -> _Receipt | None:
    """The receipt of an order whose results are all here; None where it must be built."""
    path = directory / _RECEIPTS / f"{order.key}.json"
    try:
        receipt = msgspec.json.decode(path.read_bytes(), type=_Receipt)
    except (OSError, msgspec.DecodeError):
        return None
    return receipt if all((_root(directory, cache, folder) / folder).is_dir() for folder in receipt.folders) else None


def _packed(directory: Path, cache: Path, receipt: _Receipt) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for folder in receipt.folders:
        found |= pack(_root(directory, cache, folder), [folder])
    return found


def _root(directory: Path, cache: Path, folder: str) -> Path:
    return cache if folder.startswith(f"{TASKS}/") else directory


def _error(failure: Failure, order: Order) -> TierwiseError:
    kind = getattr(_errors, failure.kind, TierwiseError)
    where = failure.where or "+".join(spec.NAME for spec in order.chain)
    error: TierwiseError = kind(failure.must, got=failure.got, where=where, fix=failure.fix)
    return error


def _fetched(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UnavailableError(
            f"a Ray worker must finish its build ({said})",
            fix="The same command goes on; look at the cluster's memory and logs (ray status)",
        ) from error


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its coming default: a task without GPUs must not hide them from libraries.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(
            "building on Ray needs the package ray", fix="Install it with: pip install 'tierwise[ray]'"
        ) from error
    if ray.is_initialized():
        # Whoever started it in this process decides when it ends.
        yield ray
        return
    asked: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": _cpus()}
    try:
        ray.init(**asked, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises what its parts raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnavailableError(
            f"Ray must be reachable at {address or 'this machine'} ({said})",
            fix="Look whether the cluster runs (ray status), or build on this machine with --on ray",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _cpus() -> int:
    return max(1, int(usable_cpus()))
