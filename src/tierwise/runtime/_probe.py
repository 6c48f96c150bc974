"""The built-in model ``tierwise.probe``: a known piece of work, and a payload of any size either way.

It goes the way of every model (queue, pacing), so that what it measures is what models meet: how much slower than
asked for a tier is, how fast a link carries bytes.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec
from tierwise.runtime._call import Answer, Call
from tierwise.runtime._hop import Account
from tierwise.runtime._statistics import Counters
from tierwise.runtime._visit import Visit
from tierwise.wire import ModelMetadata

__all__ = ["PROBE", "Probe"]

PROBE: Final = "tierwise.probe"

# BLAKE2b has no instructions of its own on any CPU, runs on one thread without the interpreter's lock, and stays in the
# first-level cache: 16 kB at a time, 64 times, is about 1 ms on a server core.
_BLOCK: Final = bytes(16 << 10)
_BLOCKS: Final = 64
_MOST_UNITS: Final = 600_000
_INPUTS: Final = (
    TensorSpec(name="work", dtype="INT64", shape=(1,)),
    TensorSpec(name="bytes", dtype="INT64", shape=(1,)),
    TensorSpec(name="blob", dtype="UINT8", shape=(-1,)),
)
_OUTPUTS: Final = (
    TensorSpec(name="wall_ns", dtype="INT64", shape=(1,)),
    TensorSpec(name="cpu_ns", dtype="INT64", shape=(1,)),
    TensorSpec(name="blob", dtype="UINT8", shape=(-1,)),
)


@final
class Probe:
    """Answers ``wall_ns`` and ``cpu_ns`` of ``work`` units of fixed work, and ``bytes`` zero bytes as ``blob``.

    Every input may be left out (0 units, no blob). An incoming ``blob`` is accepted and ignored.

    Args:
        most_bytes: Largest blob it sends.
    """

    name, version = PROBE, "1"

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.counters = Counters()

    def answer(self, call: Call, visit: Visit) -> Answer:
        """See `Served.answer`.

        Raises:
            InputError: An input is not as the metadata says or beyond the bounds.
        """
        with visit.computing("decode"):
            tensors = call.contents.tensors()
            units = _count(tensors, "work", _MOST_UNITS)
            size = _count(tensors, "bytes", self._most_bytes)
        with visit.turn():
            started_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
            with visit.computing("infer"):
                _work(units)
                cpu_ns = time.thread_time_ns() - cpu_ns
            wall_ns = time.monotonic_ns() - started_ns
        visit.items = visit.batch_size = 1
        self.counters.executed(1, visit.spent())
        outputs: dict[str, npt.NDArray[Any]] = {
            "wall_ns": np.array([wall_ns], dtype=np.int64),
            "cpu_ns": np.array([cpu_ns], dtype=np.int64),
        }
        if size:
            outputs["blob"] = np.zeros(size, dtype=np.uint8)
        return Answer(PROBE, self.version, call.id, outputs, Account(path=(visit.tier,)), visit, call)

    def metadata(self, tier: str) -> ModelMetadata:
        """See `Served.metadata`."""
        return ModelMetadata(PROBE, (self.version,), "tierwise_builtin", _INPUTS, _OUTPUTS, {"tierwise.tier": tier})


def _work(units: int) -> None:
    for _ in range(units):
        digest = hashlib.blake2b()
        for _ in range(_BLOCKS):
            digest.update(_BLOCK)


def _count(tensors: dict[str, npt.NDArray[Any]], name: str, most: int) -> int:
    tensor = tensors.get(name)
    if tensor is None:
        return 0
    if tensor.dtype != np.int64 or tensor.size != 1 or not 0 <= tensor.item() <= most:
        raise InputError(
            f"it must be INT64 [1] from 0 to {most}", got=f"{tensor.dtype} {tensor.ravel()[:4].tolist()}", where=name
        )
    return int(tensor.item())
