"""The compiled step in ONNX Runtime: state in one set of buffers, the next in another, in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, TierwiseError
from tierwise.artifact import TrainingStep
from tierwise.training._frozen import Frozen
from tierwise.training._onnx_session import open_session
from tierwise.training._prefix import Prefix
from tierwise.training._tensor_file import Arrays

__all__ = ["Engine"]

_CHECK = "loss_checked"


@final
class Engine:
    """Prefix and step, and the state they work on.

    Args:
        folder: Where the files lie.
        spec: What they are.
        state: All trained tensors and slots by their names in the graphs.
        threads: Threads of the sessions.
        lean: Run the planned order in the least memory, and write the next state over the last one; nobody else may
            read it meanwhile.
        frozen: The frozen weights of both graphs, mapped; None: each session reads them for itself.
        cache_bytes: Most that features may take, see `Prefix`.

    Raises:
        ArtifactError: A file cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        spec: TrainingStep,
        state: Mapping[str, npt.NDArray[Any]],
        threads: int,
        *,
        lean: bool = False,
        frozen: Frozen | None = None,
        cache_bytes: int = 0,
    ) -> None:
        import onnxruntime as ort

        self._ort, self._spec, self._frozen = ort, spec, frozen
        self._step = open_session(folder / spec.step, threads, planned=lean, exactly=lean, frozen=frozen)
        self._prefix = None
        if spec.prefix is not None:
            self._prefix = Prefix(
                folder / spec.prefix,
                spec,
                threads,
                lean=lean,
                frozen=frozen,
                cache_bytes=cache_bytes,
                whole={value.name: value.shape for value in self._step.get_inputs()},
            )
        self._taken = {value.name for value in self._step.get_inputs()}
        self._now = {name: ort.OrtValue.ortvalue_from_numpy(np.array(array)) for name, array in state.items()}
        self._next = self._now
        if not lean:
            self._next = {n: ort.OrtValue.ortvalue_from_numpy(np.zeros_like(array)) for n, array in state.items()}

    def knows(self, items: Sequence[int]) -> bool:
        """See `Backend.knows`."""
        return self._prefix is not None and self._prefix.knows(items)

    def step(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.int64],
        scalars: tuple[float, ...],
        items: Sequence[int] | None = None,
    ) -> float:
        """One step in place; the loss before it.

        Raises:
            InputError: The loss is not a finite number; the state is as it was.
            TierwiseError: ONNX Runtime failed; the state is as it was, but not where it is changed in place.
        """
        fed: dict[str, Any] = {name: inputs[name] for name in self._spec.others}
        fed["labels"] = labels
        named = zip(self._spec.optimiser.scalars, scalars, strict=True)
        fed.update({name: np.array(value, np.float32) for name, value in named})
        # A binding does not keep its arrays alive, so they have a name here until the step is done.
        fed = {name: np.require(array, requirements="C") for name, array in fed.items() if name in self._taken}
        binding = self._step.io_binding()
        try:
            border = {} if self._prefix is None else self._prefix(inputs, items)
            self._release()
            for name, array in (*border.items(), *fed.items()):
                binding.bind_cpu_input(name, array)
            for name, value in self._now.items():
                if name in self._taken:
                    binding.bind_ortvalue_input(name, value)
            binding.bind_output("loss", "cpu")
            for name, value in self._next.items():
                binding.bind_ortvalue_output(f"next.{name}", value)
            self._step.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            if _CHECK in str(error):  # the step reads its loss from a place that does not exist, before any update
                raise InputError(
                    "the loss must stay finite", fix="Use a smaller rate; the state is as before"
                ) from error
            raise TierwiseError(
                f"ONNX Runtime must be able to run the step ({str(error).splitlines()[0][:300]})", where=self._spec.step
            ) from error
        loss = float(binding.get_outputs()[0].numpy().item())
        self._release()
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

    def _release(self) -> None:
        """Prefix and step read other weights: what one has read is not kept in memory for the other's time."""
        if self._frozen is not None:
            self._frozen.release()
