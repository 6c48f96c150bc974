"""A browser, nodes with a small model in two parts, and consoles that watch them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tierwise.artifact import Artifact, Manifest, Provenance, Segment, TensorInput, TensorSpec, write_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """x -> h | h -> y, by two multiplications."""
    specs = [TensorSpec(name=name, dtype="FP32", shape=(-1, 4)) for name in "xhy"]
    parts, files = [], {}
    for i, (given, made) in enumerate(itertools.pairwise(specs)):
        infos = [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["n", 4]) for s in (given, made)]
        weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
        node = helper.make_node("MatMul", [given.name, "w"], [made.name])
        graph = helper.make_graph([node], "g", infos[:1], infos[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        parts.append(Segment(file=f"{i}.onnx", inputs=(given,), outputs=(made,), macs=16))
        files[f"{i}.onnx"] = model.SerializeToString()
    manifest = Manifest(
        name="m",
        input=TensorInput(tensors=(specs[0],)),
        outputs=(specs[-1],),
        segments=tuple(parts),
        files=(),
        provenance=Provenance(task="t", task_fingerprint="f", chain="identity", specs=(), versions={}),
    )
    return write_artifact(tmp_path_factory.mktemp("artifact") / "a", manifest, files)


@dataclass
class Started:
    """A process and what it said it listens on."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Starts ``tierwise`` commands that say where they listen; they end with the test."""
    folder = Path(tempfile.mkdtemp(prefix="tw-"))
    processes: list[subprocess.Popen[str]] = []

    def begin(*command: str) -> Started:
        process = subprocess.Popen(
            [sys.executable, "-m", "tierwise", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"ready on ([^,\s]+)|(http://\S+)", line)
        assert found, line
        return Started(process, found[1] or found[2])

    yield begin
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    shutil.rmtree(folder)


@pytest.fixture
def start_node(start: Callable[..., Started]) -> Callable[..., Started]:
    """Starts a node of a tier."""
    return lambda tier, listen="127.0.0.1:0": start("node", "--listen", listen, "--tier", tier, "--threads", "1")
