"""What an artifact that a node can train holds beside its segments: the compiled step and its tensors."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec

__all__ = ["Optimiser", "PackagedStep", "Trained", "TrainingPlan", "TrainingStep"]

Count = Annotated[int, msgspec.Meta(ge=0)]
Frac = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Optimiser(Spec, frozen=True, kw_only=True):
    """How gradients become updates; the arithmetic is part of the compiled step, the rate an input of it.

    Attributes:
        kind: ``sgd``: w - rate g. ``momentum``: with a buffer b = momentum b + g in place of g. ``adam``: Kingma and Ba
            (arXiv 1412.6980). ``lion``: Chen et al. (arXiv 2302.06675), without decay.
        rate: Learning rate where nobody gives another.
        momentum: Of ``momentum``.
        beta1: Of ``adam`` and ``lion``.
        beta2: Of ``adam`` and ``lion``.
        epsilon: Of ``adam``.
    """

    kind: Literal["sgd", "momentum", "adam", "lion"] = "sgd"
    rate: Annotated[float, msgspec.Meta(gt=0)] = 0.01
    momentum: Frac = 0.9
    beta1: Frac = 0.9
    beta2: Frac = 0.999
    epsilon: Annotated[float, msgspec.Meta(gt=0)] = 1e-8

    @property
    def slots(self) -> int:
        """Tensors of the optimiser for each trained tensor."""
        return {"sgd": 0, "momentum": 1, "adam": 2, "lion": 1}[self.kind]

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalar inputs of the step, in order."""
        return ("rate", "correction") if self.kind == "adam" else ("rate",)

    def scalar_values(self, step: int, rate: float) -> tuple[float, ...]:
        """Their values in step ``step`` (from 1): counting is the caller's, so no counter can go stale in a graph.

        Args:
            step: Number of this step, from 1.
            rate: Learning rate of this step.
        """
        if self.kind != "adam":
            return (rate,)
        return rate / (1 - self.beta1**step), (1 - self.beta2**step) ** -0.5


class Trained(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor that training changes.

    Attributes:
        name: Name of the parameter in the model.
        shape: What is trained of it.
        channels: Input channels of the weight that are trained; empty: all.
    """

    name: str
    shape: tuple[Count, ...]
    channels: tuple[Count, ...] = ()

    @property
    def tensor(self) -> str:
        """Its name in the graphs."""
        return f"param.{self.name}"

    def slot(self, number: int) -> str:
        """Name of its optimiser tensor ``number`` in the graphs."""
        return f"slot{number}.{self.name}"


class Adapter(Spec, frozen=True, kw_only=True):
    """What is added to a frozen weight: scale * up @ down.

    Attributes:
        weight: Name of the weight in the model.
        down: Name of the trained tensor [rank, in].
        up: Name of the trained tensor [out, rank].
        scale: Factor of the product.
    """

    weight: str
    down: str
    up: str
    scale: float


class TrainingPlan(Spec, frozen=True, kw_only=True):
    """What a step costs; what is predicted and what was measured stand apart.

    Attributes:
        predicted_peak_bytes: Most that intermediate tensors of the step take at once, from the liveness of its graph
            as the engine runs it.
        predicted_traced_peak_bytes: The same in the order that was exported: all gradients, then all updates.
        predicted_prefix_peak_bytes: The same of the frozen prefix; 0 where there is none.
        border_bytes: What the prefix gives to the step; it lives through both.
        state_bytes: Trained tensors and the optimiser's, once.
        prefix_macs: Multiply-accumulates of the frozen prefix, for one batch.
        step_macs: Multiply-accumulates of the rest, for one batch.
        measured_step_s: Median CPU time of prefix and step on the machine that compiled, one thread.
        measured_on: That machine's processor.
        eager_step_s: The same of eager PyTorch with the same scheme and folded norms; None where it was not measured.
    """

    predicted_peak_bytes: Count
    predicted_traced_peak_bytes: Count
    predicted_prefix_peak_bytes: Count
    border_bytes: Count
    state_bytes: Count
    prefix_macs: Count
    step_macs: Count
    measured_step_s: Annotated[float, msgspec.Meta(gt=0)]
    measured_on: str
    eager_step_s: Annotated[float, msgspec.Meta(gt=0)] | None = None

    @property
    def predicted_bytes(self) -> int:
        """Most that a step takes beyond weights and state: prefix or step, and what goes from one to the other."""
        return max(self.predicted_peak_bytes, self.predicted_prefix_peak_bytes) + self.border_bytes

    @property
    def needed_bytes(self) -> int:
        """What a step takes beyond the frozen weights in a lean session, which holds its state once."""
        return self.predicted_bytes + self.state_bytes


class PackagedStep(Spec, frozen=True, kw_only=True):
    """The same step as machine code, beside the ONNX file.

    Attributes:
        file: Package of AOTInductor. Takes ``inputs`` in order; gives the loss, then the next ``state``, in order.
        backend: ``aotinductor``: the package begins at the model's inputs; ``hybrid``: behind the frozen prefix.
        inputs: Names of what it takes.
        state: Names of the trained tensors and slots that it gives behind the loss.
        torch: Version that compiled it, and that must run it.
        processor: What it was compiled for.
    """

    file: str
    backend: Literal["aotinductor", "hybrid"]
    inputs: tuple[str, ...]
    state: tuple[str, ...]
    torch: str
    processor: str


class TrainingStep(Spec, frozen=True, kw_only=True):
    """A training step, compiled ahead of time for one batch size.

    The step is a pure function of tensors: parts of the model's state go in and come out again. The first segment of
    the artifact is the whole model; its trained tensors are initialisers that a caller may override by name.

    Attributes:
        step: ONNX file: ``border`` and ``others``, labels, trained tensors, slots and scalars in; ``loss``, and the
            trained tensors and slots with ``next.`` before their names, out.
        prefix: ONNX file of what never changes, from the model's inputs to ``border``; None where nothing is frozen.
        state: File of the trained tensors at the start (safetensors).
        vectors: File of the verify vectors (safetensors): inputs, labels, and what eager PyTorch made of them.
        batch: Items of a step.
        prefix_items: Items that the prefix takes at once; a batch goes through it in parts of so many.
        classes: Width of the model's answer.
        inputs: Model inputs that the prefix needs.
        border: What the prefix gives to the step.
        others: Model inputs that the step itself needs.
        scheme: What was asked to be trained.
        trained: What is trained.
        optimiser: How.
        plan: What it costs.
        notes: Remarks of the compiler.
        label_shape: Shape of an item's labels: () for one class, (length,) for a token behind each place of a row.
        adapters: Pairs of trained tensors that belong to a frozen weight.
        packaged: The step as the compiler chose it for its own kind of machine; None: it chose the ONNX file.
        frozen: File of the frozen weights that the ONNX files refer to (safetensors); None: these hold them.
        predictor: ONNX file of the whole model with ``frozen`` beside it, its trained tensors inputs; None: the first
            segment alone predicts.
        items_apart: Whether each tensor of ``border`` holds one item behind another, so that those of an item can be
            kept for when it comes again.
    """

    step: str
    prefix: str | None
    state: str
    vectors: str
    batch: Annotated[int, msgspec.Meta(gt=0)]
    prefix_items: Annotated[int, msgspec.Meta(gt=0)]
    classes: Annotated[int, msgspec.Meta(gt=1)]
    inputs: tuple[str, ...]
    border: tuple[str, ...]
    others: tuple[str, ...]
    scheme: dict[str, object]
    trained: Annotated[tuple[Trained, ...], msgspec.Meta(min_length=1)]
    optimiser: Optimiser
    plan: TrainingPlan
    notes: tuple[str, ...] = ()
    label_shape: tuple[Count, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    packaged: PackagedStep | None = None
    frozen: str | None = None
    predictor: str | None = None
    items_apart: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Files that belong to it."""
        packaged = None if self.packaged is None else self.packaged.file
        optional = (self.prefix, packaged, self.frozen, self.predictor)
        return (self.step, *(name for name in optional if name is not None), self.state, self.vectors)
