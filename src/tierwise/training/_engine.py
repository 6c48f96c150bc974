"""The compiled step in ONNX Runtime: state in one set of buffers, the next in another, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError, TierwiseError
from tierwise.artifact import TrainingStep
from tierwise.training._tensor_file import Arrays

__all__ = ["Engine", "open_session"]


def open_session(path: Path, threads: int) -> Any:
    """A session that flushes denormals: momentum decays into them, where arithmetic is up to a hundred times slower.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise ArtifactError(
            f"ONNX Runtime must be able to load the graph ({str(error).splitlines()[0][:300]})", where=path
        ) from error


@final
class Engine:
    """Prefix and step, and the state they work on.

    Args:
        folder: Where the files lie.
        spec: What they are.
        state: All trained tensors and slots by their names in the graphs.
        threads: Threads of the sessions.

    Raises:
        ArtifactError: A file cannot be loaded.
    """

    def __init__(self, folder: Path, spec: TrainingStep, state: Mapping[str, npt.NDArray[Any]], threads: int) -> None:
        import onnxruntime as ort

        self._ort, self._spec = ort, spec
        self._step = open_session(folder / spec.step, threads)
        self._prefix = None if spec.prefix is None else open_session(folder / spec.prefix, threads)
        self._taken = {value.name for value in self._step.get_inputs()}
        self._now = {name: ort.OrtValue.ortvalue_from_numpy(np.array(array)) for name, array in state.items()}
        self._next = {name: ort.OrtValue.ortvalue_from_numpy(np.zeros_like(array)) for name, array in state.items()}

    def step(
        self, inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[np.int64], scalars: tuple[float, ...]
    ) -> float:
        """One step in place; the loss before it.

        Raises:
            InputError: The loss is not a finite number; the state is as it was.
            TierwiseError: ONNX Runtime failed; the state is as it was.
        """
        fed: dict[str, Any] = {name: inputs[name] for name in self._spec.others}
        fed["labels"] = labels
        named = zip(self._spec.optimiser.scalars, scalars, strict=True)
        fed.update({name: np.array(value, np.float32) for name, value in named})
        # A binding does not keep its arrays alive, so they have a name here until the step is done.
        fed = {name: np.require(array, requirements="C") for name, array in fed.items() if name in self._taken}
        binding = self._step.io_binding()
        try:
            for name, value in self._border(inputs).items():
                binding.bind_ortvalue_input(name, value)
            for name, array in fed.items():
                binding.bind_cpu_input(name, array)
            for name, value in self._now.items():
                if name in self._taken:
                    binding.bind_ortvalue_input(name, value)
            binding.bind_output("loss", "cpu")
            for name, value in self._next.items():
                binding.bind_ortvalue_output(f"next.{name}", value)
            self._step.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise TierwiseError(
                f"ONNX Runtime must be able to run the step ({str(error).splitlines()[0][:300]})", where=self._spec.step
            ) from error
        loss = float(binding.get_outputs()[0].numpy())
        if not np.isfinite(loss):
            raise InputError("the loss must stay finite", got=loss, fix="Use a smaller rate; the state is as before")
        self._now, self._next = self._next, self._now
        return loss

    def state(self) -> Arrays:
        """A copy of all trained tensors and slots."""
        return {name: np.array(value.numpy()) for name, value in self._now.items()}

    def trained(self) -> dict[str, Any]:
        """The trained tensors as they lie in memory, by name, until the next step."""
        return {one.tensor: self._now[one.tensor] for one in self._spec.trained}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the state.

        Raises:
            InputError: A tensor is missing, one too many, or of another shape.
        """
        for name, value in self._now.items():
            if name not in state or list(state[name].shape) != list(value.shape()):
                raise InputError("the state must hold this tensor in its shape", got=sorted(state)[:4], where=name)
        if len(state) != len(self._now):
            raise InputError(f"the state must hold {len(self._now)} tensors", got=len(state))
        for name, value in self._now.items():
            value.update_inplace(np.ascontiguousarray(state[name], np.float32))

    def _border(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        if self._prefix is None:
            return {}
        binding = self._prefix.io_binding()
        held = {name: np.ascontiguousarray(inputs[name]) for name in self._spec.inputs}
        for name, array in held.items():
            binding.bind_cpu_input(name, array)
        for name in self._spec.border:
            binding.bind_output(name, "cpu")
        self._prefix.run_with_iobinding(binding)
        return dict(zip(self._spec.border, binding.get_outputs(), strict=True))
