"""What `bottlenecks.py` compares: tasks, lessons, and the methods made of them.

Methods at equal bytes see the same pictures for the same number of epochs: ``hnd`` and ``ghnd`` 20 of features,
``bottlefit`` 10 and 10, ``joint`` 20 of labels (all of it trained, from the model's own tail), ``unfrozen`` BottleFit
with its encoder trained in the second stage too (by AdamW along a cosine); ``joint`` and ``bottlefit`` also with a
tenth of the labels and as many steps; what is called ``-long`` has four times the epochs. ``entropic-bottlefit`` is
``unfrozen`` with a learnt prior in place of whole numbers and a price of a bit in both stages;
``entropic-bottlefit-deep`` has the long training, two or four more layers in its encoder and all pictures;
``entropic-bottlefit-gentle`` has the same encoder, four fifths of its epochs for features and a second stage of small
steps; ``entropic-bottlefit-gentler`` has more epochs of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tierwise.operators import Bottleneck, Lesson
from tierwise.tasks import BuiltinTask, DenseNet, Inception, ResNet, Training

FEW_LABELS = 0.1
Named = tuple[str, str, Bottleneck]


@dataclass(frozen=True)
class Plan:
    """What is compared on one task.

    Attributes:
        task: The model that bottlenecks are made of; trained until it is worth compressing.
        cut: Between the parts that are replaced and kept.
        stride: Side of the picture over that of the latent.
        sizes: Channels of latents and bits of a value; at the first, which is tight, all methods are compared.
        betas: Weights of a bit for Entropic Student, on squared features.
        long_betas: The same with four times the epochs.
        own_betas: The same for ``entropic-bottlefit``.
        end_to_end_betas: The same on cross entropy, which is thousands of times smaller.
        train_frac: Share of the train split that bottlenecks see.
        deep_betas: Weights of a bit for ``entropic-bottlefit-deep``.
        deep_frac: Share of the train split that it sees.
        deep_layers: Further layers of its encoder.
        gentle_betas: Weights of a bit for ``entropic-bottlefit-gentle``.
    """

    task: BuiltinTask
    cut: str = "blocks.5"
    stride: int = 8
    sizes: tuple[tuple[int, int], ...] = ((3, 8), (16, 4), (48, 4))
    betas: tuple[float, ...] = (0.16, 0.64, 2.56)
    long_betas: tuple[float, ...] = (0.04,)
    own_betas: tuple[float, ...] = (0.04, 0.16, 0.01)
    end_to_end_betas: tuple[float, ...] = (2e-4, 2e-5)
    train_frac: float = 1.0
    deep_betas: tuple[float, ...] = (0.01, 0.04)
    deep_frac: float = 1.0
    deep_layers: int = 2
    gentle_betas: tuple[float, ...] = ()


_SGD = Training(epochs=30, batch=64, optimiser="sgd", learning_rate=0.1, weight_decay=5e-4, shift_pixels=4, flip=True)
_FASHION = Plan(
    BuiltinTask(
        name="fashion-mnist",
        subject=ResNet(depth=14, width=16),
        training=msgspec.structs.replace(_SGD, epochs=10, batch=128, learning_rate=0.2, shift_pixels=1),
    ),
    cut="blocks.3",
    stride=4,
    sizes=((1, 8), (5, 4)),
    # 20,000 pictures.
    train_frac=0.367,
    deep_betas=(0.02,),
)


def _family(subject: DenseNet | Inception, cut: str) -> Plan:
    """Fashion-MNIST by another family of networks, all else as it is."""
    return dataclasses.replace(_FASHION, task=msgspec.structs.replace(_FASHION.task, subject=subject), cut=cut)


PLANS = {
    "digits": Plan(BuiltinTask(name="digits"), cut="blocks.0", stride=2, sizes=((1, 8), (4, 4))),
    "tiny-imagenet-20": Plan(
        BuiltinTask(
            name="tiny-imagenet-20",
            subject=ResNet(depth=20, width=16, stem_stride=2, start="cifar10"),
            training=_SGD,
        )
    ),
    "fashion-mnist": _FASHION,
    # Cut behind their first halving: 14x14, as the residual network is.
    "fashion-mnist-densenet": _family(DenseNet(depth=22, growth=12), "features.3"),
    "fashion-mnist-inception": _family(Inception(width=24), "branches.2"),
    "cifar10-jpeg": Plan(
        BuiltinTask(
            name="cifar10-jpeg",
            subject=ResNet(depth=20, width=16, start="cifar10"),
            # The weights know these pictures before their JPEG files. A small rate keeps what they know by heart and
            # stays at 85 % on test.
            training=msgspec.structs.replace(_SGD, epochs=20, batch=128),
        ),
        stride=4,
        sizes=((2, 8), (5, 4), (16, 4)),
        train_frac=0.45,
        deep_betas=(0.01,),
        deep_layers=4,
        gentle_betas=(0.004,),
    ),
}

_FEATURES = Lesson(features="all", epochs=20, milestones=(0.25, 0.5, 0.75))
_FIRST = msgspec.structs.replace(_FEATURES, epochs=10, milestones=(0.5,))
_BY_LABELS = Lesson(
    trains=("encoder", "decoder", "tail"), cross_entropy=1.0, codec="round", epochs=20, schedule="cosine"
)
# The papers take a rate of 1e-3, for a hundred times as many steps.
_BEHIND = Lesson(
    trains=("decoder", "tail"),
    cross_entropy=0.5,
    soft=0.5,
    codec="round",
    epochs=10,
    optimiser="sgd",
    learning_rate=1e-2,
    weight_decay=5e-4,
    milestones=(0.5,),
)
_UNFROZEN = msgspec.structs.replace(
    _BEHIND,
    trains=("encoder", "decoder", "tail"),
    optimiser="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="cosine",
    milestones=(),
)
# Of a bit beside labels and answers, for each unit beside squared features.
_SECOND_PRICE = 3e-4 / 0.16
_WITH_RATE = msgspec.structs.replace(_FIRST, codec="noise", rate=1.0, milestones=(0.5, 0.8))
_ALL_WITH_RATE = msgspec.structs.replace(_BY_LABELS, codec="noise", rate=1.0)
_PRICED = (_WITH_RATE, msgspec.structs.replace(_UNFROZEN, codec="noise", rate=_SECOND_PRICE))
# Labels may take back what features taught: most of the time for those, then a second stage of small steps.
_GENTLE = (
    msgspec.structs.replace(_PRICED[0], epochs=48, schedule="cosine", learning_rate=2e-3, milestones=()),
    msgspec.structs.replace(_PRICED[1], epochs=12, learning_rate=2e-4),
)
_GENTLER = (msgspec.structs.replace(_GENTLE[0], epochs=80), msgspec.structs.replace(_GENTLE[1], epochs=16))


def _longer(*lessons: Lesson) -> tuple[Lesson, ...]:
    """The lessons with four times the epochs, as the methods called ``-long`` have them."""
    return tuple(msgspec.structs.replace(one, epochs=4 * one.epochs) for one in lessons)


def settings(plan: Plan) -> Iterator[list[Named]]:
    """Groups of (method, setting, spec without a seed), what decides most first."""
    tight, *wide = plan.sizes
    own = _narrow(plan, *tight)
    yield _at(plan, tight, _METHODS)
    for size in wide:
        yield _at(plan, size, {"bottlefit": (_FIRST, _BEHIND), "unfrozen": (_FIRST, _UNFROZEN), "joint": (_BY_LABELS,)})
    yield [
        *_with_prior(plan, "entropic-student", plan.betas, (_WITH_RATE, _BEHIND)),
        *_with_prior(plan, "end-to-end", plan.end_to_end_betas, (_ALL_WITH_RATE,)),
    ]
    yield [
        *_with_prior(plan, "entropic-student", plan.long_betas, _longer(_WITH_RATE, _BEHIND), "-long"),
        *_with_prior(plan, "end-to-end", plan.end_to_end_betas, _longer(_ALL_WITH_RATE), "-long"),
    ]
    yield [*_priced(plan, "entropic-bottlefit", _PRICED), *_priced(plan, "entropic-bottlefit-long", _longer(*_PRICED))]
    deep = dataclasses.replace(plan, own_betas=plan.deep_betas, train_frac=plan.deep_frac)
    gentle = dataclasses.replace(deep, own_betas=plan.gentle_betas)
    yield [
        *_priced(deep, "entropic-bottlefit-deep", _longer(*_PRICED), depth=plan.deep_layers),
        *_priced(gentle, "entropic-bottlefit-gentle", _GENTLE, depth=plan.deep_layers),
        *_priced(gentle, "entropic-bottlefit-gentler", _GENTLER, depth=plan.deep_layers),
    ]
    for size in wide:
        yield _at(plan, size, {"unfrozen-long": _longer(_FIRST, _UNFROZEN)})
    for method, lessons in (
        ("unfrozen", (_FIRST, _UNFROZEN)),
        ("joint-few-labels", (_few(_BY_LABELS),)),
        ("bottlefit-few-labels", (_FIRST, _few(_BEHIND))),
    ):
        yield [(method, size_name(*tight), _seeing(own, plan, lessons))]


_METHODS: dict[str, tuple[Lesson, ...]] = {
    "hnd": (msgspec.structs.replace(_FEATURES, features="cut"),),
    "ghnd": (_FEATURES,),
    "bottlefit": (_FIRST, _BEHIND),
    "joint": (_BY_LABELS,),
}


def size_name(channels: int, bits: int) -> str:
    """How cells call a size of the latent."""
    return f"{channels}ch" if bits == 8 else f"{channels}ch{bits}b"


def _narrow(plan: Plan, channels: int, bits: int) -> Bottleneck:
    return Bottleneck(preset="bottlefit", cut=plan.cut, stride=plan.stride, width=32, channels=channels, bits=bits)


def _at(plan: Plan, size: tuple[int, int], methods: dict[str, tuple[Lesson, ...]]) -> list[Named]:
    own, name = _narrow(plan, *size), size_name(*size)
    return [(method, name, _seeing(own, plan, lessons)) for method, lessons in methods.items()]


def _with_prior(
    plan: Plan, preset: Any, betas: tuple[float, ...], lessons: tuple[Lesson, ...], suffix: str = ""
) -> Iterator[Named]:
    for beta in betas:
        own = Bottleneck(preset=preset, cut=plan.cut, stride=plan.stride, channels=12, rate=beta)
        yield f"{preset}{suffix}", f"beta {beta:g}", _seeing(own, plan, lessons)


def _priced(plan: Plan, method: str, lessons: tuple[Lesson, ...], depth: int = 0) -> Iterator[Named]:
    for beta in plan.own_betas:
        own = Bottleneck(
            preset="entropic-bottlefit", cut=plan.cut, stride=plan.stride, width=32, depth=depth, channels=12, rate=beta
        )
        yield method, f"beta {beta:g}", _seeing(own, plan, lessons)


def _few(lesson: Lesson) -> Lesson:
    """With a tenth of the labels, for as many steps: what is compared is labels, not time."""
    return msgspec.structs.replace(lesson, train_frac=FEW_LABELS, epochs=round(lesson.epochs / FEW_LABELS))


def _seeing(spec: Bottleneck, plan: Plan, lessons: tuple[Lesson, ...]) -> Bottleneck:
    seen = [msgspec.structs.replace(one, train_frac=plan.train_frac * one.train_frac) for one in lessons]
    return msgspec.structs.replace(spec, lessons=tuple(seen))
