"""What the fault benchmarks share: small networks whose answers differ, and node processes that can be killed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper

from tierwise.artifact import Artifact, Manifest, Provenance, Segment, TensorInput, TensorSpec, write_artifact

__all__ = ["RESULTS", "Node", "Usage", "given", "variant"]

RESULTS: Final = Path(__file__).resolve().parents[2] / "docs" / "results"


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="FP32", shape=(-1, *shape))


def network_part(given: TensorSpec, made: TensorSpec, nodes: list[Any], weights: dict[str, Any]) -> bytes:
    infos = [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["n", *s.shape[1:]]) for s in (given, made)]
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def variant(folder: Path, name: str, channels: int, seed: int, *, cut: bool) -> Artifact:
    """Conv 8x8 / 8, relu | mean, linear: one segment or two."""
    rng = np.random.default_rng(seed)
    x, h, y = spec("x", 3, 64, 64), spec("h", channels, 8, 8), spec("y", 10)
    first = [helper.make_node("Conv", ["x", "k"], ["c"], strides=[8, 8]), helper.make_node("Relu", ["c"], ["h"])]
    second = [
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    k, w = {"k": rng.normal(size=(channels, 3, 8, 8))}, {"w": rng.normal(size=(channels, 10))}
    parts = [(x, h, first, k), (h, y, second, w)] if cut else [(x, y, first + second, k | w)]
    files = {f"{i}.onnx": network_part(*part) for i, part in enumerate(parts)}
    segments = tuple(
        Segment(file=f"{i}.onnx", inputs=(given,), outputs=(made,), macs=0)
        for i, (given, made, _, _) in enumerate(parts)
    )
    provenance = Provenance(task="", task_fingerprint="", chain="identity", specs=(), versions={})
    manifest = Manifest(
        name=name, input=TensorInput(tensors=(x,)), outputs=(y,), segments=segments, files=(), provenance=provenance
    )
    return write_artifact(folder / name, manifest, files)


def given(count: int) -> list[dict[str, Any]]:
    """Inputs of `variant`'s networks."""
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 3, 64, 64)).astype(np.float32)} for _ in range(count)]


@dataclass
class Node:
    """A node process that can be killed and started again on the same ports; its log lies in its folder.

    Attributes:
        folder: Where its sockets and its repository lie.
        tier: Its name.
        listen_host: Host that it listens on.
        prefix: What starts a process where the node shall stand.
        rest: Whether it speaks REST too.
    """

    folder: Path
    tier: str
    listen_host: str = "127.0.0.1"
    prefix: Sequence[str] = ()
    rest: bool = False
    process: subprocess.Popen[str] | None = None
    _ports: dict[str, str] = field(default_factory=dict)

    @property
    def unix(self) -> str:
        """Its socket."""
        return f"unix:{self.folder}/{self.tier}.sock"

    @property
    def tcp(self) -> str:
        """Its gRPC address."""
        return f"{self.listen_host}:{self._ports['tcp']}"

    @property
    def rest_address(self) -> str:
        """Its REST address, host and port."""
        return f"{self.listen_host}:{self._ports['rest']}"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, on the ports it had; returns when it serves."""
        words = ["node", "--listen", f"{self.listen_host}:{self._ports.get('tcp', '0')}", "--listen", self.unix]
        words += ["--rest", f"{self.listen_host}:{self._ports.get('rest', '0')}"] if self.rest else []
        words += ["--tier", self.tier, "--threads", "1", "--repository", str(self.folder / f"{self.tier}-models")]
        command = [*self.prefix, sys.executable, "-m", "tierwise", *words]
        with (self.folder / f"{self.tier}.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " ready on " not in line:
            raise SystemExit(f"{self.tier} did not start: {(self.folder / f'{self.tier}.log').read_text()[-2000:]}")
        self._ports["tcp"] = line.split(" ready on ")[1].split(",")[0].rpartition(":")[2].strip()
        if found := re.search(r"http://\S+:(\d+)", line):
            self._ports["rest"] = found[1]

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass(frozen=True)
class Usage:
    """What a process holds.

    Attributes:
        rss_bytes: Resident memory.
        files: Open files and sockets.
        threads: Threads.
    """

    rss_bytes: int
    files: int
    threads: int

    @staticmethod
    def of(pid: int) -> Usage:
        """Of a process, now."""
        process = psutil.Process(pid)
        with process.oneshot():
            return Usage(process.memory_info().rss, len(list(Path(f"/proc/{pid}/fd").iterdir())), process.num_threads())
