"""Runs segments of an artifact with ONNX Runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError, TierwiseError
from tierwise.artifact import Artifact, Detections, Exit, Segment, TensorSpec, detect
from tierwise.measure import usable_cpus
from tierwise.runtime._external import check_contents
from tierwise.runtime._learnt import Learnt
from tierwise.runtime._passage import Passage, leaving, merge, rows_of
from tierwise.runtime._seal import Seal, seal_at
from tierwise.wire import dtype_name

__all__ = ["Executor", "default_threads", "tensors_at"]

Tensors = dict[str, npt.NDArray[Any]]


def default_threads(cpus: float | None = None) -> int:
    """Threads for ``cpus`` (None: what this process may really use): rounded down, at least 1."""
    return max(1, math.floor(usable_cpus() if cpus is None else cpus))


def tensors_at(artifact: Artifact, border: int) -> tuple[TensorSpec, ...]:
    """What must cross the border before segment ``border``: all that later segments and the answer need from before.

    At border 0 these are the model's inputs, after the last segment its outputs.
    """
    segments, outputs = artifact.manifest.segments, artifact.manifest.outputs
    made = {spec.name for segment in segments[border:] for spec in segment.outputs}
    boxes = artifact.manifest.boxes
    if isinstance(boxes, Detections) and border < len(segments):
        made.add(boxes.answer)  # behind the last segment, where that is run
    needed = [spec for segment in segments[border:] for spec in segment.inputs] + list(outputs)
    return tuple({spec.name: spec for spec in needed if spec.name not in made}.values())


@final
class Executor:
    """Sessions of some neighbouring segments, made once; may be used from several threads.

    Args:
        artifact: A verified artifact.
        segments: Half-open range of its segments; None: all.
        threads: Threads of every session; None: the CPUs this process may really use, rounded down.
        channels: Of a coded latent between the segments, how many pass; None: all.

    Attributes:
        inputs: What `run` needs.
        outputs: What `run` gives: what crosses the border after the last of the segments.
        threads: Threads of every session.
        load_s: Seconds that making the sessions took.
        first_run_s: Seconds of the first run, which is slower than later ones; None before it.

    Raises:
        InputError: The range does not fit the artifact, or so many channels may not pass.
        ArtifactError: A segment is not a model ONNX Runtime can run, keeps tensors outside the artifact, uses
            operators that ONNX Runtime does not have, or is not what the manifest says.
    """

    def __init__(
        self,
        artifact: Artifact,
        segments: tuple[int, int] | None = None,
        threads: int | None = None,
        channels: int | None = None,
    ) -> None:
        count = len(artifact.manifest.segments)
        first, last = (0, count) if segments is None else segments
        if not 0 <= first < last <= count:
            raise InputError(f"segments must be a range within the artifact's {count}", got=f"[{first}, {last})")
        self.threads = default_threads() if threads is None else threads
        self.inputs, self.outputs = tensors_at(artifact, first), tensors_at(artifact, last)
        self._complete, self._answer = last == count, artifact.manifest.outputs
        self._boxes = artifact.manifest.boxes
        made = [spec for segment in artifact.manifest.segments[first:last] for spec in segment.outputs]
        self._borders = (*self.inputs, *made)
        import onnxruntime as ort

        started_s = time.perf_counter()
        self._steps = [
            (segment, _session(ort, artifact, segment, self.threads))
            for segment in artifact.manifest.segments[first:last]
        ]
        # Between segments of this process a latent passes its codec too, so that placement changes no answer.
        self._seals = [seal_at(artifact, border) for border in range(first + 1, last)] + [None]
        self._channels = channels
        if channels is not None:
            _check_channels(self._seals, channels)
        self.load_s = time.perf_counter() - started_s
        self.first_run_s: float | None = None
        self._learnt: Learnt | None = None

    @property
    def learnt(self) -> Learnt | None:
        """The weights that compute; None: the artifact's own."""
        return self._learnt

    def adopt(self, learnt: Learnt) -> None:
        """Compute with these weights from the next run on; a run under way ends with those it began with.

        Args:
            learnt: In place of initialisers of the first segment that a caller may override; what the segment does
                not have is left out.

        Raises:
            InputError: A tensor has another shape than the model's.
        """
        wanted = {value.name: list(value.shape) for value in self._steps[0][1].get_overridable_initializers()}
        known = {name: tensor for name, tensor in learnt.tensors.items() if name in wanted}
        for name, tensor in known.items():
            if list(tensor.shape) != wanted[name]:
                raise InputError(f"weights must be {wanted[name]}", got=list(tensor.shape), where=name)
        # One assignment: whoever computes sees all of the old weights or all of the new.
        self._learnt = Learnt(known, learnt.label)

    def run(self, tensors: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Run the segments in order.

        Items that leave at an exit have its answer, where the last segment is among those run here; in front of
        segments that run elsewhere every item goes on (`advance` lets them leave there too).

        Args:
            tensors: All of `inputs` by name, batch axis first; others are ignored.

        Returns:
            All of `outputs` by name.

        Raises:
            InputError: As `advance`.
            TierwiseError: As `advance`.
        """
        if not self._complete:
            return self._advance(tensors, exits=False).tensors
        passage = self._advance(tensors, exits=True)
        if passage.left is None:
            return passage.tensors
        return merge(self.outputs, passage.left, passage.answers or {}, passage.tensors)

    def advance(self, tensors: Mapping[str, npt.NDArray[Any]]) -> Passage:
        """Run the segments in order and let items leave at the exits between them.

        Args:
            tensors: All of `inputs` by name, batch axis first; others are ignored.

        Returns:
            `outputs` for the items that go on, and the answers for those that left.

        Raises:
            InputError: A tensor is missing, has the wrong type or shape, or holds values the model refuses.
            TierwiseError: ONNX Runtime failed.
        """
        return self._advance(tensors, exits=True)

    def _advance(self, tensors: Mapping[str, npt.NDArray[Any]], *, exits: bool) -> Passage:
        started_s = time.perf_counter()
        known = _checked(self.inputs, tensors)
        gone: _Gone | None = None
        learnt = self._learnt
        for (segment, session), seal in zip(self._steps, self._seals, strict=True):
            fed = {spec.name: known[spec.name] for spec in segment.inputs}
            if learnt is not None and session is self._steps[0][1]:
                fed.update(learnt.tensors)
            names = [spec.name for spec in segment.outputs]
            known.update(zip(names, _run(session, names, fed, segment.file), strict=True))
            if seal is not None:
                known = seal.through(known, self._channels)
            if segment.exit is None or not exits:
                continue
            leave = leaving(segment.exit, known)
            gone = gone or _Gone(len(leave), self._answer)
            stay = gone.take(segment.exit, known, leave)
            if leave.size and not stay.any():
                known = {}
                break
            if leave.any():
                known = rows_of(self._borders, known, stay)
        if known and self._complete and isinstance(self._boxes, Detections):
            known[self._boxes.answer] = detect(self._boxes, known[self._boxes.tensor])
        if self.first_run_s is None:
            self.first_run_s = time.perf_counter() - started_s
        left = {spec.name: known[spec.name] for spec in self.outputs} if known else {}
        weights = None if learnt is None else learnt.label
        if gone is None:
            return Passage(left, weights=weights)
        return Passage(left, gone.left, gone.answers(), weights)


@final
class _Gone:
    """The items of a request that left at exits, and what they were answered."""

    def __init__(self, count: int, outputs: tuple[TensorSpec, ...]) -> None:
        self.left = np.zeros(count, np.bool_)
        self._outputs = outputs
        self._parts: list[tuple[npt.NDArray[np.int64], Tensors]] = []

    def take(self, exit: Exit, known: Tensors, leave: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Let those of the remaining items leave; which of them stay."""
        places = np.flatnonzero(~self.left)[leave]
        given = {spec.name: known[exit.answers[spec.name]] for spec in self._outputs}
        self._parts.append((places, rows_of(self._outputs, given, leave)))
        self.left[places] = True
        return ~leave

    def answers(self) -> Tensors:
        """All answers in the order of the items."""
        order = np.argsort(np.concatenate([places for places, _ in self._parts]))
        joined = {}
        for spec in self._outputs:
            axis = spec.shape.index(-1) if -1 in spec.shape else 0
            parts = [answers[spec.name] for _, answers in self._parts]
            joined[spec.name] = np.take(np.concatenate(parts, axis), order, axis) if -1 in spec.shape else parts[-1]
        return joined


def _check_channels(seals: Sequence[Seal | None], channels: int) -> None:
    found = [seal for seal in seals if seal is not None]
    if not found:
        raise InputError("only a coded latent between two segments has channels to choose", got=channels)
    for seal in found:
        seal.check_channels(channels)


def _session(ort: Any, artifact: Artifact, segment: Segment, threads: int) -> Any:
    check_contents(artifact, segment.file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Threads that spin while they wait take the CPU from other processes of a small machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # As it was checked: by its name alone it could be taken for ONNX Runtime's own format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    path = artifact.path(segment.file)
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise ArtifactError(
            f"ONNX Runtime must be able to load the segment ({_first_line(error)})", where=path
        ) from error
    for kind, told, specs in (
        ("inputs", session.get_inputs(), segment.inputs),
        ("outputs", session.get_outputs(), segment.outputs),
    ):
        names, listed = {tensor.name for tensor in told}, {spec.name for spec in specs}
        if (kind == "inputs" and names != listed) or not listed <= names:
            raise ArtifactError(
                f"the model's {kind} must be those of the manifest, {sorted(listed)}", got=sorted(names), where=path
            )
    return session


def _run(session: Any, names: list[str], fed: Tensors, file: str) -> list[npt.NDArray[Any]]:
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    try:
        outputs: list[npt.NDArray[Any]] = session.run(names, fed)
    except InvalidArgument as error:
        raise InputError(f"the model must accept the values ({_first_line(error)})", where=file) from error
    except Exception as error:  # see _session
        raise TierwiseError(
            f"ONNX Runtime must be able to run the segment ({_first_line(error)})", where=file
        ) from error
    return outputs


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def _checked(specs: tuple[TensorSpec, ...], tensors: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    wanted = [spec.name for spec in specs]
    if any(name not in tensors for name in wanted):
        raise InputError(f"the request must hold the tensors {wanted}", got=sorted(tensors))
    batches: dict[str, int] = {}
    for spec in specs:
        array = tensors[spec.name]
        dtype = dtype_name(array, spec.name)
        fits = len(array.shape) == len(spec.shape) and all(
            wanted in (-1, axis) for wanted, axis in zip(spec.shape, array.shape, strict=True)
        )
        if dtype != spec.dtype or not fits:
            raise InputError(
                f"the tensor must be {spec.dtype} {list(spec.shape)}",
                got=f"{dtype} {list(array.shape)}",
                where=spec.name,
            )
        if spec.shape and spec.shape[0] == -1:
            batches[spec.name] = array.shape[0]
    if len(set(batches.values())) > 1:
        raise InputError("all tensors of a request must have the same batch", got=batches)
    return {name: tensors[name] for name in wanted}
