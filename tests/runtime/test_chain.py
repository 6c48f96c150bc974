"""Artifacts over several nodes: deployed, asked through the pipeline, broken."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tierwise._errors import RemoteError, SpecError
from tierwise.artifact import Artifact, TensorInput, open_artifact, read_files
from tierwise.measure import STAGES
from tierwise.runtime import CLIENT, PROBE, Pipeline, PipelineSUT, Placed, Share, deploy, undeploy
from tierwise.wire import InferenceClient, status_of

Inputs = dict[str, Any]
Start = Callable[..., Any]
TIERS = ("mobile", "edge", "cloud")


@pytest.fixture(scope="module")
def nodes(start_node: Start) -> list[Any]:
    return [start_node(tier) for tier in TIERS]


def placed(nodes: list[Any], ranges: list[tuple[int, int]]) -> list[Placed]:
    """Pushed over the sockets, asked over TCP."""
    ways = [node.tcp for node in nodes[1 : len(ranges)]] + [None]
    return [
        Placed(control=node.unix, share=Share(segments=segments, forward=way))
        for node, segments, way in zip(nodes, ranges, ways, strict=False)
    ]


CHAINS = {
    "all on the device": [(0, 3)],
    "forwarded once": [(0, 0), (0, 3)],
    "forwarded twice": [(0, 0), (0, 0), (0, 3)],
    "head | tail": [(0, 1), (1, 3)],
    "head | pass | tail": [(0, 2), (2, 2), (2, 3)],
    "pass | head | tail": [(0, 0), (0, 1), (1, 3)],
    "head | middle | tail": [(0, 1), (1, 2), (2, 3)],
}


@pytest.mark.parametrize("chain_name", CHAINS)
def test_every_chain_gives_the_numbers_of_the_runtime_itself(
    nodes: list[Any], chain: Artifact, inputs: Inputs, directly: Callable[..., Any], chain_name: str
) -> None:
    ranges = CHAINS[chain_name]
    placement = placed(nodes, ranges)
    deploy(chain, "chain", placement)
    with Pipeline(nodes[0].unix, "chain", chain.manifest.input) as pipeline:
        started_s = time.perf_counter()
        reply = pipeline.infer(inputs)
        latency_s = time.perf_counter() - started_s
    np.testing.assert_allclose(reply.outputs["y"], directly(chain, inputs), atol=1e-6)
    assert reply.path == TIERS[: len(ranges)]
    assert 0 < sum(stage.seconds for stage in reply.stages) <= latency_s
    assert {stage.stage for stage in reply.stages} <= set(STAGES)
    seen = {(stage.tier, stage.stage) for stage in reply.stages}
    names = {"head | middle | tail": ["head", "middle", "tail"], "head | tail": ["head", "tail"]}.get(chain_name, [])
    assert {(tier, stage) for tier, stage in zip(TIERS, names, strict=False)} <= seen
    assert {(CLIENT, "encode"), (CLIENT, "local"), (CLIENT, "decode")} <= seen
    for lower in TIERS[: len(ranges) - 1]:
        assert {(lower, "encode"), (lower, "uplink"), (lower, "downlink"), (lower, "decode")} <= seen
    if len(ranges) == 1:
        assert reply.bytes_up == reply.bytes_down == 0
    else:
        # Each hop carries at least the batch's rows (x or h or g, and bias) up and y down.
        hops = len(ranges) - 1
        assert hops * 2 * 4 * 7 < reply.bytes_up < hops * 1000
        assert hops * 2 * 4 * 3 < reply.bytes_down < hops * 3000
    undeploy("chain", placement)
    for node in nodes:
        with InferenceClient(node.unix) as client:
            assert not client.model_ready("chain")


def test_bytes_are_those_of_the_messages(nodes: list[Any], chain: Artifact, inputs: Inputs) -> None:
    deploy(chain, "bytes", placed(nodes, [(0, 0), (0, 3)]))
    with Pipeline(nodes[0].unix, "bytes", chain.manifest.input) as pipeline, InferenceClient(nodes[1].tcp) as upper:
        reply = pipeline.infer(inputs)
        assert reply.bytes_up == upper.infer("bytes", inputs, parameters={"tierwise.account": True}).sent_bytes


@pytest.mark.emulation
def test_stages_explain_the_latency(nodes: list[Any]) -> None:
    """Of 10 ms of work at least 90 % is accounted for; the rest is code between the stamps."""
    explained = []
    with Pipeline(nodes[0].unix, PROBE, TensorInput(tensors=())) as pipeline:
        pipeline.infer({"work": np.array([1])})
        for _ in range(5):
            started_s = time.perf_counter()
            reply = pipeline.infer({"work": np.array([10])})
            latency_s = time.perf_counter() - started_s
            explained.append(sum(stage.seconds for stage in reply.stages) / latency_s)
    assert max(explained) <= 1
    assert sorted(explained)[2] >= 0.9


def test_the_pipeline_is_a_system_under_test(nodes: list[Any], chain: Artifact, inputs: Inputs) -> None:
    deploy(chain, "sut", placed(nodes, [(0, 3)]))
    with Pipeline(nodes[0].tcp, "sut", chain.manifest.input) as pipeline:
        system = PipelineSUT(
            "identity@mobile", pipeline, lambda sample: {k: v[sample : sample + 1] for k, v in inputs.items()}
        )
        assert system.name == "identity@mobile"
        both = pipeline.infer(inputs).outputs["y"]
        np.testing.assert_allclose(system.issue(1).outputs["y"], both[1:], atol=1e-6)


def test_figures_of_loading_can_be_read(nodes: list[Any], chain: Artifact, inputs: Inputs) -> None:
    deploy(chain, "cold", placed(nodes, [(0, 1), (1, 3)]))
    with InferenceClient(nodes[0].unix) as lower, InferenceClient(nodes[1].unix) as upper:
        told = lower.model_metadata("cold").properties
        assert float(told["tierwise.load_s"]) > 0
        assert told["tierwise.segments"] == "0:1 of 3"
        assert told["tierwise.forward"] == f"{nodes[1].tcp} cold"
        assert told["tierwise.digest"] == chain.digest
        assert told["tierwise.threads"] == "1"
        assert "tierwise.first_run_s" not in told
        lower.infer("cold", inputs)
        assert float(upper.model_metadata("cold").properties["tierwise.first_run_s"]) > 0
        # What the upper node takes is what crosses the cut.
        assert [spec.name for spec in upper.model_metadata("cold").inputs] == ["h", "bias"]


def test_another_name_on_the_upper_node(nodes: list[Any], chain: Artifact, inputs: Inputs) -> None:
    lower = Share(segments=(0, 1), forward=nodes[1].tcp, forward_model="theirs")
    placement = [
        Placed(control=nodes[0].unix, share=lower),
        Placed(control=nodes[1].unix, share=Share(segments=(1, 3))),
    ]
    deploy(chain, "ours", placement)
    with InferenceClient(nodes[0].unix) as client, InferenceClient(nodes[1].unix) as upper:
        assert client.infer("ours", inputs).outputs["y"].shape == (2, 3)
        assert upper.model_ready("theirs")
        assert not upper.model_ready("ours")
        # An error of the upper node arrives with its tier, its address and its status.
        upper.unload("theirs")
        with pytest.raises(
            RemoteError, match=f"tier mobile: {nodes[1].tcp}: .*NOT_FOUND: tier edge: .*'theirs'"
        ) as caught:
            client.infer("ours", inputs)
        assert status_of(caught.value) is grpc.StatusCode.NOT_FOUND


def test_wrong_chains_are_named(chain: Artifact, nodes: list[Any]) -> None:
    cases = [
        ([(0, 1), (2, 3)], r"placement\[1\]: the share must begin at segment 1, but got \[2, 3\)"),
        ([(0, 1), (1, 2)], r"the shares must cover all 3 segments, but got 2"),
        ([(1, 3)], r"placement\[0\]: the share must begin at segment 0"),
    ]
    for ranges, text in cases:
        with pytest.raises(SpecError, match=text):
            deploy(chain, "wrong", placed(nodes, ranges))
    lonely = [Placed(control=nodes[0].unix, share=Share(segments=(0, 3), forward="h:1"))]
    with pytest.raises(SpecError, match="every share but the last must forward, but got 'h:1'"):
        deploy(chain, "wrong", lonely)


def test_a_failed_deployment_is_rolled_back(nodes: list[Any], chain: Artifact, tmp_path: Path) -> None:
    placement = placed(nodes, [(0, 1), (1, 2), (2, 3)])
    placement[0] = Placed(control=f"unix:{tmp_path}/nobody", share=placement[0].share)
    with pytest.raises(RemoteError, match=r"nobody: .*UNAVAILABLE"):
        deploy(chain, "half", placement)
    for node in nodes:
        with InferenceClient(node.unix) as client:
            assert not client.model_ready("half")
    with pytest.raises(RemoteError, match="nobody"):
        undeploy("half", placement)


def test_a_killed_upper_node_is_named_and_the_lower_lives_on(
    start_node: Start, chain: Artifact, inputs: Inputs
) -> None:
    lower, upper = start_node("mobile"), start_node("cloud")
    deploy(chain, "chain", placed([lower, upper], [(0, 1), (1, 3)]))
    with InferenceClient(lower.unix) as client:
        client.infer("chain", inputs)
        upper.process.kill()
        upper.process.wait(10)
        with pytest.raises(RemoteError, match=f"{lower.unix}: .*tier mobile: {upper.tcp}: .*UNAVAILABLE") as caught:
            client.infer("chain", inputs)
        assert status_of(caught.value) is grpc.StatusCode.UNAVAILABLE
        assert client.live()
        client.load("whole", None, read_files(open_artifact(chain.directory)))
        assert client.infer("whole", inputs).outputs["y"].shape == (2, 3)
