"""Early exit: items that a small head inside the model is sure of leave there; the rest runs for the others only."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, ClassVar

import msgspec
import onnx

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.capture import Cut, split
from tierwise.operators._exit import NEVER, ExitHead
from tierwise.operators._exit_head import Array, features_graph, head_model, trained_layers
from tierwise.operators._exits import refit
from tierwise.operators._partition import named_cut, partition_cuts
from tierwise.operators._session import answers
from tierwise.operators._work import Context, Stage, Work

__all__ = ["EarlyExit", "early_exit", "resolve_early_exit"]


class EarlyExit(Spec, frozen=True, kw_only=True, tag="early-exit", tag_field="op"):
    """Add exits to the frozen model (Teerapittayanon et al. 2016, BranchyNet, arXiv 1709.01686).

    Attributes:
        cuts: Where exits stand, in order: tensors, labels or module paths (`tierwise.capture.find_cut`). Empty: one
            exit, at the cut nearest to ``head_frac`` of the arithmetic.
        head_frac: Share of the arithmetic before an exit that was not named.
        max_drop_frac: What of the task's metric may be lost on the validation split, as a difference; several exits
            share it evenly. It decides the confidence from which on items leave.
        width: Hidden units of a head.
        grid: A head sees a picture's features averaged over so many fields each way.
        epochs: Passes over the train split's features.
        seed: Root of a head's weights and order.
    """

    NAME: ClassVar[str] = "early-exit"
    STAGE: ClassVar[Stage] = Stage.EXIT
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "torch")
    REVISION: ClassVar[int] = 1

    cuts: tuple[str, ...] = ()
    head_frac: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.4
    max_drop_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    width: Annotated[int, msgspec.Meta(gt=0)] = 64
    grid: Annotated[int, msgspec.Meta(gt=0)] = 2
    epochs: Annotated[int, msgspec.Meta(gt=0)] = 20
    seed: int = 0


def resolve_early_exit(spec: EarlyExit, work: Work) -> EarlyExit:
    """``spec`` with its cuts named by their tensors, in the order of the graph.

    Raises:
        InputError: The model has no legal cut, or none by a given name.
    """
    cuts = [cut for cut in partition_cuts(work.model, "fp32") if cut.tensor.dtype == "FP32" and cut.head_macs > 0]
    cuts = [cut for cut in cuts if 2 <= len(cut.tensor.shape) <= 4]
    if not cuts:
        raise InputError(
            "the model must have a tensor at which items can leave",
            got="none",
            where=f"task {work.task.name!r}",
            fix="Leave early-exit out of the chain for this model",
        )
    if spec.cuts:
        chosen = sorted((named_cut(cuts, name) for name in spec.cuts), key=lambda cut: cut.position)
        if len({cut.tensor.name for cut in chosen}) < len(chosen):
            raise InputError("exits must stand at different cuts", got=", ".join(spec.cuts), where="early-exit")
    else:
        # The last of those equally near: behind the activation, where features are cleanest.
        goal = spec.head_frac * (cuts[0].head_macs + cuts[0].tail_macs)
        chosen = [min(reversed(cuts), key=lambda cut: abs(cut.head_macs - goal))]
    return msgspec.structs.replace(spec, cuts=tuple(cut.tensor.name for cut in chosen))


def early_exit(spec: EarlyExit, work: Work, context: Context) -> Work:
    """Train the heads and calibrate their thresholds; the model itself is not changed.

    Raises:
        InputError: As `resolve_early_exit`, or the task has no items to train or validate with.
    """
    spec = resolve_early_exit(spec, work)
    for name in ("train", "validation"):
        if len(work.task.splits[name]) == 0:
            raise InputError(f"exits need {name} items", got="none", where=f"task {work.task.name!r}")
    started = time.process_time()
    cuts = partition_cuts(work.model, "fp32")
    chosen = [named_cut(cuts, name) for name in spec.cuts]
    tensors = [cut.tensor for cut in chosen]
    with context.progress.step("train exits", len(tensors) * spec.epochs) as advance:
        features = _features(work, chosen, spec.grid)
        exits = []
        for position, tensor in enumerate(tensors):
            layers = trained_layers(
                features[position],
                work.task.splits["train"].labels,
                classes=len(work.task.labels),
                width=spec.width,
                epochs=spec.epochs,
                seed=spec.seed,
                advance=advance,
            )
            head = head_model(work.model, tensor, position, spec.grid, layers)
            budget = spec.max_drop_frac * (position + 1) / len(tensors)
            exits.append(ExitHead(cut=tensor.name, head=head, threshold=NEVER, max_drop_frac=budget))
    done = refit(dataclasses.replace(work, exits=tuple(exits), history=(*work.history, spec)))
    return dataclasses.replace(done, training_s=work.training_s + time.process_time() - started)


def _features(work: Work, cuts: list[Cut], grid: int) -> list[Array]:
    """What each head sees of the train split; what lies behind the last exit is not computed."""
    model, _ = split(work.model, cuts[-1])
    del model.graph.output[:]
    names = []
    for position, cut in enumerate(cuts):
        nodes, constants, name = features_graph(cut.tensor, f"exit{position}", grid)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants)
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        names.append(name)
    seen = answers(model, work.task, "train")
    return [seen[name] for name in names]
