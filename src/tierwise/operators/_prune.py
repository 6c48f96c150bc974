"""Pruning: channels leave the model, or single weights become zero; training in between makes up for it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from torch import nn

from tierwise._config import Spec
from tierwise._errors import SpecError
from tierwise._seeds import stream
from tierwise._units import format_bytes
from tierwise.capture import export
from tierwise.operators._blueprint import Blueprint, retrained, sizes_changed
from tierwise.operators._channels import channel_groups, channel_scores, remove_channels
from tierwise.operators._distillation import Distillation
from tierwise.operators._sparse import compressed_bytes, masked, unmasked
from tierwise.operators._students import tuning
from tierwise.operators._widths import Found, count_macs, latency_frac, search_widths
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Task, Training, Tuned, answer, fine_tune

__all__ = ["Prune", "prune", "resolve_prune"]

_TAYLOR_BATCHES = 8
_SOFT_FRAC, _TEMPERATURE = 0.5, 2.0

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Prune(Spec, frozen=True, kw_only=True, tag="prune", tag_field="op"):
    """Remove what matters least.

    One target at most may be given; without one, half of the multiply-accumulates stay (of ``weights``: a fifth of the
    weights). How many channels stay in each layer is searched for by halving the share that leaves, and stands in the
    artifact's provenance as ``widths``.

    Attributes:
        structure: ``channels`` makes the layers narrower, which makes every runtime faster; ``weights`` sets single
            weights to zero, which makes the model smaller once it is compressed and no faster in ONNX Runtime.
        ratio: Target: share of the channels (or weights) that leaves.
        macs_frac: Target: share of the multiply-accumulates that stays at most.
        latency_frac: Target: share of the time that stays at most, measured with the exported models of both on this
            machine, one thread.
        widths: Channels that stay, by layer; in place of a target, as a search leaves them.
        scope: ``network`` ranks the channels of all layers together; ``layer`` takes the same share from each.
        importance: ``magnitude`` of the weights, or ``taylor``: the first-order change of the loss on training items.
        round_to: Channels that stay are a multiple of this, as vector units like it.
        steps: Rounds of pruning, each followed by training.
        teach: Whether the model as it was teaches the pruned one.
        training: The training after each step; None takes a short one like that of the task's model.
        seed: Root of the order of training.
    """

    NAME: ClassVar[str] = "prune"
    STAGE: ClassVar[Stage] = Stage.TRAIN
    NEEDS_TORCH: ClassVar[bool] = True
    PACKAGES: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "onnx", "onnxscript")
    REVISION: ClassVar[int] = 1

    structure: Literal["channels", "weights"] = "channels"
    ratio: Share | None = None
    macs_frac: Share | None = None
    latency_frac: Share | None = None
    widths: dict[str, int] = msgspec.field(default_factory=dict)
    scope: Literal["layer", "network"] = "network"
    importance: Literal["magnitude", "taylor"] = "magnitude"
    round_to: Annotated[int, msgspec.Meta(gt=0)] = 8
    steps: Annotated[int, msgspec.Meta(gt=0)] = 3
    teach: bool = True
    training: Training | None = None
    seed: int = 0


def resolve_prune(spec: Prune, work: Work, context: Context) -> Prune:
    """``spec`` with its training, and with the widths that its target leads to.

    What was found is kept, so that a target of measured time leads to one result.

    Raises:
        SpecError: More than one target, or one that does not fit the structure.
        InputError: The model cannot be pruned, or not as far.
    """
    targets = {"ratio": spec.ratio, "macs_frac": spec.macs_frac, "latency_frac": spec.latency_frac}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise SpecError(f"one target at most must be given, not {' and '.join(given)}", where="prune")
    training = tuning(spec.training, work.task, epochs_frac=0.5 / spec.steps, rate_frac=0.25)
    spec = msgspec.structs.replace(spec, training=training)
    if spec.structure == "weights":
        if spec.widths or (given and given != ["ratio"]):
            raise SpecError(
                'the target of structure = "weights" must be a ratio',
                got="widths" if spec.widths else given[0],
                where="prune",
                fix="Zeros are computed like other numbers: only fewer channels save arithmetic and time",
            )
        return msgspec.structs.replace(spec, ratio=0.8 if spec.ratio is None else spec.ratio)
    if spec.widths:
        return spec
    if not given:
        spec = msgspec.structs.replace(spec, macs_frac=0.5)
    memory = context.lasting / "widths.json"
    if memory.is_file():
        return msgspec.structs.replace(spec, widths=msgspec.json.decode(memory.read_bytes(), type=dict[str, int]))
    widths = _search(spec, work, context).widths
    memory.parent.mkdir(parents=True, exist_ok=True)
    stage = memory.with_suffix(".part")
    stage.write_bytes(msgspec.json.encode(widths))
    stage.replace(memory)
    return msgspec.structs.replace(spec, widths=widths)


def _search(spec: Prune, work: Work, context: Context) -> Found:
    module = copy.deepcopy(work.torch_module(spec.NAME, context.progress))
    if spec.importance == "taylor":
        _leave_gradients(module, work.task, spec.seed, 0)
    return search_widths(
        module,
        work.task,
        ratio=spec.ratio,
        macs_frac=spec.macs_frac,
        latency_target=spec.latency_frac,
        importance=spec.importance,
        scope=spec.scope,
        multiple=spec.round_to,
        progress=context.progress,
    )


def prune(spec: Prune, work: Work, context: Context) -> Work:
    """Prune and train by turns; killed, the next call goes on from the last finished epoch.

    Raises:
        InputError: As `resolve_prune`, or the widths do not fit the model.
    """
    spec = resolve_prune(spec, work, context)
    given = work.torch_module(spec.NAME, context.progress).eval()
    module = copy.deepcopy(given)
    if spec.structure == "channels":
        return _without_channels(spec, work, context, given, module)
    return _without_weights(spec, work, context, given, module)


def _without_channels(spec: Prune, work: Work, context: Context, given: nn.Module, module: nn.Module) -> Work:
    task, example = work.task, work.task.example()
    groups = {group.name: group for group in channel_groups(module, example)}
    seconds = 0.0
    for step in range(1, spec.steps + 1):
        widths = {}
        for name, width in spec.widths.items():
            group = groups.get(name)
            left = 1 - step / spec.steps
            # An unknown name goes on as it is: the removal knows all names, and says so.
            widths[name] = (
                width
                if group is None
                else max(width, group.rounded(width + left * (group.channels - width), spec.round_to))
            )
        widths = spec.widths if step == spec.steps else widths
        if spec.importance == "taylor":
            _leave_gradients(module, task, spec.seed, step)
        remove_channels(module, example, widths, channel_scores(module, example, spec.importance))
        tuned = _trained(spec, work, context, given, module, step)
        module, seconds = tuned.module, seconds + tuned.training_s
    reached = count_macs(module, example) / count_macs(given, example)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (given, module))
    note = (
        f"prune: {100 * reached:.0f} % of the arithmetic and {100 * after / before:.0f} % of the parameters stay, in "
        f"{spec.steps} steps by {spec.importance}; channels in multiples of {spec.round_to}{_scored(work.task, tuned)}"
    )
    blueprint = _resized(work, given, module)
    done = retrained(work, context, module, blueprint, notes=(note,), training_s=seconds)
    if spec.latency_frac is not None:
        time = latency_frac(done.model, export(given, example, task.outputs), task)
        note = f"prune: {100 * time:.0f} % of the time stays on this machine (asked: {100 * spec.latency_frac:.0f} %)"
        done = dataclasses.replace(done, notes=(*done.notes, note))
    return dataclasses.replace(done, history=(*work.history, spec))


def _resized(work: Work, given: nn.Module, module: nn.Module) -> Blueprint:
    before = work.blueprint or Blueprint()
    sizes = {name: dict(own) for name, own in before.sizes.items()}
    for name, own in sizes_changed(given, module).items():
        sizes.setdefault(name, {}).update(own)
    return msgspec.structs.replace(before, sizes=sizes)


def _without_weights(spec: Prune, work: Work, context: Context, given: nn.Module, module: nn.Module) -> Work:
    ratio, seconds = spec.ratio or 0.0, 0.0
    for step in range(1, spec.steps + 1):
        # Much at first, while there is much to choose from (Zhu & Gupta 2017, arXiv 1710.01878).
        masked(module, ratio * (1 - (1 - step / spec.steps) ** 3))
        tuned = _trained(spec, work, context, given, module, step)
        module, seconds = tuned.module, seconds + tuned.training_s
        unmasked(module)
    before, after = compressed_bytes(given)[1], compressed_bytes(module)[1]
    note = (
        f"prune: {100 * ratio:.0f} % of the weights are zero. This buys size only after compression "
        f"({format_bytes(after)} instead of {format_bytes(before)} with deflate); the file itself is as large as "
        f"before, and ONNX Runtime computes zeros like other numbers, so nothing is faster{_scored(work.task, tuned)}"
    )
    blueprint = work.blueprint or Blueprint()
    done = retrained(work, context, module, blueprint, notes=(note,), training_s=seconds)
    return dataclasses.replace(done, history=(*work.history, spec))


def _trained(spec: Prune, work: Work, context: Context, given: nn.Module, module: nn.Module, step: int) -> Tuned:
    objective = None
    if spec.teach:
        objective = Distillation(copy.deepcopy(given), temperature=_TEMPERATURE, soft_frac=_SOFT_FRAC)
    folder: Path = context.lasting / f"step{step}"
    return fine_tune(
        module,
        work.task,
        tuning(spec.training, work.task, epochs_frac=0.5 / spec.steps, rate_frac=0.25),
        folder=folder,
        progress=context.progress,
        seed=spec.seed,
        objective=objective,
        title=f"prune {work.task.name}, step {step} of {spec.steps}",
    )


def _scored(task: Task, tuned: Tuned) -> str:
    return f"; validation {task.metric} {max(tuned.history):.4f}" if tuned.history else ""


def _leave_gradients(module: nn.Module, task: Task, seed: int, step: int) -> None:
    """Let the parameters of ``module`` hold the gradient of the loss on some training items."""
    batch = tuning(None, task, epochs_frac=1, rate_frac=1).batch
    split = task.splits["train"]
    order = stream(seed, "taylor", step).permutation(len(split))[: _TAYLOR_BATCHES * batch]
    module.eval().zero_grad()
    for start in range(0, len(order), batch):
        part = split.take(order[start : start + batch])
        inputs = {name: torch.from_numpy(array) for name, array in task.tensors(part.items).items()}
        loss = nn.functional.cross_entropy(answer(module, inputs), torch.from_numpy(part.labels))
        loss.backward()  # type: ignore[no-untyped-call]
