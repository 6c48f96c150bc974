"""What every operator promises, checked on a real task.

Imports that bring torch stand inside, so that the other checks and fakes of this room come without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tierwise.artifact import open_artifact
from tierwise.measure import Silent

if TYPE_CHECKING:
    import onnx
    import torch

    from tierwise.operators import ChooseCuts, Context, OperatorSpec, Work
    from tierwise.tasks import Task

    Apply = Callable[[OperatorSpec, Work, Context], Work]

__all__ = ["check_operator"]


def check_operator(
    spec: OperatorSpec,
    task: Task,
    *,
    choose_cuts: ChooseCuts | None = None,
    tolerance: float = 0.1,
    operate: Apply | None = None,
) -> None:
    """Check that the operator of ``spec`` keeps its contract on ``task``.

    It must leave its input as it was, the torch model too; append its resolved spec (nothing left on "auto") to the
    history and keep earlier notes; hand on valid ONNX with the task's outputs and a free batch axis, and where it
    trains, the torch model it was exported from; answer near the model it was given; and give the same for the same
    input. Where it codes a latent, the tables must be those of what its first segment makes. Where it is built in,
    `tierwise.operators.build` must find its result again instead of making another.

    Args:
        spec: The operator, with small options: it is applied three times.
        task: A small task with calibration items.
        choose_cuts: For operators that leave the cut to a cost model.
        tolerance: Largest absolute difference of an answer, as a share of the largest absolute answer; operators
            that train need a wide one.
        operate: The operator's function; None for one that is built in.

    Raises:
        AssertionError: A promise is broken; the message says which.
    """
    import onnx

    from tierwise.operators import Work, apply

    model = _given(task)
    work = Work(task=task, model=model, module=task.model, notes=("given",))
    before = model.SerializeToString(deterministic=True)
    given = None if task.model is None else _weights(task.model(Silent()))
    results = [_operate(operate or apply, spec, work, choose_cuts) for _ in range(2)]
    first = results[0]
    _must(model.SerializeToString(deterministic=True) == before, "leave the model it is given unchanged")
    _must(len(first.history) == 1 and type(first.history[0]) is type(spec), "append its spec to the history")
    _must("'auto'" not in str(first.history[0]), "resolve what was left on auto in the history")
    _must(first.notes[:1] == ("given",), "keep the notes of operators before it")
    _must(first.training_s >= 0, "count its CPU seconds")
    _must(
        [_serialised(result) for result in results[:1]] == [_serialised(result) for result in results[1:]],
        "give the same for the same input",
    )
    parts = first.segments or (first.model,)
    for part in parts:
        onnx.checker.check_model(part)
    _check_answers(work, parts, tolerance)
    if first.blueprint is not None:
        _check_module(first, given)
    if first.crossing is not None:
        _check_crossing(first)
    if operate is None:
        _check_build(spec, task, choose_cuts)


def _given(task: Task) -> onnx.ModelProto:
    from tierwise.capture import export, load_onnx

    if task.onnx is not None:
        return load_onnx(task.onnx)
    if task.model is None:
        raise AssertionError("an operator must be checked on a task that has a model")
    return export(task.model(Silent()), task.example(), task.outputs)


def _operate(operate: Apply, spec: OperatorSpec, work: Work, choose_cuts: ChooseCuts | None) -> Work:
    from tierwise.operators import Context

    with tempfile.TemporaryDirectory(prefix="tierwise-check-") as folder:
        return operate(spec, work, Context(folder=Path(folder), choose_cuts=choose_cuts))


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _check_module(result: Work, given: dict[str, torch.Tensor] | None) -> None:
    """The torch module that an operator trained, and the one it was given."""
    import torch

    from tierwise.capture import run

    task = result.task
    if task.model is None or given is None or result.module is None:
        raise AssertionError("an operator must have the torch model to train it")
    after = task.model(Silent()).state_dict()
    same = after.keys() == given.keys() and all(torch.equal(after[name], given[name]) for name in given)
    _must(same, "leave the torch model it is given unchanged")
    module = result.module(Silent())
    _must(not module.training, "hand on a torch model in eval mode")
    feeds = task.tensors(task.splits["calibration"].head(3).items)
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(array) for array in feeds.values()))
    first = (answer[0] if isinstance(answer, tuple) else answer).numpy()
    exported = run([result.model], feeds)[task.outputs[0]]
    near = np.allclose(first, exported, atol=1e-3 * max(1.0, float(np.abs(first).max())))
    _must(near, "hand on the torch model that its ONNX was exported from")


def _serialised(work: Work) -> list[bytes]:
    tables = [] if work.crossing is None else [work.crossing.tables]
    return [*(part.SerializeToString(deterministic=True) for part in (work.model, *work.segments)), *tables]


def _check_crossing(result: Work) -> None:
    """The codec of a latent: its tables are those of what the first segment makes, and every rate is measured."""
    from tierwise.capture import run
    from tierwise.codecs import decode, encode, read_codec

    crossing, task = result.crossing, result.task
    _must(crossing is not None and len(result.segments) == 2, "have two segments around a coded latent")
    assert crossing is not None
    feeds = task.tensors(task.splits["calibration"].head(3).items)
    (name,) = [value.name for value in result.segments[0].graph.output]
    latent = run(result.segments[:1], feeds)[name]
    codec = read_codec(crossing.kind, crossing.tables)
    rates = {rate.channels: rate.item_bytes for rate in crossing.rates}
    _must(sorted(rates) == list(crossing.prefixes), "measure each rate of a coded latent")
    _must(max(rates) == latent.shape[1], "be able to send all channels of a latent")
    for channels in rates:
        arrived = decode(codec, encode(codec, latent, channels))
        _must(arrived.shape == latent.shape, "hand on tables that code what its first segment makes")
        answers = run(result.segments[1:], {name: np.ascontiguousarray(arrived)})
        _must(all(np.isfinite(array).all() for array in answers.values()), "answer from what arrives")


def _check_answers(work: Work, parts: tuple[onnx.ModelProto, ...], tolerance: float) -> None:
    from tierwise.capture import run

    for count in (1, 3):
        feeds = work.task.tensors(work.task.splits["calibration"].head(count).items)
        expected, got = run([work.model], feeds), run(parts, feeds)
        _must(sorted(got) == sorted(expected), f"answer the outputs {sorted(expected)}")
        for name, array in expected.items():
            _must(got[name].shape == array.shape, f"answer {name!r} for a batch of {count} in shape {array.shape}")
            worst = float(np.abs(got[name].astype(np.float64) - array).max())
            limit = tolerance * float(np.abs(array).max())
            _must(worst <= limit, f"answer {name!r} within {limit:.3g} of the model given, not {worst:.3g}")


def _check_build(spec: OperatorSpec, task: Task, choose_cuts: ChooseCuts | None) -> None:
    from tierwise.operators import build, chain_text

    with tempfile.TemporaryDirectory(prefix="tierwise-check-") as cache:
        artifact = build(task, (spec,), Path(cache), choose_cuts=choose_cuts)
        again = build(task, (spec,), Path(cache), choose_cuts=choose_cuts)
        _must(artifact.directory == again.directory, "have one address for one result")
        _must(open_artifact(artifact.directory).digest == artifact.digest, "make an artifact that opens")
        _must(artifact.manifest.provenance.chain == chain_text((spec,)), "stand in the artifact's provenance")


def _must(holds: bool, promise: str) -> None:
    # An explicit raise: it must hold under python -O too.
    if not holds:
        raise AssertionError(f"an operator must {promise}")
