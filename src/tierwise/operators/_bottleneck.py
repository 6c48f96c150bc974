"""A learnt bottleneck: the front of a model replaced by a narrow encoder, a codec and a decoder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, final

import msgspec
import onnx
import torch
from torch import nn

from tierwise._config import Spec
from tierwise._errors import InputError, SpecError
from tierwise._seeds import stream_seed
from tierwise.capture import Cut, export, find_cut
from tierwise.codecs import CodecKind
from tierwise.operators._crossing import LATENT, crossing_of, refitted
from tierwise.operators._curriculum import check_lessons, check_reach, check_unlabelled, settled_lessons
from tierwise.operators._folding import folded
from tierwise.operators._lesson import Lesson
from tierwise.operators._narrow import Family, Shape, narrow_pair
from tierwise.operators._narrowed import Deployed, LessonLoss, Narrowed, stops_at_the_cut
from tierwise.operators._partition import partition_cuts
from tierwise.operators._recipes import RECIPES, Preset
from tierwise.operators._rounding import Rounding
from tierwise.operators._surgery import Anatomy
from tierwise.operators._widths import count_macs
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Task, Training, Unlabelled, fine_tune, hashed, settled, task_loss, with_unlabelled

__all__ = ["Bottleneck", "bottleneck", "resolve_bottleneck"]

_BATCH = 64
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Bottleneck(Spec, frozen=True, kw_only=True, tag="bottleneck", tag_field="op"):
    """Send a learnt latent instead of the input or of a model's own features.

    Attributes:
        preset: Gives what is None or empty below (`tierwise.operators._recipes` has each number's source).
        cut: Tensor, label or module path; what lies before it is replaced. ``auto``: the last cut in the first half of
            the arithmetic.
        family: Form of encoder and decoder: ``conv``, ``gdn`` or ``autoencoder`` (which keeps the model's front on the
            device).
        channels: Of the latent.
        stride: Side of the input over that of the latent, a power of two; None: as at the cut.
        width: Channels of the encoder's hidden layers, for ``conv``.
        depth: Further hidden layers of the encoder, for ``conv``; they stand where it is smallest, before its last.
        codec: ``raw``: 32-bit floats; ``affine``: whole numbers of ``bits`` with ranges by channel, fixed here;
            ``prior``: rounded, and range-coded by a distribution learnt along.
        bits: For ``affine``.
        prefixes: Numbers of channels that may be sent too, fewer than all: training then orders the channels by drawing
            among these at random (nested dropout, Rippel et al. 2014, arXiv 1402.0915).
        lessons: The training, stage by stage.
        rate: Weight of a bit (beta) in the first lesson that has one; those of later lessons change in proportion, for
            each stands beside a loss of its own scale.
        epochs_frac: Share of the lessons' epochs, for preset ones; at least one each.
        items: Calibration items that ranges and medians are fixed on.
        precision: Of decoder, tail and teacher while training; ``auto`` takes bfloat16 where the CPU has instructions
            for it. The encoder and the codec always learn in float32.
        unlabelled: Further pictures, which every lesson without ``cross_entropy`` sees beside the train split: to
            reproduce the model's own features or answers, nobody needs to have labelled them.
        seed: Root of initial weights, noise and order.
    """

    NAME: ClassVar[str] = "bottleneck"
    STAGE: ClassVar[Stage] = Stage.NARROW
    NEEDS_TORCH: ClassVar[bool] = True
    PACKAGES: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")
    REVISION: ClassVar[int] = 2

    preset: Preset = "bottlefit"
    cut: str = "auto"
    family: Family | None = None
    channels: Positive | None = None
    stride: Positive | None = None
    width: Positive = 64
    depth: Annotated[int, msgspec.Meta(ge=0, le=16)] | None = None
    codec: CodecKind | None = None
    bits: Annotated[int, msgspec.Meta(ge=1, le=8)] = 8
    prefixes: tuple[Positive, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    epochs_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    items: Positive = 512
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Left out of what names a result where it is not asked for.
    unlabelled: Unlabelled | msgspec.UnsetType = msgspec.UNSET
    seed: int = 0


def resolve_bottleneck(spec: Bottleneck, work: Work, context: Context) -> Bottleneck:
    """``spec`` with everything named; a resolved one stays as it is.

    Raises:
        InputError: The model has no cut that a bottleneck can replace, or none by that name; pictures without labels do
            not fit the task.
        SpecError: Parts of the spec contradict each other, or a folder holds no pictures.
    """
    recipe = RECIPES[spec.preset]
    codec, channels = spec.codec or recipe.codec, spec.channels or recipe.channels
    lessons = settled_lessons(spec.lessons or recipe.lessons, spec.rate, spec.epochs_frac)
    prefixes = tuple(sorted({*spec.prefixes, channels}))
    if prefixes[-1] != channels:
        raise SpecError(
            f"prefixes must have at most all {channels} channels", got=prefixes[-1], where="bottleneck.prefixes"
        )
    if codec == "raw" and len(prefixes) > 1:
        raise SpecError(
            "prefixes must have a codec that knows what the channels left out are",
            got='codec = "raw"',
            where="bottleneck.prefixes",
            fix='Set codec = "affine" or "prior", or leave prefixes out',
        )
    check_lessons(lessons, codec, spec.rate, work.task)
    unlabelled = spec.unlabelled
    if isinstance(unlabelled, Unlabelled):
        check_unlabelled(lessons)
        unlabelled = hashed(unlabelled)
        with_unlabelled(work.task, unlabelled)
    cuts = _cuts(work, Anatomy(work.torch_module(spec.NAME, context.progress), work.task.example()))
    cut = _half(cuts) if spec.cut == "auto" else find_cut(cuts, spec.cut)
    named = tuple(_named(lesson, cuts, cut) for lesson in lessons)
    check_reach(named)
    sides = work.task.example()[next(iter(work.task.example()))].shape[2:]
    return msgspec.structs.replace(
        spec,
        cut=cut.tensor.name,
        family=spec.family or recipe.family,
        channels=channels,
        depth=recipe.depth if spec.depth is None else spec.depth,
        stride=spec.stride or max(1, round(int(sides[0]) / cut.tensor.shape[2])),
        codec=codec,
        prefixes=prefixes,
        lessons=named,
        rate=None,
        epochs_frac=1.0,
        precision=settled(Training(epochs=1, precision=spec.precision)).precision,
        unlabelled=unlabelled,
    )


def _cuts(work: Work, anatomy: Anatomy) -> tuple[Cut, ...]:
    """Cuts at pictures of features that have a name in torch too."""
    found = tuple(
        cut
        for cut in partition_cuts(work.model, "fp32")
        if len(cut.tensor.shape) == 4 and not cut.carried and anatomy.knows(cut.tensor.name)
    )
    if not found:
        raise InputError(
            "the model must have a cut at features [n, channels, height, width] for a bottleneck",
            got="none",
            where=f"task {work.task.name!r}",
            fix="Leave bottleneck out of the chain for this model",
        )
    return found


def _half(cuts: Sequence[Cut]) -> Cut:
    half = (cuts[0].head_macs + cuts[0].tail_macs) / 2
    return [cuts[0], *(cut for cut in cuts if cut.head_macs <= half)][-1]


def _named(lesson: Lesson, cuts: Sequence[Cut], cut: Cut) -> Lesson:
    """``lesson`` with the tensors behind the cut at which features are compared; the cut itself always is one."""
    behind = [one for one in cuts if one.position > cut.position]
    if lesson.features in ("cut", ()):
        chosen: list[Cut] = []
    elif lesson.features == "all":
        ends = {one.tensor.shape: one for one in behind if one.tensor.shape != cut.tensor.shape}
        chosen = sorted(ends.values(), key=lambda one: one.position)
    else:
        others = [name for name in lesson.features if name not in ("cut", cut.tensor.name)]
        chosen = [find_cut(behind, name) for name in others]
    if not lesson.features:
        return lesson
    return msgspec.structs.replace(lesson, features=(cut.tensor.name, *(one.tensor.name for one in chosen)))


def bottleneck(spec: Bottleneck, work: Work, context: Context) -> Work:
    """Build the narrow front and train it; killed, the next call goes on from the last finished epoch.

    Raises:
        InputError: As `resolve_bottleneck`, or encoder and decoder cannot reach the sides.
    """
    spec = resolve_bottleneck(spec, work, context)
    school = _School(spec, work, context)
    notes = [school.teach(number, lesson) for number, lesson in enumerate(spec.lessons)]
    narrowed = school.finished()
    crossing = crossing_of(narrowed.rounding.codec(), spec.prefixes)
    with context.progress.step("export to ONNX", None):
        model = export(Deployed(narrowed).eval(), work.task.example(), (work.task.outputs[0], LATENT))
        del model.graph.output[1:]
        _forget_lines(model)
    done = dataclasses.replace(
        work,
        model=model,
        history=(*work.history, spec),
        crossing=crossing,
        notes=(*work.notes, school.note(), *notes),
        training_s=work.training_s + school.training_s,
    )
    return refitted(done)


@final
class _School:
    """The training of one bottleneck."""

    def __init__(self, spec: Bottleneck, work: Work, context: Context) -> None:
        if len(work.task.outputs) != 1:
            raise InputError(
                "a bottleneck needs a model with one output",
                got=", ".join(work.task.outputs),
                where=f"task {work.task.name!r}",
            )
        self._spec, self._task, self._context = spec, work.task, context
        self.training_s = 0.0
        self._example = work.task.example()
        module = work.torch_module(spec.NAME, context.progress)
        anatomy = Anatomy(module, self._example)
        compared = {name for lesson in spec.lessons for name in lesson.features} - {spec.cut}
        self._watched = sorted(compared, key=_position(_cuts(work, anatomy)))
        self._teacher = folded(anatomy.tail(None, (spec.cut, *self._watched)))
        self._short_teacher = folded(anatomy.head(spec.cut))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(spec.seed, "bottleneck"))
            self._narrowed = self._built(anatomy)
        self._before = [_parameters(module), count_macs(module, self._example)]

    def _built(self, anatomy: Anatomy) -> Narrowed:
        spec, (given,) = self._spec, self._example.values()
        assert spec.channels is not None
        assert spec.stride is not None
        assert spec.family is not None
        assert spec.codec is not None
        front = anatomy.head(spec.cut) if spec.family == "autoencoder" else nn.Identity()
        with torch.no_grad():
            source, target = front(given).shape[1:], anatomy.head(spec.cut)(given).shape[1:]
        latent = (spec.channels, *(math.ceil(side / spec.stride) for side in given.shape[2:]))
        shape = Shape(tuple(source), latent, tuple(target))  # type: ignore[arg-type]
        encoder, decoder = narrow_pair(spec.family, shape, spec.width, spec.depth or 0)
        rounding = Rounding(spec.codec, spec.channels, spec.bits)
        tail = anatomy.tail(spec.cut, self._watched)
        return Narrowed(front, encoder, rounding, decoder, tail, spec.prefixes)

    def teach(self, number: int, lesson: Lesson) -> str:
        """One lesson, or its result where it was finished before; a remark on it."""
        narrowed = self._narrowed
        if "encoder" in lesson.trains:
            narrowed.rounding.settled.zero_()
        else:
            self._settle()
        narrowed.learn(lesson)
        chosen = [i for i, name in enumerate(self._watched) if name in lesson.features]
        teacher = self._short_teacher if stops_at_the_cut(lesson) else self._teacher
        tuned = fine_tune(
            narrowed,
            self._seen_by(lesson),
            self._training(lesson),
            folder=self._context.lasting / f"lesson{number}",
            progress=self._context.progress,
            seed=stream_seed(self._spec.seed, "lesson", number) % 2**31,
            objective=LessonLoss(lesson, teacher, chosen, task_loss(self._task) if lesson.cross_entropy else None),
            title=f"bottleneck {self._task.name}, lesson {number + 1}",
            schedule=_steps(lesson) if lesson.schedule == "steps" else None,
            # The metric says nothing of the rate: an early epoch may score as well with many more bits.
            keep_last=lesson.rate > 0,
        )
        self.training_s += tuned.training_s
        return (
            f"bottleneck: lesson {number + 1} trained {', '.join(lesson.trains)} for {lesson.epochs} epochs, "
            f"{tuned.training_s:.1f} s of CPU; validation {self._task.metric} {tuned.history[-1]:.4f} at its end"
        )

    def _seen_by(self, lesson: Lesson) -> Task:
        task = _shortened(self._task, lesson.train_frac)
        if lesson.cross_entropy == 0 and isinstance(self._spec.unlabelled, Unlabelled):
            task = with_unlabelled(task, self._spec.unlabelled)
        return task

    def _training(self, lesson: Lesson) -> Training:
        own = self._task.training
        return Training(
            epochs=lesson.epochs,
            batch=lesson.batch,
            optimiser=lesson.optimiser,
            learning_rate=lesson.learning_rate,
            weight_decay=lesson.weight_decay,
            shift_pixels=own.shift_pixels if own is not None else 0,
            flip=own.flip if own is not None else False,
            precision=self._spec.precision,
        )

    def _settle(self) -> None:
        rounding = self._narrowed.rounding
        if not bool(rounding.settled):
            rounding.settle(self._narrowed.latents(self._batches()))

    def _batches(self) -> list[torch.Tensor]:
        items = self._task.splits["calibration"].head(self._spec.items).items
        if not items:
            raise InputError("a bottleneck needs calibration items", got="none", where=f"task {self._task.name!r}")
        name = next(iter(self._example))
        return [
            torch.from_numpy(self._task.tensors(items[at : at + _BATCH])[name]) for at in range(0, len(items), _BATCH)
        ]

    def finished(self) -> Narrowed:
        """The trained model, in eval mode, its codec fixed."""
        self._settle()
        return self._narrowed.eval()

    def note(self) -> str:
        """What the device runs, beside the model before."""
        narrowed, (given,) = self._narrowed, self._example.values()
        encoder = nn.Sequential(narrowed.front, narrowed.encoder).eval()
        parameters = _parameters(encoder)
        macs = count_macs(encoder, {next(iter(self._example)): given})
        shape = list(narrowed.latents([given]).shape[1:])
        return (
            f"bottleneck: {self._spec.family} encoder of {parameters:,} parameters "
            f"({100 * parameters / max(1, self._before[0]):.1f} % of the model's) and {macs:,} multiply-accumulates "
            f"({100 * macs / max(1, self._before[1]):.1f} %) in place of all before {self._spec.cut}, latent {shape}"
        )


def _shortened(task: Task, frac: float) -> Task:
    if frac == 1.0:
        return task
    train = task.splits["train"]
    return dataclasses.replace(task, splits={**task.splits, "train": train.head(max(1, math.floor(frac * len(train))))})


def _forget_lines(model: onnx.ModelProto) -> None:
    """Drop the lines of code that operators came from: a part of a graph has none, only a number that changes."""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def _position(cuts: Sequence[Cut]) -> Any:
    places = {cut.tensor.name: cut.position for cut in cuts}
    return lambda name: places[name]


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _steps(lesson: Lesson) -> Any:
    return lambda step, steps: 0.1 ** sum(step >= share * steps for share in lesson.milestones)
