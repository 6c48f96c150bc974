"""A strategy of a study on real nodes: deployed, replaced, taken back."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tierwise._errors import InputError, RemoteError, SpecError, StoreError, TamperedError
from tierwise.measure import Silent
from tierwise.study import (
    deploy_plan,
    find_deployment,
    plan_deployment,
    survey_nodes,
    undeploy,
)
from tierwise.study._golden import Golden, deviation_frac, expected_outputs
from tierwise.wire import InferenceClient

from .conftest import CUT, Node, make_study, tiers


def test_a_deployment_answers_as_the_artifact_and_is_taken_back(study: Path, nodes: tuple[Node, Node]) -> None:
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address))
    assert plan.seconds(survey_nodes(plan)) > 0
    done = deploy_plan(plan, Silent(), drain_s=0)
    assert done.deviation_frac is not None
    assert done.deviation_frac < 1e-6
    assert nodes[0].models() == [CUT]
    assert nodes[1].models() == [done.rollout.version]
    answer = nodes[0].ask(CUT, plan.golden)
    assert answer.parameters["tierwise.path"] == '["mobile","edge"]'
    np.testing.assert_allclose(answer.outputs["y"], expected_outputs(plan.artifact, plan.golden)["y"], rtol=1e-5)
    assert find_deployment(study, CUT) == done
    undeploy(study, done, Silent())
    assert nodes[0].models() == nodes[1].models() == []
    with pytest.raises(InputError, match="deployed: nothing"):
        find_deployment(study, CUT)


def test_replacing_never_leaves_the_name_unanswered(study: Path, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    topology = tiers(nodes[0].address, nodes[1].address)
    plan = plan_deployment(study, CUT, topology, "m")
    first = deploy_plan(plan, Silent(), drain_s=0)
    failures, asked, over = [], [], threading.Event()

    def client() -> None:
        with InferenceClient(nodes[0].address) as own:
            while not over.is_set():
                try:
                    asked.append(own.infer("m", plan.golden).outputs["y"])
                except RemoteError as error:
                    failures.append(error)

    asking = threading.Thread(target=client)
    asking.start()
    second = deploy_plan(plan, Silent(), drain_s=0.3)
    over.set()
    asking.join()
    assert failures == []
    assert len(asked) > 5
    assert second.rollout.version != first.rollout.version
    assert nodes[1].models() == [second.rollout.version]
    # Another study may not take the name over by accident.
    other = plan_deployment(make_study(tmp_path / "other", -1.0), CUT, topology, "m")
    with pytest.raises(StoreError, match="deployed otherwise"):
        deploy_plan(other, Silent(), drain_s=0)
    deploy_plan(other, Silent(), drain_s=0, replace=True)
    np.testing.assert_allclose(nodes[0].ask("m", plan.golden).outputs["y"], -asked[0], rtol=1e-5)
    # Taking the first one back leaves the name to the second, which owns it now.
    undeploy(study, find_deployment(study, "m"), Silent())
    assert nodes[0].models() == ["m"]
    assert len(nodes[1].models()) == 1


def test_what_cannot_be_deployed_is_said_before_a_node_is_asked(study: Path) -> None:
    with pytest.raises(InputError, match=r"must have the strategy, but got 'sptq@edge' \(it has partition@mobile"):
        plan_deployment(study, "sptq@edge", tiers("h:1", "h:2"))
    with pytest.raises(SpecError, match=r"tier 'edge' runs a segment .* address must be known"):
        plan_deployment(study, CUT, tiers("h:1", None))
    with pytest.raises(SpecError, match="a node of its own"):
        plan_deployment(study, CUT, tiers("h:1", "h:1"))
    with pytest.raises(SpecError, match="no 'edge'"):
        plan_deployment(study, CUT, tiers("h:1"))
    (study / "artifacts" / "m" / "s1.onnx").write_bytes(b"other")
    with pytest.raises(TamperedError, match=r"s1\.onnx"):
        plan_deployment(study, CUT, tiers("h:1", "h:2"))


def test_answers_are_compared_by_their_range() -> None:
    wanted = {"y": np.array([[0.0, 10.0]], np.float32)}
    assert deviation_frac(wanted, {"y": np.array([[0.1, 10.0]], np.float32)}, "n") == pytest.approx(0.01, rel=1e-4)
    for wrong, said in [
        ({}, "must hold the output 'y'"),
        ({"y": np.zeros((1, 3), np.float32)}, r"must be float32 \[1, 2\], but got float32 \[1, 3\]"),
        ({"y": np.array([[np.nan, 1]], np.float32)}, "finite"),
    ]:
        with pytest.raises(RemoteError, match=said):
            deviation_frac(wanted, wrong, "n")
    texts = {"payload": np.array([[b"a", b"bc"]], dtype=object)}
    np.testing.assert_array_equal(Golden.of(texts).tensors()["payload"], texts["payload"])
