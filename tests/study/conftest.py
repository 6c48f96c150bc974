"""A study that was prepared but not measured, nodes as processes of their own, and what joins them."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tierwise.artifact import Accuracy, Artifact, ImageInput, Manifest, Provenance, Segment, TensorSpec, write_artifact
from tierwise.study import (
    Campaign,
    Strategy,
    StrategySpec,
)
from tierwise.study._golden import Golden, made_up
from tierwise.study._store import Store
from tierwise.study._stored import StoredTask, StoredVariant
from tierwise.tasks import BuiltinTask
from tierwise.topology import Link, Scaling, Tier, Topology
from tierwise.wire import Inference, InferenceClient

CUT, WHOLE = "partition@mobile|edge", "identity@mobile"
ENCODING = ImageInput(encoding="uint8", height=4, width=4, channels=1, mean=(0.0,), std=(1.0,), tensor="x")


def fp32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="FP32", shape=(-1, *shape))


def part(given: TensorSpec, made: TensorSpec, nodes: list[Any], **weights: Any) -> bytes:
    infos = [
        helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["n" if a < 0 else a for a in s.shape])
        for s in (given, made)
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiers(*addresses: str | None) -> Topology:
    names = ("mobile", "edge")[: len(addresses)]
    made = tuple(
        Tier(name=name, cpus=1.0, memory_bytes=10**9, address=a) for name, a in zip(names, addresses, strict=True)
    )
    links = (Link(lower="mobile", upper="edge", up_bps=1e8, down_bps=1e8, rtt_s=0.001),) if len(made) > 1 else ()
    return Topology(name="t", tiers=made, links=links)


def built(directory: Path, scale: float) -> dict[str, Artifact]:
    """One model, in two segments ("m") and in one ("w")."""
    node, x, h, y = helper.make_node, fp32("x", 1, 4, 4), fp32("h", 16), fp32("y", 3)
    weights = np.random.default_rng(3).normal(size=(16, 3)).astype(np.float32) * np.float32(scale)
    flatten, multiply = node("Flatten", ["x"], ["h"]), node("MatMul", ["h", "w"], ["y"])
    cut = Manifest(
        name="m",
        input=ENCODING,
        outputs=(y,),
        segments=(
            Segment(file="s0.onnx", inputs=(x,), outputs=(h,), macs=1),
            Segment(file="s1.onnx", inputs=(h,), outputs=(y,), macs=48),
        ),
        files=(),
        provenance=Provenance(task="t", task_fingerprint="f", chain="partition", specs=(), versions={}),
        accuracy=(Accuracy(metric="accuracy", value=0.5, split="test", items=2),),
    )
    whole = msgspec.structs.replace(cut, segments=(Segment(file="s.onnx", inputs=(x,), outputs=(y,), macs=48),))
    parts = {"s0.onnx": part(x, h, [flatten]), "s1.onnx": part(h, y, [multiply], w=weights)}
    return {
        "m": write_artifact(directory / "m", cut, parts),
        "w": write_artifact(directory / "w", whole, {"s.onnx": part(x, y, [flatten, multiply], w=weights)}),
    }


def strategies() -> dict[str, Strategy]:
    """The model cut over both tiers, and whole on the lower one."""
    cut = Strategy(
        id=CUT,
        name="partition",
        chain="partition",
        placement="mobile|edge",
        segments=("mobile", "edge"),
        path=("mobile", "edge"),
        variant="m",
    )
    whole = dataclasses.replace(
        cut, id=WHOLE, name="identity", placement="mobile", segments=("mobile",), path=("mobile",), variant="w"
    )
    return {CUT: cut, WHOLE: whole}


def make_study(directory: Path, scale: float = 1.0) -> Path:
    """A study that was prepared but not measured: one model in two segments, on two tiers and on one."""
    stored = {
        key: StoredVariant(
            key=key,
            manifest=artifact.manifest,
            digest=artifact.digest,
            directory=f"artifacts/{key}",
            artifact_bytes=artifact.nbytes,
            local_predictions=(),
        )
        for key, artifact in built(directory / "artifacts", scale).items()
    }
    topology = tiers(None, None)
    campaign = Campaign(
        name="c", task=BuiltinTask(name="digits"), topology=topology, strategies=(StrategySpec(chain="partition"),)
    )
    with contextlib.closing(Store(directory, create=True)) as store, store.transaction():
        for name, fact in (
            ("campaign", campaign),
            ("topology", topology),
            ("fitted", topology),
            ("scaling", Scaling(factor=1.0, wanted_cpus=1.0, machine_cpus=1.0)),
            ("campaign_toml", ""),
            ("tierwise_version", "0"),
            ("task", StoredTask(name="t", fingerprint="f", metric="accuracy", test_items=1, load_items=1)),
            ("golden", Golden.of(made_up(ENCODING))),
        ):
            store.set_fact(name, fact)
        store.put_all("variants", stored)
        store.put_all("strategies", strategies())
    return directory


@dataclass
class Node:
    process: subprocess.Popen[str]
    address: str

    def models(self) -> list[str]:
        with InferenceClient(self.address) as client:
            return sorted(status.name for status in client.index() if status.name != "tierwise.probe")

    def ask(self, name: str, golden: dict[str, Any]) -> Inference:
        with InferenceClient(self.address) as client:
            return client.infer(name, golden)


@pytest.fixture
def start_node(
    running_nodes: Callable[[], AbstractContextManager[Callable[[str], Any]]],
) -> Iterator[Callable[[str], Node]]:
    with running_nodes() as started:

        def start(tier: str) -> Node:
            node = started(tier)
            return Node(node.process, node.tcp)

        yield start


@pytest.fixture
def nodes(start_node: Callable[[str], Node]) -> tuple[Node, Node]:
    return start_node("mobile"), start_node("edge")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")
