"""What a deployment leaves when a node is gone, is killed meanwhile, or answers wrongly."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tierwise._errors import InputError, RemoteError
from tierwise.measure import Silent
from tierwise.runtime import Rollout, is_serving, roll_out
from tierwise.study import (
    deploy_plan,
    find_deployment,
    plan_deployment,
    undeploy,
)
from tierwise.wire import InferenceClient

from .conftest import CUT, Node, tiers


@dataclass
class Killing:
    """A progress that kills a node when that many nodes are loaded."""

    node: Node
    after: int

    @contextlib.contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        def advance(n: int) -> None:
            self.after -= n
            if self.after == 0:
                self.node.process.send_signal(signal.SIGKILL)
                self.node.process.wait(10)

        yield advance if title.startswith("deploy") else lambda n: None

    def say(self, line: str) -> None:
        pass


def test_an_unreachable_node_stops_it_before_anything_is_loaded(study: Path, nodes: tuple[Node, Node]) -> None:
    nodes[0].process.kill()
    nodes[0].process.wait(10)
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address))
    with pytest.raises(RemoteError, match=f"tier mobile at {nodes[0].address}: a node must answer"):
        deploy_plan(plan, Silent())
    assert nodes[1].models() == []
    assert list((study / "deployments").glob("*.json")) == []


def test_a_node_killed_between_loads_leaves_the_others_as_they_were(
    study: Path, start_node: Callable[[str], Node]
) -> None:
    mobile, edge = start_node("mobile"), start_node("edge")
    served = deploy_plan(plan_deployment(study, CUT, tiers(mobile.address, edge.address)), Silent(), drain_s=0)
    lost = start_node("mobile")
    plan = plan_deployment(study, CUT, tiers(lost.address, edge.address), "new")
    with pytest.raises(RemoteError, match=f"tier mobile at {lost.address}"):
        deploy_plan(plan, Killing(lost, after=1), drain_s=0)
    assert edge.models() == [served.rollout.version]
    # The upper node killed after all have loaded: the golden input says so, and the lower one is as before.
    gone = start_node("edge")
    plan = plan_deployment(study, CUT, tiers(mobile.address, gone.address), "new")
    with pytest.raises(RemoteError, match=f"{mobile.address}.*{gone.address}"):
        deploy_plan(plan, Killing(gone, after=2), drain_s=0)
    assert mobile.models() == [CUT]
    assert [path.name for path in (study / "deployments").glob("*.json")] == [f"{CUT}.json"]
    mobile.ask(CUT, plan.golden)


def test_a_wrong_answer_is_not_switched_to(study: Path, nodes: tuple[Node, Node]) -> None:
    topology = tiers(nodes[0].address, nodes[1].address)
    served = deploy_plan(plan_deployment(study, CUT, topology), Silent(), drain_s=0)
    plan = plan_deployment(study, CUT, topology)
    with pytest.raises(RemoteError, match="golden answer must be the artifact's own"):
        deploy_plan(plan, Silent(), tolerance_frac=-1.0)
    assert nodes[0].models() == [CUT]
    assert nodes[1].models() == [served.rollout.version]
    assert is_serving(served.rollout)


@pytest.mark.parametrize("switched", [False, True])
def test_a_deployment_that_was_killed_is_cleaned_up_by_the_next(
    study: Path, nodes: tuple[Node, Node], switched: bool
) -> None:
    """What a killed process leaves: its pending record, and models on nodes."""
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address), "m")
    first = deploy_plan(plan, Silent(), drain_s=0)
    rollout = Rollout.of(plan.artifact, "m", [hop.placed for hop in plan.hops])
    if switched:
        roll_out(plan.artifact, rollout, lambda model: None)
    else:
        with InferenceClient(nodes[1].address) as client:
            client.load(rollout.version, b'{"segments": [1, 2]}', {
                name: (plan.artifact.path(name)).read_bytes() for name in ("manifest.json", "s0.onnx", "s1.onnx")
            })  # fmt: skip
    record = study / "deployments" / "m.json"
    record.with_name("m.pending.json").write_text(record.read_text().replace(first.rollout.version, rollout.version))
    undeploy(study, find_deployment(study, "m"), Silent())
    assert nodes[0].models() == nodes[1].models() == []
    assert list((study / "deployments").glob("*.json")) == []


def test_undeploying_without_a_node_keeps_the_record_until_forced(study: Path, nodes: tuple[Node, Node]) -> None:
    done = deploy_plan(plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address)), Silent(), drain_s=0)
    nodes[0].process.kill()
    nodes[0].process.wait(10)
    with pytest.raises(RemoteError, match="Try again when that node answers"):
        undeploy(study, done, Silent())
    assert nodes[1].models() == []
    undeploy(study, find_deployment(study, CUT), Silent(), force=True)
    with pytest.raises(InputError, match="deployed: nothing"):
        find_deployment(study, CUT)
