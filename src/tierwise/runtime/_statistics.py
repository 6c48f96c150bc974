"""What a model has done since it was loaded, counted as Triton's statistics extension tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

__all__ = ["BatchStatistics", "Counters", "Duration", "ModelStatistics"]

# Clients choose how many items they send, and must not choose how much is remembered of it.
_MOST_SIZES: Final = 256


@final
@dataclass(frozen=True)
class Duration:
    """How often something happened and how long it took in sum."""

    count: int = 0
    ns: int = 0


@final
@dataclass(frozen=True)
class BatchStatistics:
    """Executions of one batch size, by what they spent their time on."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


@final
@dataclass(frozen=True)
class ModelStatistics:
    """One version of a model; names and meanings are those of Triton's statistics extension.

    Attributes:
        name: The model.
        version: Its version.
        last_inference_ms: When it was last asked, milliseconds since 1970; 0: never.
        inference_count: Items answered (a request of 8 items counts 8).
        execution_count: Times the model ran; below ``inference_count`` where batching helps.
        success: Requests answered, from arrival to answer.
        fail: Requests refused, from arrival to refusal.
        queue: Requests' time in the queue.
        compute_input: Decoding and preprocessing.
        compute_infer: The model itself.
        compute_output: Encoding.
        batches: Executions by batch size, smallest first; of the first 256 sizes that came.
    """

    name: str
    version: str
    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    batches: tuple[BatchStatistics, ...] = ()


@final
@dataclass
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def value(self) -> Duration:
        return Duration(self.count, self.ns)


@final
@dataclass
class _Batch:
    input: _Sum = field(default_factory=_Sum)
    infer: _Sum = field(default_factory=_Sum)
    output: _Sum = field(default_factory=_Sum)


@final
class Counters:
    """Counts what one version of a model does; may be told from several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._items = self._executions = self._last_ms = 0
        self._success, self._fail, self._queue = _Sum(), _Sum(), _Sum()
        self._requests = _Batch()
        self._batches: dict[int, _Batch] = {}

    def executed(self, batch_size: int, spent: Mapping[str, int]) -> None:
        """The model ran once on ``batch_size`` items; ``spent`` holds nanoseconds by stage."""
        input_ns, infer_ns, output_ns = _computing(spent)
        with self._mutex:
            self._executions += 1
            batch = self._batches.get(batch_size)
            if batch is None:
                if len(self._batches) >= _MOST_SIZES:
                    return
                batch = self._batches[batch_size] = _Batch()
            batch.input.add(input_ns)
            batch.infer.add(infer_ns)
            batch.output.add(output_ns)

    def answered(self, items: int, took_ns: int, spent: Mapping[str, int]) -> None:
        """A request of ``items`` items was answered; ``spent`` holds nanoseconds by stage."""
        input_ns, infer_ns, output_ns = _computing(spent)
        with self._mutex:
            self._items += items
            self._last_ms = time.time_ns() // 1_000_000
            self._success.add(took_ns)
            self._queue.add(spent.get("queue", 0))
            self._requests.input.add(input_ns)
            self._requests.infer.add(infer_ns)
            self._requests.output.add(output_ns)

    def failed(self, took_ns: int) -> None:
        """A request was refused."""
        with self._mutex:
            self._last_ms = time.time_ns() // 1_000_000
            self._fail.add(took_ns)

    def statistics(self, name: str, version: str) -> ModelStatistics:
        """All of it at this moment."""
        with self._mutex:
            return ModelStatistics(
                name=name,
                version=version,
                last_inference_ms=self._last_ms,
                inference_count=self._items,
                execution_count=self._executions,
                success=self._success.value(),
                fail=self._fail.value(),
                queue=self._queue.value(),
                compute_input=self._requests.input.value(),
                compute_infer=self._requests.infer.value(),
                compute_output=self._requests.output.value(),
                batches=tuple(
                    BatchStatistics(size, batch.input.value(), batch.infer.value(), batch.output.value())
                    for size, batch in sorted(self._batches.items())
                ),
            )


def _computing(spent: Mapping[str, int]) -> tuple[int, int, int]:
    """What a request spent on its way to the model, in it, and on its way from it."""
    infer_ns = sum(spent.get(stage, 0) for stage in ("infer", "head", "middle", "tail"))
    return spent.get("decode", 0) + spent.get("preprocess", 0), infer_ns, spent.get("encode", 0)
