"""How a torch module that operators changed is built again: from plain data and a file of weights, nothing pickled."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tierwise._errors import InputError, StoreError
from tierwise.capture import export
from tierwise.measure import Progress
from tierwise.operators._work import Context, Work
from tierwise.tasks import Subject, Task, build_student

__all__ = ["Blueprint", "built", "kept_module", "retrained", "save_module", "sizes_changed"]

Size = int | tuple[int, ...]


class Blueprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a module is built, without its weights.

    Attributes:
        subject: The built-in family it starts from; None starts from the task's own model.
        shares: Depth and width that the task's own ``student`` function is called with, in place of ``subject``.
        sizes: What differs from that start: for each submodule, its attributes that hold sizes (``out_channels``,
            ``groups``, ``normalized_shape`` ...). Tensors follow, since each must fit its module.
    """

    subject: Subject | None = None
    shares: tuple[float, float] | None = None
    sizes: dict[str, dict[str, Size]] = msgspec.field(default_factory=dict)


def built(task: Task, blueprint: Blueprint, progress: Progress) -> nn.Module:
    """The module of ``blueprint``; its weights mean nothing where sizes differ.

    Raises:
        InputError: The task has no torch model, or no function for students.
        StoreError: The task's model has no submodule that the blueprint names.
    """
    module = _start(task, blueprint, progress)
    submodules = dict(module.named_modules())
    for name, sizes in blueprint.sizes.items():
        if name not in submodules:
            raise StoreError(f"the model must have the submodule {name!r} that was resized", where=task.name)
        for key, value in sizes.items():
            setattr(submodules[name], key, value)
    return module


def _start(task: Task, blueprint: Blueprint, progress: Progress) -> nn.Module:
    if blueprint.subject is not None:
        return build_student(task, blueprint.subject)
    source = task.model
    if blueprint.shares is not None:
        if task.student is None:
            raise InputError("the task must have a function for students", where=f"task {task.name!r}")
        return task.student(*blueprint.shares)
    if source is None:
        raise InputError("the task must have a torch model", where=f"task {task.name!r}")
    # A copy: a task may give the same module to everyone who asks.
    return copy.deepcopy(source(progress))


def sizes_changed(start: nn.Module, module: nn.Module) -> dict[str, dict[str, Size]]:
    """The sizes in which ``module`` differs from ``start``, a module of the same structure."""
    before = dict(start.named_modules())
    changed: dict[str, dict[str, Size]] = {}
    for name, submodule in module.named_modules():
        own = _sizes(submodule)
        others = _sizes(before[name])
        different = {key: value for key, value in own.items() if others.get(key) != value}
        if different:
            changed[name] = different
    return changed


def _sizes(module: nn.Module) -> dict[str, Size]:
    found: dict[str, Size] = {}
    for key, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool):
            found[key] = value
        elif isinstance(value, tuple) and value and all(isinstance(entry, int) for entry in value):
            found[key] = tuple(int(entry) for entry in value)
    return found


def save_module(work: Work, path: Path) -> None:
    """Write the weights of the module of ``work``; they are read again by `kept_module`."""
    if work.module is None:
        return
    from tierwise.measure import Silent

    state = work.module(Silent()).state_dict()
    # Copies, because safetensors refuses tensors that share memory.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, path)


def kept_module(task: Task, blueprint: Blueprint | None, weights: Path) -> Callable[[Progress], nn.Module] | None:
    """Gives the module of ``blueprint`` with the weights from a file; the task's own where there is no blueprint."""
    if blueprint is None:
        return task.model

    def module(progress: Progress) -> nn.Module:
        try:
            state = load_file(weights)
        except Exception as error:  # safetensors and the file system raise unrelated errors
            raise StoreError(
                f"the weights of an intermediate result must be readable ({error})",
                where=weights,
                fix="Delete that folder; it is built again",
            ) from error
        return _filled(built(task, blueprint, progress), state)

    return module


def _filled(module: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """``module`` with the tensors of ``state``, whatever their shapes were."""
    owners = dict(module.named_modules())
    for name, tensor in state.items():
        owner, _, key = name.rpartition(".")
        holder = owners[owner]
        if key in holder._parameters:
            holder.register_parameter(key, nn.Parameter(tensor))
        else:
            holder.register_buffer(key, tensor)
    return module.eval()


def retrained(
    work: Work, context: Context, module: nn.Module, blueprint: Blueprint, *, notes: tuple[str, ...], training_s: float
) -> Work:
    """``work`` with another torch module, and its export.

    Args:
        work: What the operator was given.
        context: Shows the export.
        module: The new module, trained.
        blueprint: How it is built.
        notes: Remarks to add.
        training_s: CPU seconds to add.
    """
    module.eval()
    with context.progress.step("export to ONNX", None):
        model = export(module, work.task.example(), work.task.outputs)
    return dataclasses.replace(
        work,
        model=model,
        module=lambda progress: module,
        blueprint=blueprint,
        notes=(*work.notes, *notes),
        training_s=work.training_s + training_s,
    )
