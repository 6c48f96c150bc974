"""``tierwise infer``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._units import format_bytes, format_seconds
from tierwise.artifact import PAYLOAD_INPUT

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise infer MODEL picture.jpg --node 127.0.0.1:8001
  tierwise infer MODEL --text "a fine film" --node 127.0.0.1:8001
  tierwise infer MODEL --text "one sentence" --text "another" --node 127.0.0.1:8001     (a pair)
  tierwise infer MODEL tensors.npz --node unix:/run/tierwise.sock                       (arrays by input name)
"""


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--node", "address", default="127.0.0.1:8001", show_default=True, help="HOST:PORT or unix:PATH.")
@click.option("--text", multiple=True, help="Text to send; twice for a model that takes pairs.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Largest scores to print.")
@click.option("--json", "as_json", is_flag=True, help="Print outputs, path and stages as JSON.")
def command(model: str, file: Path | None, address: str, text: tuple[str, ...], top: int, as_json: bool) -> None:
    """Send one item to MODEL on a node and print the answer, the tiers that made it and where the time went.

    FILE is a picture for models that take pictures (sent as it is, or as pixels where the model wants pixels), or an
    .npz with the model's input tensors by name.
    """
    from tierwise.wire import InferenceClient

    if (file is None) == (not text):
        raise InputError("either a FILE or --text must be given")
    with InferenceClient(address) as client:
        metadata = client.model_metadata(model)
        inputs = {PAYLOAD_INPUT: _text_payload(text)} if file is None else _file_inputs(file, metadata)
        answer = client.infer(model, inputs, parameters={"tierwise.account": True})
    stages = json.loads(str(answer.parameters.get("tierwise.stages", "[]")))
    path = json.loads(str(answer.parameters.get("tierwise.path", "[]")))
    if as_json:
        outputs = {name: tensor.tolist() for name, tensor in answer.outputs.items()}
        json.dump({"outputs": outputs, "path": path, "stages_ns": stages}, sys.stdout)
        click.echo()
        return
    for name, tensor in answer.outputs.items():
        click.echo(_describe(name, tensor, top))
    click.echo(f"path    {' > '.join(path)}")
    for tier, stage, nanoseconds in stages:
        click.echo(f"  {tier:<10} {stage:<12} {format_seconds(nanoseconds / 1e9)}")
    click.echo(f"sent {format_bytes(answer.sent_bytes)}, received {format_bytes(answer.received_bytes)}")


def _text_payload(text: tuple[str, ...]) -> npt.NDArray[Any]:
    payload = np.empty((1, len(text)), dtype=object)
    payload[0] = [part.encode() for part in text]
    return payload


def _file_inputs(file: Path, metadata: Any) -> dict[str, npt.NDArray[Any]]:
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        except (OSError, ValueError) as error:
            raise InputError(f"the file must be an .npz of plain arrays ({error})", where=file) from error
    payload = next((spec for spec in metadata.inputs if spec.name == PAYLOAD_INPUT), None)
    if payload is None:
        names = ", ".join(spec.name for spec in metadata.inputs)
        raise InputError(f"this model takes tensors ({names})", got=file.name, fix="Send them by name in an .npz")
    if payload.dtype == "BYTES":
        column = np.empty((1, 1), dtype=object)
        column[0, 0] = file.read_bytes()
        return {PAYLOAD_INPUT: column}
    return {PAYLOAD_INPUT: _pixels(file, payload.shape[-1])}


def _pixels(file: Path, channels: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"the file must be a picture ({error})", where=file) from error
    return pixels.reshape(1, *pixels.shape[:2], channels)


def _describe(name: str, tensor: npt.NDArray[Any], top: int) -> str:
    if tensor.ndim == 2 and tensor.shape[0] == 1 and np.issubdtype(tensor.dtype, np.number):
        best = np.argsort(-tensor[0])[:top]
        scores = ", ".join(f"{index}: {tensor[0, index]:.4g}" for index in best)
        return f"{name}    {scores}"
    return f"{name}    {tensor.dtype} {list(tensor.shape)} {tensor.ravel()[:8].tolist()}"
