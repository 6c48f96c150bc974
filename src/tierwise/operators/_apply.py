"""The one place where a spec meets its operator."""

from __future__ import annotations

from typing import assert_never

from tierwise._errors import InputError
from tierwise.operators._bottleneck import Bottleneck, bottleneck, resolve_bottleneck
from tierwise.operators._distill import Distill, distill, resolve_distill
from tierwise.operators._early_exit import EarlyExit, early_exit, resolve_early_exit
from tierwise.operators._filter import Filter, filter_empty, resolve_filter
from tierwise.operators._identity import Identity, identity
from tierwise.operators._partition import Partition, partition, resolve_partition
from tierwise.operators._prune import Prune, prune, resolve_prune
from tierwise.operators._qat import QAT, qat, resolve_qat
from tierwise.operators._spec import OperatorSpec
from tierwise.operators._static_ptq import StaticPTQ, resolve_static_ptq, static_ptq
from tierwise.operators._work import Context, Work

__all__ = ["apply", "resolve"]


def apply(spec: OperatorSpec, work: Work, context: Context) -> Work:
    """What ``spec`` makes of ``work``; ``work`` itself is never changed.

    Raises:
        InputError: The operator cannot work on this model; see each operator.
    """
    match spec:
        case Identity():
            return identity(spec, work, context)
        case Prune():
            return prune(spec, work, context)
        case Distill():
            return distill(spec, work, context)
        case Bottleneck():
            return bottleneck(spec, work, context)
        case StaticPTQ():
            return static_ptq(spec, work, context)
        case EarlyExit():
            return early_exit(spec, work, context)
        case Filter():
            return filter_empty(spec, work, context)
        case QAT():
            return qat(spec, work, context)
        case Partition():
            return partition(spec, work, context)
        case _:
            assert_never(spec)


def _check_boxes(spec: OperatorSpec, work: Work) -> None:
    if work.task.boxes is not None and isinstance(spec, (Prune, Distill, EarlyExit, QAT)):
        raise InputError(
            "the operator must know boxes; it works on scores of classes",
            got=spec.NAME,
            where=f"task {work.task.name!r}",
            fix="Leave it out of the chain; partition, bottleneck, sptq and filter work on boxes",
        )


def resolve(spec: OperatorSpec, work: Work, context: Context) -> OperatorSpec:
    """``spec`` with everything it leaves to the machine or to the cost model decided; such specs name a result.

    Raises:
        InputError: As `apply`.
    """
    _check_boxes(spec, work)
    match spec:
        case Prune():
            return resolve_prune(spec, work, context)
        case Distill():
            return resolve_distill(spec, work)
        case Bottleneck():
            return resolve_bottleneck(spec, work, context)
        case StaticPTQ():
            return resolve_static_ptq(spec)
        case EarlyExit():
            return resolve_early_exit(spec, work)
        case Filter():
            return resolve_filter(spec, work)
        case QAT():
            return resolve_qat(spec)
        case Partition():
            return resolve_partition(spec, work, context)
        case _:
            return spec
