"""``tierwise tasks``."""

from __future__ import annotations

import click

from tierwise.tasks import task_names

__all__ = ["command"]

_ABOUT = {
    "digits": "scanned digits 8x8, raw pixels; ships with scikit-learn (the default)",
    "fashion-mnist": "clothes 28x28, raw pixels",
    "cifar10-jpeg": "CIFAR-10 as JPEG files, 32x32 RGB",
    "tiny-imagenet-20": "20 classes of Tiny ImageNet as JPEG files, 64x64 RGB",
    "sst2": "sentiment of film reviews, text",
    "mrpc": "whether two sentences say the same, pairs of texts (F1)",
}

_EPILOG = """\b
In a campaign file:
  [task]
  kind = "builtin"                     one of the names above
  name = "cifar10-jpeg"
  subject = { family = "resnet", depth = 20, width = 16 }
\b
  [task]
  kind = "module"                      your model, data and metric
  function = "my_package.deploy:task"  returns a tierwise.tasks.Task
\b
  [task]
  kind = "onnx"                        a model without its source
  file = "model.onnx"
\b
  [task]
  kind = "detection"                   boxes; docs/detection.md has YOLO folders, COCO files, ONNX
  data = { kind = "vehicles", name = "traffic-vehicles" }
  subject = { family = "fastestdet", start = "coco" }
"""

_DETECTION = {
    "traffic-vehicles": "frames of motorways, boxes of one class (kind detection)",
    "emergency-vehicles": "ambulances and other vehicles, boxes (kind detection)",
}


@click.command(epilog=_EPILOG)
def command() -> None:
    """List the built-in tasks and show how to bring your own."""
    about = {name: _ABOUT.get(name, "") for name in task_names()} | _DETECTION
    width = max(map(len, about))
    for name, text in about.items():
        click.echo(f"{name:<{width}}  {text}")
    click.echo(
        "\nData are read from the folder that TIERWISE_DATA names, or downloaded once and checked where a public source"
    )
    click.echo("offers the same files (fashion-mnist, sst2).")
