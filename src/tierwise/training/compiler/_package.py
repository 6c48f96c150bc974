"""A step as machine code, by AOTInductor."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch

from tierwise._errors import InputError, UnavailableError
from tierwise.artifact import PackagedStep
from tierwise.capture import quietly
from tierwise.training._processor import processor_name
from tierwise.training.compiler._channels_last import relay
from tierwise.training.compiler._split import Part

__all__ = ["can_package", "package"]

_FILE = "step.pt2"
# Counters of one element are taken for constants otherwise (pytorch issue 165444). Ours are inputs; this is the belt.
_CONFIG = {"joint_graph_constant_folding": False}


def can_package() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def package(part: Part, backend: Literal["aotinductor", "hybrid"]) -> tuple[PackagedStep, bytes]:
    """Compile ``part`` for this processor; takes from half a minute to minutes.

    Args:
        part: The step, or forward pass and step.
        backend: Which of these it is; kept in the result.

    Raises:
        UnavailableError: No C++ compiler.
        InputError: AOTInductor cannot compile the graph.
    """
    if not can_package():
        raise UnavailableError(
            "a packaged step needs a C++ compiler", got="none", where=f"--backend {backend}", fix="Install g++"
        )
    relaid = relay(part)
    examples = tuple(
        torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
        for node in relaid.graph.graph.nodes
        if node.op == "placeholder"
    )
    with tempfile.TemporaryDirectory(prefix="tierwise-package-") as folder:
        path = Path(folder) / _FILE
        try:
            with quietly(), torch.no_grad():
                program = torch.export.export(relaid.graph, examples)
                torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_CONFIG)
            content = path.read_bytes()
        except Exception as error:  # torch.export, Inductor and the C++ compiler raise many trees of their own
            raise InputError(
                f"the step must compile with AOTInductor ({str(error).strip().splitlines()[0][:300]})",
                where=f"--backend {backend}",
                fix="Use --backend onnxruntime",
            ) from error
    made = PackagedStep(
        file=_FILE,
        backend=backend,
        inputs=part.inputs,
        state=tuple(name.removeprefix("next.") for name in part.outputs[1:]),
        torch=str(torch.__version__),
        processor=processor_name(),
    )
    return made, content
