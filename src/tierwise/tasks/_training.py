"""The one training loop: seeded, resumable after every epoch, best epoch by validation.

Built-in subjects are trained by it from random weights, and operators that train go on from a model they are given.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tierwise._seeds import stream, stream_seed
from tierwise.artifact import InputEncoding, TextInput
from tierwise.measure import Progress
from tierwise.tasks._box_augmentation import with_boxes_moved
from tierwise.tasks._checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint, save_weights
from tierwise.tasks._detection_loss import boxes_loss
from tierwise.tasks._encoder import BertClassifier, RobertaClassifier
from tierwise.tasks._spec import Training
from tierwise.tasks._task import Split, Task, score

__all__ = [
    "Objective",
    "Schedule",
    "bfloat16_is_fast",
    "cross_entropy",
    "forward",
    "run_training",
    "threads_set",
    "trained",
]

_KEEP_BYTES = 1 << 30
"""A split whose tensors fit into this is preprocessed once; a larger one batch by batch."""

_EVALUATION_BATCH, _EVALUATION_ROWS = 500, 64
"""Pictures, and what takes more memory each, that are judged at once: rows of text, whose attention takes a matrix per
head and row, and pictures for detectors."""

_WARM_UP_FRAC = 0.05
_SAFE_CHANNELS = 16

Batch = dict[str, torch.Tensor]

Objective = Callable[[nn.Module, Batch, torch.Tensor], torch.Tensor]
"""Gives the loss of a model on a batch and its labels. One that is a torch module itself is trained along."""

Schedule = Callable[[int, int], float]
"""Share of the peak learning rate at a step, counted from 0, of so many."""


def trained(
    build: Callable[[], nn.Module],
    task: Task,
    spec: Training,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    threads: int,
    stop_after: int | None = None,
) -> nn.Module:
    """The trained module, in eval mode; from ``folder`` where it is finished there.

    With no epochs, the seeded random weights, and nothing is kept.

    Sees the train split, chooses the epoch by the validation split, never opens another. Stopped at any moment, the
    next call goes on from the last finished epoch and reaches the same weights (with the same number of threads).

    Args:
        build: Gives the module; called with torch's randomness seeded.
        task: Gives splits and preprocessing.
        spec: How to train.
        seed: Root of initial weights, order and augmentation.
        folder: Weights and the running state are kept there.
        progress: Shows the epochs.
        threads: Threads of torch while it trains.
        stop_after: Stop as if killed after so many epochs of this call, for tests of resuming.

    Raises:
        KeyboardInterrupt: ``stop_after`` was reached.
    """
    with torch.random.fork_rng(devices=[]), threads_set(threads):
        torch.manual_seed(stream_seed(seed, "weights"))
        module = build()
        if spec.epochs == 0:
            return module.eval()
        return run_training(
            module, task, spec, seed=seed, folder=folder, progress=progress, threads=threads, stop_after=stop_after
        )[0]


def run_training(
    module: nn.Module,
    task: Task,
    spec: Training,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    threads: int,
    objective: Objective | None = None,
    before_epoch: Callable[[int, nn.Module], None] | None = None,
    title: str | None = None,
    stop_after: int | None = None,
    schedule: Schedule | None = None,
    keep_last: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train ``module`` from the weights it has; see `tierwise.tasks.fine_tune`."""
    with torch.random.fork_rng(devices=[]), threads_set(threads):
        finished = load_weights(folder / "weights.safetensors")
        if finished is None:
            pair = _Pair(module, _own_objective(task) if objective is None else objective)
            run = _Run(pair, task, spec, seed=seed, progress=progress, title=title or f"train {task.name}")
            run.schedule, run.keep_last = schedule or _schedule, keep_last
            finished = run.to_the_end(folder / "training.safetensors", before_epoch, stop_after)
            save_weights(folder / "weights.safetensors", *finished)
            (folder / "training.safetensors").unlink(missing_ok=True)
    module.load_state_dict(finished[0])
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module.eval(), finished[1]


def forward(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The first output of ``model`` for a batch of its inputs in their order."""
    layout = _layout(model)
    # Copied, not only made contiguous: with one channel, both layouts would pass for each other.
    answer = model(*(x.clone(memory_format=layout) if x.ndim == 4 else x for x in batch.values()))
    first: torch.Tensor = answer[0] if isinstance(answer, tuple) else answer
    return first


def _layout(model: nn.Module) -> torch.memory_format:
    """Channels last, with which convolutions on CPU run faster, except where that is not safe.

    The gradient of a strided 1x1 convolution of few channels, channels last, on two threads and an odd batch, is
    written beyond its buffer by the oneDNN of torch 2.13 (AVX-512), which ends the process.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or max(layer.stride) == 1:
            continue
        if layer.in_channels // layer.groups < _SAFE_CHANNELS:
            return torch.contiguous_format
    return torch.channels_last


def _lay_out(module: nn.Module) -> None:
    """Give the weights of convolutions the layout that training uses."""
    layout = _layout(module)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            # Copied: for 1x1 weights both layouts pass for each other, and one that looks like channels last makes the
            # convolution choose it.
            parameter.data = parameter.data.clone(memory_format=layout)


def _own_objective(task: Task) -> Objective:
    if task.boxes is None:
        return cross_entropy
    loss = boxes_loss(task.boxes, len(task.labels))
    return lambda model, batch, labels: loss(forward(model, batch), labels)


def cross_entropy(model: nn.Module, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    """The plain objective: how surprised the model is by the labels."""
    return nn.functional.cross_entropy(forward(model, batch).float(), labels)


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16, AMX or the Arm equivalent)."""
    has_instructions: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    # oneDNN also says yes where it only converts; without the instructions that is slower than float32.
    return has_instructions and any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


@final
class _Pair(nn.Module):
    """A model and the parameters of its objective, as one thing to optimise and to keep.

    Where the objective has no parameters, its part of the state is empty.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def loss(self, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        return self.objective(self.model, batch, labels)


@final
class _Run:
    """One training."""

    def __init__(self, pair: _Pair, task: Task, spec: Training, *, seed: int, progress: Progress, title: str) -> None:
        self._module, self._task, self._spec, self._seed, self._progress = pair, task, spec, seed, progress
        self._title = title
        self.schedule: Schedule = _schedule
        self.keep_last = False
        self._bfloat16 = spec.precision == "bfloat16" or (spec.precision == "auto" and bfloat16_is_fast())
        self._feed = _Feed(task, task.splits["train"])
        self._check = _Feed(task, task.splits["validation"])
        self._mask = _padding_mask(pair.model, task.encoding)
        self._epoch_steps = math.ceil(len(self._feed) / spec.batch)

    def to_the_end(
        self, path: Path, before_epoch: Callable[[int, nn.Module], None] | None, stop_after: int | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Train all epochs; the model's best weights and remarks on them."""
        module, spec = self._module, self._spec
        _lay_out(module)
        optimiser = _optimiser(module, spec)
        state = load_checkpoint(path) or Checkpoint(0, {}, module.state_dict(), {}, (), 0.0)
        if state.epoch:
            module.load_state_dict(state.model)
            optimiser.load_state_dict({**optimiser.state_dict(), "state": dict(state.optimiser)})
        first = state.epoch
        started = time.process_time() - state.seconds
        with self._progress.step(self._title, spec.epochs * self._epoch_steps) as advance:
            advance(first * self._epoch_steps)
            for epoch in range(first, spec.epochs):
                if before_epoch is not None:
                    before_epoch(epoch, module.model)
                self._epoch(epoch, optimiser, advance)
                value = self._validate()
                better = self.keep_last or not state.history or value > max(state.history)
                weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
                moments = {int(i): dict(entries) for i, entries in optimiser.state_dict()["state"].items()}
                best = weights if better else state.best
                history = (*state.history, value)
                state = Checkpoint(epoch + 1, weights, best, moments, history, time.process_time() - started)
                save_checkpoint(path, state)
                if stop_after is not None and epoch + 1 - first == stop_after:
                    raise KeyboardInterrupt
        if state.history:
            floor = self._floor()
            self._progress.say(
                f"{self._title}: validation {self._task.metric} {max(state.history):.4f}"
                f" (the best constant answer has {floor:.4f})"
            )
        remarks = {
            "history": state.history,
            "floor": self._floor(),
            "seconds": state.seconds,
            "precision": "bfloat16" if self._bfloat16 else "float32",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        own = {name.removeprefix("model."): w for name, w in state.best.items() if name.startswith("model.")}
        return own, remarks

    def _floor(self) -> float:
        """What always giving the same answer scores on the validation split; a model near it has learnt nothing."""
        if self._task.boxes is not None:
            return 0.0  # the same boxes on every picture find next to nothing
        labels = self._task.splits["validation"].labels
        one_hot = np.eye(len(self._task.labels))
        return max(score(self._task.metric, np.tile(row, (len(labels), 1)), labels) for row in one_hot)

    def _epoch(self, epoch: int, optimiser: torch.optim.Optimizer, advance: Callable[[int], None]) -> None:
        spec = self._spec
        # Each epoch has its own streams, so that going on after a stop needs no saved generator.
        torch.manual_seed(stream_seed(self._seed, "dropout", epoch))
        order = stream(self._seed, "order", epoch).permutation(len(self._feed))
        noise = stream(self._seed, "augmentation", epoch)
        self._module.train()
        for step in range(self._epoch_steps):
            chosen = order[step * spec.batch : (step + 1) * spec.batch]
            batch, labels = self._feed.batch(chosen)
            batch = _without_padding(batch, self._mask)
            if len(labels) == 1 and self._epoch_steps > 1:
                advance(1)  # a batch norm cannot learn from one item
                continue
            rate = spec.learning_rate * self.schedule(epoch * self._epoch_steps + step, spec.epochs * self._epoch_steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            if self._task.boxes is None:
                moved = {name: _augmented(tensor, spec, noise) for name, tensor in batch.items()}
            else:
                moved, labels = with_boxes_moved(batch, labels, spec, noise)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16):
                loss = self._module.loss(moved, labels).float()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
            optimiser.step()
            advance(1)

    def _validate(self) -> float:
        self._module.eval()
        answers = []
        with torch.inference_mode():
            small = isinstance(self._task.encoding, TextInput) or self._task.boxes is not None
            size = _EVALUATION_ROWS if small else _EVALUATION_BATCH
            for start in range(0, len(self._check), size):
                indices = np.arange(start, min(start + size, len(self._check)))
                # In float32, as the model will be deployed.
                batch = _without_padding(self._check.batch(indices)[0], self._mask)
                answers.append(forward(self._module.model, batch).float().numpy())
        return self._task.score(np.concatenate(answers), self._task.splits["validation"].labels)


@final
class _Feed:
    """Tensors of a split as the node's own preprocessing makes them; kept where they fit into memory."""

    def __init__(self, task: Task, split: Split) -> None:
        self._task, self._split = task, split
        self._labels = torch.from_numpy(np.ascontiguousarray(split.labels))
        one = sum(array.nbytes for array in task.tensors(split.items[:1]).values())
        self._kept = self._make(np.arange(len(split))) if one * len(split) <= _KEEP_BYTES else None

    def __len__(self) -> int:
        return len(self._split)

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Batch, torch.Tensor]:
        """Model inputs by name and labels of some items."""
        chosen = torch.from_numpy(indices)
        if self._kept is None:
            return self._make(indices), self._labels[chosen]
        return {name: tensor[chosen] for name, tensor in self._kept.items()}, self._labels[chosen]

    def _make(self, indices: npt.NDArray[np.int64]) -> Batch:
        arrays = self._task.tensors([self._split.items[int(i)] for i in indices])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _padding_mask(model: nn.Module, encoding: InputEncoding) -> str | None:
    """The input that marks padding, where ``model`` takes rows of any length; None where it may not.

    The text subjects do, and what is padded changes nothing of their answers; so training leaves out the padding that
    all rows of a batch have. A model of somebody else may be made for one length.
    """
    if isinstance(model, (BertClassifier, RobertaClassifier)) and isinstance(encoding, TextInput):
        return encoding.mask
    return None


def _without_padding(batch: Batch, mask: str | None) -> Batch:
    if mask is None:
        return batch
    length = max(1, int(batch[mask].sum(1).max()))
    return {name: tensor[:, :length] for name, tensor in batch.items()}


def _optimiser(module: nn.Module, spec: Training) -> torch.optim.Optimizer:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if spec.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=spec.learning_rate)


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a straight rise, then half a cosine down to nothing."""
    rise = max(1, round(_WARM_UP_FRAC * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _augmented(tensor: torch.Tensor, spec: Training, noise: np.random.Generator) -> torch.Tensor:
    """Pictures [n, c, h, w] moved and mirrored at random; other tensors as they are."""
    if tensor.ndim != 4 or not (spec.shift_pixels or spec.flip):
        return tensor
    count, _, height, width = tensor.shape
    moved = noise.integers(-spec.shift_pixels, spec.shift_pixels + 1, size=(2, count, 1))
    # Where a picture moves away from its border, the border is repeated.
    rows = np.clip(np.arange(height) + moved[0], 0, height - 1)
    columns = np.clip(np.arange(width) + moved[1], 0, width - 1)
    if spec.flip:
        mirrored = noise.random((count, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
    which = torch.arange(count)[:, None, None]
    # Three index tensors beside a full slice: the channels come last, [n, h, w, c].
    taken = tensor[
        which, :, torch.from_numpy(rows)[:, :, None], torch.from_numpy(np.ascontiguousarray(columns))[:, None, :]
    ]
    return taken.permute(0, 3, 1, 2)
