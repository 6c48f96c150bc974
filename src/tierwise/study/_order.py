"""One build that another machine can do: what is ordered, and the work itself. Knows nothing of who carries it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from tierwise import __version__
from tierwise._config import Spec
from tierwise._errors import StoreError, TierwiseError, UnavailableError
from tierwise.measure import Silent
from tierwise.operators import OperatorSpec, build
from tierwise.study._lock import locked
from tierwise.study._parcel import Parcel, folders_of, pack, unpack
from tierwise.tasks import TaskSpec, load_task

__all__ = ["KINDS", "TASKS", "Failure", "Order", "fulfil", "packages"]

KINDS: Final = ("stages", "resolved", "artifacts")
"""Folders of a study that hold what builds made."""

TASKS: Final = "tasks"
"""Folder of a cache that holds trained weights and tokenisers."""

_PACKAGES: Final = ("numpy", "onnx", "onnxruntime", "onnxscript", "scikit-learn", "torch", "torch-pruning")


class Order(Spec, frozen=True, kw_only=True):
    """A chain to build.

    Attributes:
        task: The task.
        fingerprint: Of the task, as the study knows it.
        chain: Resolved from the campaign.
        packages: Versions that the study uses; they decide the names of what is built.
        cache: The study's cache; used where this very path exists, so that a shared disk saves downloads.
        threads: Threads for training and evaluating.
    """

    task: TaskSpec
    fingerprint: str
    chain: tuple[OperatorSpec, ...]
    packages: dict[str, str]
    cache: str
    threads: int = 1

    @property
    def key(self) -> str:
        """Names the order by all that decides its result."""
        content = [self.fingerprint, msgspec.to_builtins(self.chain), self.packages]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:24]


class Failure(Spec, frozen=True, kw_only=True):
    """An error as plain data."""

    kind: str
    must: str
    got: str | None
    where: str | None
    fix: str | None

    @staticmethod
    def of(error: TierwiseError) -> Failure:
        """The failure that says the same."""
        got, where = (None if part is None else str(part) for part in (error.got, error.where))
        return Failure(kind=type(error).__name__, must=error.must, got=got, where=where, fix=error.fix)


def packages() -> dict[str, str]:
    """Versions installed here of everything that decides what builds make."""
    found = {"tierwise": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def fulfil(order: Order, parcels: Sequence[Parcel]) -> tuple[Failure | None, dict[str, bytes]]:
    """Build a chain from what its prefixes left.

    A training that is killed goes on from its last epoch when the same order comes to the same machine again.

    Args:
        order: What to build.
        parcels: What building the chain's prefixes gave, and the task's weights and tokeniser.

    Returns:
        Why it could not be built, if so; and everything new, as a parcel.
    """
    try:
        _agree(order.packages)
        with _workshop(order.key) as home:
            made = _build(order, parcels, home)
            return None, made
    except TierwiseError as error:
        return Failure.of(error), {}


def _build(order: Order, parcels: Sequence[Parcel], home: Path) -> dict[str, bytes]:
    shared = Path(order.cache)
    cache = shared if shared.is_dir() and os.access(shared, os.W_OK) else home.parent / "cache"
    given: set[str] = set()
    for parcel in parcels:
        tasks = {name: content for name, content in parcel.items() if name.startswith(f"{TASKS}/")}
        unpack(cache, tasks)
        unpack(home, {name: content for name, content in parcel.items() if name not in tasks})
        given |= set(parcel)
    task = load_task(order.task, cache, Silent(), threads=order.threads)
    if task.fingerprint != order.fingerprint:
        raise UnavailableError(
            f"the task must be the study's (fingerprint {order.fingerprint[:16]})",
            got=task.fingerprint[:16],
            fix="Give the worker the same data and the same files of the task",
        )
    build(task, order.chain, home, Silent())
    new = pack(home, folders_of(home, KINDS)) | pack(cache, _own_folder(cache, order.fingerprint))
    return {name: content for name, content in new.items() if name not in given}


def _own_folder(cache: Path, fingerprint: str) -> set[str]:
    return {f"{TASKS}/{fingerprint[:24]}"} if (cache / TASKS / fingerprint[:24]).is_dir() else set()


def _agree(wanted: dict[str, str]) -> None:
    here = packages()
    for name, number in wanted.items():
        if here.get(name) != number:
            raise UnavailableError(
                f"a worker must have the versions of the study ({name} {number})",
                got=here.get(name, "none"),
                fix=f"Install there: pip install '{name}=={number}'",
            )


@contextlib.contextmanager
def _workshop(key: str) -> Iterator[Path]:
    """A folder of this machine for one order, removed when it is fulfilled and kept when its process is killed."""
    root = Path(tempfile.gettempdir()) / f"tierwise-builds-{os.getuid()}"
    home = root / key
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(home, "a build"))
        except StoreError:
            # The same order is at work here, or its killed process is not quite gone.
            home = root / f"{key}-{os.getpid()}"
            stack.enter_context(locked(home, "a build"))
        yield home
        shutil.rmtree(home, ignore_errors=True)
