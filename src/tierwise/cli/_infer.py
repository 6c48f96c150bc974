"""``tierwise infer``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._units import format_bytes, format_seconds
from tierwise.artifact import PAYLOAD_INPUT, TensorSpec, picture_pixels, request_tensors
from tierwise.cli._credentials import credentials

if TYPE_CHECKING:
    from tierwise.measure import Reply

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise infer MODEL picture.jpg --node 127.0.0.1:8001
  tierwise infer MODEL --text "a fine film" --node 127.0.0.1:8001
  tierwise infer MODEL --text "one sentence" --text "another" --node 127.0.0.1:8001     (a pair)
  tierwise infer MODEL tensors.npz --node unix:/run/tierwise.sock                       (arrays by input name)
  tierwise infer --paths paths.toml picture.jpg      (the best of several deployments, see tierwise deploy --paths-out)
"""


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--node", "address", default="127.0.0.1:8001", show_default=True, help="HOST:PORT or unix:PATH.")
@click.option(
    "--paths",
    "paths_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of paths to choose from, instead of MODEL and --node.",
)
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds an answer may take (--paths).")
@click.option("--text", multiple=True, help="Text to send; twice for a model that takes pairs.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Largest scores to print.")
@click.option("--json", "as_json", is_flag=True, help="Print outputs, path and stages as JSON.")
@credentials
def command(
    model: str | None,
    file: Path | None,
    address: str,
    paths_file: Path | None,
    deadline: float | None,
    text: tuple[str, ...],
    top: int,
    as_json: bool,
) -> None:
    """Send one item to MODEL on a node and print the answer, the tiers that made it and where the time went.

    FILE is a picture for models that take pictures (sent as it is, or as pixels where the model wants pixels), or an
    .npz with the model's input tensors by name. With --paths there is no MODEL, and the answer says which path made it
    and why.
    """
    if paths_file is not None:
        if file is not None:
            raise InputError("with --paths no MODEL is named", got=repr(model))
        file = None if model is None else Path(model)
        if file is not None and not file.is_file():
            raise InputError("the file must exist", where=file)
    elif model is None:
        raise InputError("either a MODEL or --paths must be given")
    elif deadline is not None:
        raise InputError("--deadline needs --paths")
    if (file is None) == (not text):
        raise InputError("either a FILE or --text must be given")
    if paths_file is not None:
        reply = _ask_paths(paths_file, file, text, deadline)
    else:
        reply = _ask_node(str(model), address, file, text)
    if as_json:
        outputs = {name: tensor.tolist() for name, tensor in reply.outputs.items()}
        stages = [[stage.tier, stage.stage, round(1e9 * stage.seconds)] for stage in reply.stages]
        told = {"made_by": reply.made_by, "why": reply.why} if reply.made_by else {}
        json.dump({"outputs": outputs, "path": reply.path, "stages_ns": stages, **told}, sys.stdout)
        click.echo()
        return
    for name, tensor in reply.outputs.items():
        click.echo(_describe(name, tensor, top))
    if reply.made_by:
        click.echo(f"made by {reply.made_by} ({reply.why})")
    click.echo(f"path    {' > '.join(reply.path)}")
    for stage in reply.stages:
        click.echo(f"  {stage.tier:<10} {stage.stage:<12} {format_seconds(stage.seconds)}")
    over = "over links " if reply.made_by else ""
    click.echo(f"{over}sent {format_bytes(reply.bytes_up)}, received {format_bytes(reply.bytes_down)}")


def _ask_node(model: str, address: str, file: Path | None, text: tuple[str, ...]) -> Reply:
    """The answer of one model on one node, whatever server that is; bytes are those between it and this process."""
    from tierwise.measure import Reply, StageTime
    from tierwise.wire import InferenceClient

    with InferenceClient(address) as client:
        inputs = _inputs(file, text, client.model_metadata(model).inputs)
        answer = client.infer(model, inputs, parameters={"tierwise.account": True})
    stages = json.loads(str(answer.parameters.get("tierwise.stages", "[]")))
    path = json.loads(str(answer.parameters.get("tierwise.path", "[]")))
    times = tuple(StageTime(tier, stage, nanoseconds / 1e9) for tier, stage, nanoseconds in stages)
    return Reply(answer.outputs, times, answer.sent_bytes, answer.received_bytes, tuple(path))


def _ask_paths(paths_file: Path, file: Path | None, text: tuple[str, ...], deadline_s: float | None) -> Reply:
    from tierwise.runtime import AdaptivePipeline, load_paths

    spec = load_paths(paths_file)
    if spec.input is None:
        raise InputError("the paths must say what a request holds", where=paths_file, fix="Add a section [input]")
    inputs = _inputs(file, text, request_tensors(spec.input))
    with AdaptivePipeline(spec) as pipeline:
        return pipeline.infer(inputs, deadline_s)


def _inputs(file: Path | None, text: tuple[str, ...], wanted: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    return {PAYLOAD_INPUT: _text_payload(text)} if file is None else _file_inputs(file, wanted)


def _text_payload(text: tuple[str, ...]) -> npt.NDArray[Any]:
    payload = np.empty((1, len(text)), dtype=object)
    payload[0] = [part.encode() for part in text]
    return payload


def _file_inputs(file: Path, wanted: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        except (OSError, ValueError) as error:
            raise InputError(f"the file must be an .npz of plain arrays ({error})", where=file) from error
    payload = next((spec for spec in wanted if spec.name == PAYLOAD_INPUT), None)
    if payload is None:
        names = ", ".join(spec.name for spec in wanted)
        raise InputError(f"this model takes tensors ({names})", got=file.name, fix="Send them by name in an .npz")
    if payload.dtype == "BYTES":
        column = np.empty((1, 1), dtype=object)
        column[0, 0] = file.read_bytes()
        return {PAYLOAD_INPUT: column}
    return {PAYLOAD_INPUT: picture_pixels(file.read_bytes(), payload.shape[-1], file)[None]}


def _describe(name: str, tensor: npt.NDArray[Any], top: int) -> str:
    if tensor.ndim == 2 and tensor.shape[0] == 1 and np.issubdtype(tensor.dtype, np.number):
        best = np.argsort(-tensor[0])[:top]
        scores = ", ".join(f"{index}: {tensor[0, index]:.4g}" for index in best)
        return f"{name}    {scores}"
    return f"{name}    {tensor.dtype} {list(tensor.shape)} {tensor.ravel()[:8].tolist()}"
