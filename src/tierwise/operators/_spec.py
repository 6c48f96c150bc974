"""The operators there are: their union, their order, and how chains are written.

A new operator is one file with a spec and a function ``apply(spec, work, context) -> work``, and one line each in
`OperatorSpec`, in ``OPERATORS`` and in `tierwise.operators._apply`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tierwise._config import convert
from tierwise._errors import ChainError, InputError
from tierwise.operators._bottleneck import Bottleneck
from tierwise.operators._distill import Distill
from tierwise.operators._early_exit import EarlyExit
from tierwise.operators._filter import Filter
from tierwise.operators._identity import Identity
from tierwise.operators._partition import Partition
from tierwise.operators._prune import Prune
from tierwise.operators._qat import QAT
from tierwise.operators._static_ptq import StaticPTQ
from tierwise.operators._work import Stage
from tierwise.tasks import Task

__all__ = ["OPERATORS", "OperatorSpec", "chain_text", "check_chain", "parse_chain"]

OperatorSpec = Identity | Prune | Distill | Bottleneck | EarlyExit | Filter | StaticPTQ | QAT | Partition
"""What can stand in a chain; ``op`` tells which in TOML and JSON."""

OPERATORS: tuple[
    type[Identity]
    | type[Prune]
    | type[Distill]
    | type[Bottleneck]
    | type[EarlyExit]
    | type[Filter]
    | type[StaticPTQ]
    | type[QAT]
    | type[Partition],
    ...,
] = (
    Identity,
    Prune,
    Distill,
    Bottleneck,
    EarlyExit,
    Filter,
    StaticPTQ,
    QAT,
    Partition,
)
"""All of them, in the order of their stages."""


# They train every weight, zeros of an unstructured pruning too.
_FILLS_ZEROS = ("distill", "qat", "bottleneck")

# They would change or cut what a latent's tables were fixed for.
_NOT_WITH_LATENT = ("early-exit", "qat", "partition")


def parse_chain(text: str, options: Mapping[str, Mapping[str, object]] | None = None) -> tuple[OperatorSpec, ...]:
    """Specs from a chain as people write it.

    Args:
        text: Operator names joined by ``+``, in the order of application.
        options: Values that differ from an operator's defaults, by operator name.

    Raises:
        ChainError: An unknown operator, or an order that cannot be built; the message names the nearest legal chain.
        SpecError: An option does not exist or does not fit.

    Example:
        >>> parse_chain("sptq+partition", {"partition": {"boundary": "uint8"}})[1].boundary
        'uint8'
    """
    known = {kind.NAME: kind for kind in OPERATORS}
    names = [name.strip() for name in text.split("+")]
    for name in names:
        if name not in known:
            raise ChainError(
                f"a chain must be made of the operators {', '.join(known)}, joined by +",
                got=repr(name),
                where=f"chain {text!r}",
                fix="Write it like sptq+partition",
            )
    given = options or {}
    chain = tuple(
        convert({"op": name, **given.get(name, {})}, known[name], where=f"chain {text!r}, operator {name}")
        for name in names
    )
    check_chain(chain)
    return chain


def chain_text(chain: Sequence[OperatorSpec]) -> str:
    """A chain as people write it, without options.

    Example:
        >>> chain_text(parse_chain("sptq + partition"))
        'sptq+partition'
    """
    return "+".join(spec.NAME for spec in chain)


def check_chain(chain: Sequence[OperatorSpec], task: Task | None = None) -> None:
    """Refuse a chain that cannot be built, before any work is done.

    Each operator declares its stage; stages never go back (train, narrow, quantise, split), only training may take
    several operators, none occurs twice, and identity stands alone.

    Args:
        chain: The operators.
        task: What they shall work on; operators that train need its torch model.

    Raises:
        ChainError: The order is illegal; the message names the nearest legal chain.
        InputError: An operator needs the torch model and the task has none.
    """
    legal = _nearest_legal(chain)
    if list(chain) != legal or not chain:
        raise ChainError(
            f"a chain must {_broken_rule(chain)}",
            got=repr(chain_text(chain)),
            fix=f"The nearest legal chain is {chain_text(legal) or 'identity'!r}",
        )
    if task is not None and task.model is None:
        for spec in chain:
            if spec.NEEDS_TORCH:
                raise InputError(
                    f"the operator {spec.NAME!r} needs the torch model",
                    got="a task that came as an ONNX file",
                    where=f"task {task.name!r}",
                    fix="Bring the task by module:function with its torch model, or use operators that work on ONNX",
                )


def _nearest_legal(chain: Sequence[OperatorSpec]) -> list[OperatorSpec]:
    kept: list[OperatorSpec] = []
    for spec in chain:
        taken = {other.STAGE for other in kept if other.STAGE is not Stage.TRAIN}
        if spec.NAME not in {other.NAME for other in kept} and spec.STAGE not in taken:
            kept.append(spec)
    if len(kept) > 1:
        kept = [spec for spec in kept if spec.STAGE is not Stage.ALONE]
    kept.sort(key=lambda spec: spec.STAGE)
    if any(spec.NAME == "bottleneck" for spec in kept):
        kept = [spec for spec in kept if spec.NAME not in _NOT_WITH_LATENT]
    zeros = next((spec for spec in kept if _makes_zeros(spec)), None)
    if zeros is not None:
        # Before quantising by training there is no place for zeros at all; before other training, behind it.
        kept = [spec for spec in kept if spec.NAME not in ("bottleneck", "qat")]
        behind = [spec for spec in kept[kept.index(zeros) :] if spec.NAME in _FILLS_ZEROS]
        for spec in behind:
            kept.remove(spec)
            kept.insert(kept.index(zeros), spec)
    return kept


def _makes_zeros(spec: OperatorSpec) -> bool:
    return isinstance(spec, Prune) and spec.structure == "weights"


def _broken_rule(chain: Sequence[OperatorSpec]) -> str:
    names = [spec.NAME for spec in chain]
    stages = [spec.STAGE for spec in chain]
    if not chain:
        return "have at least one operator"
    if Stage.ALONE in stages and len(set(names)) > 1:
        return "not combine identity with other operators"
    if len(set(names)) < len(names):
        return "not repeat an operator"
    if "bottleneck" in names and set(names) & set(_NOT_WITH_LATENT):
        return "not combine bottleneck with early-exit, qat or partition: it is cut at its latent, and coded for it"
    zeros = next((i for i, spec in enumerate(chain) if _makes_zeros(spec)), len(chain))
    if any(name in _FILLS_ZEROS for name in names[zeros:]):
        return "not train every weight after single weights were set to zero, which would fill them again"
    if stages.count(Stage.EXIT) > 1:
        return "have one of early-exit and filter at most"
    if stages.count(Stage.QUANTISE) > 1:
        return "have one quantising operator at most"
    if Stage.SPLIT in stages[:-1]:
        return "end with partition where it has one"
    return "train first, narrow or add exits next, then quantise, and split last"
