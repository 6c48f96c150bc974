"""Training of an artifact on a node: steps, checkpoints, answers, deltas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError
from tierwise._units import format_bytes, format_seconds
from tierwise.artifact import Artifact, TrainingStep
from tierwise.training._adapter import merge
from tierwise.training._apart import apart
from tierwise.training._backend import BackendName, open_backend
from tierwise.training._frozen import Frozen
from tierwise.training._labels import check_labels
from tierwise.training._onnx_session import open_session
from tierwise.training._start import Start, give_back
from tierwise.training._tensor_file import TensorFile, read_tensors, write_tensors
from tierwise.training._verify import Replay, replay

__all__ = ["TrainingSession", "plan_of", "training_step_of"]


def training_step_of(artifact: Artifact) -> TrainingStep:
    """The compiled step of ``artifact``.

    Raises:
        ArtifactError: It has none.
    """
    if not isinstance(artifact.manifest.training, TrainingStep):
        raise ArtifactError(
            "the artifact must hold a compiled training step",
            where=artifact.directory,
            fix="Make one with: tierwise train compile",
        )
    return artifact.manifest.training


def plan_of(artifact: Artifact) -> str:
    """What a step of ``artifact`` trains and costs, in a few lines.

    Raises:
        ArtifactError: It has no training step.
    """
    spec = training_step_of(artifact)
    plan, values = spec.plan, sum(math.prod(one.shape) for one in spec.trained)
    eager = "" if plan.eager_step_s is None else f"; in eager PyTorch {format_seconds(plan.eager_step_s)}"
    lines = [
        f"Trained: {len(spec.trained)} tensors, {values:,} values; {spec.optimiser.kind}, batch {spec.batch}",
        f"Multiply-accumulates of a step: {plan.prefix_macs + plan.step_macs:,}, "
        f"of them frozen in front: {plan.prefix_macs:,}",
        f"Memory beyond weights when run lean, predicted: {format_bytes(plan.predicted_bytes)} in between (frozen part "
        f"{format_bytes(plan.predicted_prefix_peak_bytes)}, step {format_bytes(plan.predicted_peak_bytes)}, "
        f"handed over {format_bytes(plan.border_bytes)}), {format_bytes(plan.state_bytes)} of state",
        f"CPU time of a step, measured while compiling, one thread: {format_seconds(plan.measured_step_s)}{eager}",
    ]
    if spec.prefix is not None and (spec.items_apart or spec.batch == 1):
        lines.append(f"Features of one item in a feature cache: {format_bytes(plan.border_bytes / spec.batch)}")
    return "\n".join([*lines, *spec.notes])


@final
class TrainingSession:
    """A model that learns. Not for several threads at once.

    Opening it replays the artifact's verify vectors: a step that does not do what eager PyTorch did is not run.

    Args:
        artifact: A verified artifact with a training step.
        threads: Threads of the engine.
        backend: Which engine takes the steps; ``auto``: the compiler's choice where it can run here, else ONNX Runtime.
        lean: Take the least memory, some speed for it: the planned order, no arena, and every new tensor is written
            over the old one. Nobody may predict meanwhile, and behind a step that ONNX Runtime could not finish (no
            memory, say) a checkpoint must be read again.
        cache_bytes: Most memory for what the frozen part gives for items that come again, see `step`.

    Attributes:
        spec: The compiled step.
        backend: The engine that is used.
        steps: Steps taken since the start.
        verified: The replay at the start.

    Raises:
        ArtifactError: No training step, a file that cannot be loaded, or a replay that differs.
        UnavailableError: The safetensors library is not installed, or the backend cannot run here.

    Example:
        >>> session = TrainingSession(open_artifact(Path("model")))  # doctest: +SKIP
        >>> session.step({"input": pictures}, labels, rate=0.01)  # doctest: +SKIP
        2.31
    """

    def __init__(
        self,
        artifact: Artifact,
        threads: int = 1,
        backend: BackendName = "auto",
        *,
        lean: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        self._artifact, self._threads = artifact, threads
        self.spec = training_step_of(artifact)
        self._frozen: Frozen | None = None
        if lean and self.spec.frozen is not None:
            self._frozen = Frozen(artifact.path(self.spec.frozen))
        self._start = Start(artifact.path(self.spec.state), self.spec)
        self._engine, self.backend = open_backend(
            artifact.directory,
            self.spec,
            self._start,
            threads,
            backend,
            lean=lean,
            frozen=self._frozen,
            cache_bytes=cache_bytes,
        )
        if lean:
            give_back()
        self.verified: Replay = replay(self._engine, self.spec, TensorFile(artifact.path(self.spec.vectors)))
        if not self.verified.equal:
            raise ArtifactError(
                "the compiled step must repeat what PyTorch did when it was compiled (1e-5 relative)",
                got=f"losses off by {self.verified.loss_error:.1e}, weights by {self.verified.weight_error:.1e}",
                where=artifact.directory,
                fix="Compile it again on this kind of machine; nothing was trained",
            )
        self.restart()
        self._predictor: Any = None
        if lean:
            give_back()

    def restart(self) -> None:
        """Forget all that was learnt: tensors as they were compiled, no steps taken."""
        self._engine.load(self._start)
        self.steps = 0

    def knows(self, items: Sequence[int]) -> bool:
        """Whether a step with these ``items`` needs no inputs: all that is made of them was computed and kept."""
        return not self.spec.others and self._engine.knows(items)

    def step(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.int64],
        rate: float | None = None,
        items: Sequence[int] | None = None,
    ) -> float:
        """Learn from one batch; the loss before it.

        Args:
            inputs: Model inputs by name, exactly ``spec.batch`` items; none where all ``items`` are known.
            labels: Classes, [n]; for tokens the one behind each place, [n, length], or `IGNORED`.
            rate: Learning rate; None: the optimiser's.
            items: A number for each item, always the same for the same inputs: what the frozen part gives for it is
                kept where the cache has room, and not computed again.

        Raises:
            InputError: A wrong count of items, a label that is no class, or a loss that is not finite; nothing changed.
            TierwiseError: ONNX Runtime failed; nothing changed, unless the session is lean.
        """
        counts = {len(labels), *(len(array) for array in inputs.values()), *([] if items is None else [len(items)])}
        if counts != {self.spec.batch}:
            raise InputError(f"a batch must have {self.spec.batch} items", got=sorted(counts), where="training step")
        if not inputs and (items is None or not self.knows(items)):
            raise InputError("a batch must have inputs where its items are not all known", where="training step")
        check_labels(labels, self.spec)
        scalars = self.spec.optimiser.scalar_values(self.steps + 1, rate or self.spec.optimiser.rate)
        loss = self._engine.step(inputs, np.asarray(labels, np.int64), scalars, items)
        self.steps += 1
        return loss

    def predict(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits [n, classes], or [n, length, vocabulary], for any n, from the very tensors that `step` changes."""
        segment = self._artifact.manifest.segments[0]
        if self._predictor is None:
            self._predictor = apart(self._open_predictor)
        known = {value.name for value in self._predictor.get_inputs()}
        known |= {value.name for value in self._predictor.get_overridable_initializers()}
        binding = self._predictor.io_binding()
        held = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in segment.inputs}
        for name, array in held.items():
            binding.bind_cpu_input(name, array)
        for name, value in self._engine.trained().items():
            if name in known:
                binding.bind_ortvalue_input(name, value)
        binding.bind_output(segment.outputs[0].name, "cpu")
        self._predictor.run_with_iobinding(binding)
        logits: npt.NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits

    def _open_predictor(self) -> Any:
        if self._frozen is None or self.spec.predictor is None:
            return open_session(self._artifact.path(self._artifact.manifest.segments[0].file), self._threads)
        path = self._artifact.path(self.spec.predictor)
        return open_session(path, self._threads, planned=True, frozen=self._frozen)

    def merged(self, weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Plain ``weights`` with what the adapters have learnt in them, see `tierwise.training.merge`.

        Raises:
            InputError: As there.
        """
        return merge(self.spec, weights, self._engine.state())

    def trained(self) -> dict[str, npt.NDArray[Any]]:
        """A copy of the trained tensors, by their names in the graphs."""
        state = self._engine.state()
        return {one.tensor: state[one.tensor] for one in self.spec.trained}

    def save(self, path: Path) -> None:
        """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
        write_tensors(path, self._engine.state(), {**self._about("checkpoint"), "steps": str(self.steps)})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: It is not one, or of another artifact; nothing changed.
        """
        tensors, about = read_tensors(path)
        self._check(path, about, "checkpoint")
        self._engine.load(tensors)
        self.steps = int(about["steps"])

    def export_delta(self, path: Path) -> None:
        """Write what was learnt: the trained tensors alone, for any copy of the artifact, bit by bit."""
        write_tensors(path, self.trained(), self._about("delta"))

    def apply_delta(self, path: Path) -> None:
        """Take over what was learnt elsewhere; the optimiser's tensors begin at zero again.

        Raises:
            InputError: It is not a delta, or of another artifact; nothing changed.
        """
        tensors, about = read_tensors(path)
        self._check(path, about, "delta")
        slots = {n: np.zeros_like(a) for n, a in self._engine.state().items() if n.startswith("slot")}
        self._engine.load({**slots, **tensors})
        self.steps = 0

    def _about(self, kind: str) -> dict[str, str]:
        return {"tierwise": kind, "artifact": self._artifact.digest}

    def _check(self, path: Path, about: Mapping[str, str], kind: str) -> None:
        wanted = self._about(kind)
        got = {key: about.get(key, "none") for key in wanted}
        if got != wanted:
            raise InputError(
                f"the file must be a {kind} of this artifact ({wanted['artifact'][:12]})", got=got, where=path
            )
