"""The plain training loop of the built-in subjects: seeded, resumable after every epoch, best epoch by validation."""

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
from tierwise.measure import Progress
from tierwise.tasks._checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint, save_weights
from tierwise.tasks._spec import Training
from tierwise.tasks._task import Split, Task, score

__all__ = ["bfloat16_is_fast", "threads_set", "trained"]

_KEEP_BYTES = 1 << 30
"""A split whose tensors fit into this is preprocessed once; a larger one batch by batch."""

_EVALUATION_BATCH = 500
_WARM_UP_FRAC = 0.05

Batch = dict[str, torch.Tensor]


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
        finished = load_weights(folder / "weights.safetensors")
        if finished is None:
            run = _Run(module, task, spec, seed=seed, progress=progress)
            finished = run.to_the_end(folder / "training.safetensors", stop_after)
            save_weights(folder / "weights.safetensors", *finished)
            (folder / "training.safetensors").unlink(missing_ok=True)
    module.load_state_dict(finished[0])
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module.eval()


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
class _Run:
    """One training."""

    def __init__(self, module: nn.Module, task: Task, spec: Training, *, seed: int, progress: Progress) -> None:
        self._module, self._task, self._spec, self._seed, self._progress = module, task, spec, seed, progress
        self._bfloat16 = spec.precision == "bfloat16" or (spec.precision == "auto" and bfloat16_is_fast())
        self._feed = _Feed(task, task.splits["train"])
        self._check = _Feed(task, task.splits["validation"])
        self._epoch_steps = math.ceil(len(self._feed) / spec.batch)

    def to_the_end(self, path: Path, stop_after: int | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Train all epochs; the best weights and remarks on them."""
        module, spec = self._module, self._spec
        # Convolutions on CPU run faster with channels last; the numbers are the same.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = _optimiser(module, spec)
        state = load_checkpoint(path) or Checkpoint(0, {}, module.state_dict(), {}, (), 0.0)
        if state.epoch:
            module.load_state_dict(state.model)
            optimiser.load_state_dict({**optimiser.state_dict(), "state": dict(state.optimiser)})
        first = state.epoch
        started = time.monotonic() - state.seconds
        with self._progress.step(f"train {self._task.name}", spec.epochs * self._epoch_steps) as advance:
            advance(first * self._epoch_steps)
            for epoch in range(first, spec.epochs):
                self._epoch(epoch, optimiser, advance)
                value = self._validate()
                better = not state.history or value > max(state.history)
                weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
                moments = {int(i): dict(entries) for i, entries in optimiser.state_dict()["state"].items()}
                best = weights if better else state.best
                history = (*state.history, value)
                state = Checkpoint(epoch + 1, weights, best, moments, history, time.monotonic() - started)
                save_checkpoint(path, state)
                if stop_after is not None and epoch + 1 - first == stop_after:
                    raise KeyboardInterrupt
        if state.history:
            floor = self._floor()
            self._progress.say(
                f"{self._task.name}: validation {self._task.metric} {max(state.history):.4f}"
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
        return state.best, remarks

    def _floor(self) -> float:
        """What always giving the same answer scores on the validation split; a model near it has learnt nothing."""
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
            if len(labels) == 1 and self._epoch_steps > 1:
                advance(1)  # a batch norm cannot learn from one item
                continue
            rate = spec.learning_rate * _schedule(epoch * self._epoch_steps + step, spec.epochs * self._epoch_steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            logits = self._forward({name: _augmented(tensor, spec, noise) for name, tensor in batch.items()})
            loss = nn.functional.cross_entropy(logits.float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
            optimiser.step()
            advance(1)

    def _forward(self, batch: Batch) -> torch.Tensor:
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in batch.values()]
        # Validation is in float32, as the model will be deployed.
        reduced = self._bfloat16 and self._module.training
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
            logits: torch.Tensor = self._module(*inputs)
        return logits

    def _validate(self) -> float:
        self._module.eval()
        answers = []
        with torch.inference_mode():
            for start in range(0, len(self._check), _EVALUATION_BATCH):
                indices = np.arange(start, min(start + _EVALUATION_BATCH, len(self._check)))
                answers.append(self._forward(self._check.batch(indices)[0]).float().numpy())
        return score(self._task.metric, np.concatenate(answers), self._task.splits["validation"].labels)


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
