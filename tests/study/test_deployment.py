"""A strategy of a study on real nodes: deployed, replaced, taken back, and everything that may go wrong between."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tierwise._errors import InputError, RemoteError, SpecError, StoreError, TamperedError
from tierwise.artifact import Accuracy, ImageInput, Manifest, Provenance, Segment, TensorSpec, write_artifact
from tierwise.measure import Silent
from tierwise.runtime import Rollout, is_serving, load_paths, roll_out
from tierwise.study import (
    Campaign,
    Strategy,
    StrategySpec,
    client_calls,
    deploy_plan,
    find_deployment,
    plan_deployment,
    survey_nodes,
    undeploy,
)
from tierwise.study._golden import Golden, deviation_frac, expected_outputs, made_up
from tierwise.study._store import Store
from tierwise.study._stored import StoredTask, StoredVariant
from tierwise.tasks import BuiltinTask
from tierwise.topology import Link, Scaling, Tier, Topology
from tierwise.wire import InferenceClient

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


def make_study(directory: Path, scale: float = 1.0) -> Path:
    """A study that was prepared but not measured: one model in two segments, on two tiers and on one."""
    node, x, h, y = helper.make_node, fp32("x", 1, 4, 4), fp32("h", 16), fp32("y", 3)
    weights = np.random.default_rng(3).normal(size=(16, 3)).astype(np.float32) * np.float32(scale)
    parts = {
        "s0.onnx": part(x, h, [node("Flatten", ["x"], ["h"])]),
        "s1.onnx": part(h, y, [node("MatMul", ["h", "w"], ["y"])], w=weights),
    }
    manifest = Manifest(
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
    artifact = write_artifact(directory / "artifacts" / "m", manifest, dict(parts))
    topology = tiers(None, None)
    campaign = Campaign(
        name="c", task=BuiltinTask(name="digits"), topology=topology, strategies=(StrategySpec(chain="partition"),)
    )
    nodes = [node("Flatten", ["x"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    one = msgspec.structs.replace(manifest, segments=(Segment(file="s.onnx", inputs=(x,), outputs=(y,), macs=48),))
    uncut = write_artifact(directory / "artifacts" / "w", one, {"s.onnx": part(x, y, nodes, w=weights)})
    topology = tiers(None, None)
    campaign = Campaign(
        name="c", task=BuiltinTask(name="digits"), topology=topology, strategies=(StrategySpec(chain="partition"),)
    )
    stored = {
        key: StoredVariant(
            key=key,
            manifest=built.manifest,
            digest=built.digest,
            directory=f"artifacts/{key}",
            artifact_bytes=built.nbytes,
            local_predictions=(),
        )
        for key, built in (("m", artifact), ("w", uncut))
    }
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
        store.put_all("strategies", {CUT: cut, WHOLE: whole})
    return directory


@dataclass
class Node:
    process: subprocess.Popen[str]
    address: str

    def models(self) -> list[str]:
        with InferenceClient(self.address) as client:
            return sorted(status.name for status in client.index() if status.name != "tierwise.probe")


@pytest.fixture
def start_node() -> Iterator[Callable[[str], Node]]:
    folder = Path(tempfile.mkdtemp(prefix="tw-"))
    started: list[subprocess.Popen[str]] = []

    def start(tier: str) -> Node:
        command = [sys.executable, "-m", "tierwise", "node", "--listen", "127.0.0.1:0", "--tier", tier]
        process = subprocess.Popen(
            [*command, "--threads", "1"], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)}
        )
        started.append(process)
        assert process.stdout is not None
        return Node(process, process.stdout.readline().strip().split(" ready on ")[1])

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(start_node: Callable[[str], Node]) -> tuple[Node, Node]:
    return start_node("mobile"), start_node("edge")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")


def ask(node: Node, name: str, golden: dict[str, Any]) -> Any:
    with InferenceClient(node.address) as client:
        return client.infer(name, golden)


def test_a_deployment_answers_as_the_artifact_and_is_taken_back(study: Path, nodes: tuple[Node, Node]) -> None:
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address))
    assert plan.seconds(survey_nodes(plan)) > 0
    done = deploy_plan(plan, Silent(), drain_s=0)
    assert done.deviation_frac is not None
    assert done.deviation_frac < 1e-6
    assert nodes[0].models() == [CUT]
    assert nodes[1].models() == [done.rollout.version]
    answer = ask(nodes[0], CUT, plan.golden)
    assert answer.parameters["tierwise.path"] == '["mobile","edge"]'
    np.testing.assert_allclose(answer.outputs["y"], expected_outputs(plan.artifact, plan.golden)["y"], rtol=1e-5)
    assert find_deployment(study, CUT) == done
    undeploy(study, done, Silent())
    assert nodes[0].models() == nodes[1].models() == []
    with pytest.raises(InputError, match="deployed: nothing"):
        find_deployment(study, CUT)


def test_the_printed_program_works(study: Path, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="the program uses tritonclient")
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address), "digits")
    deploy_plan(plan, Silent(), drain_s=0)
    Image.fromarray(plan.golden["payload"][0, :, :, 0]).save(tmp_path / "picture.png")
    command, program = client_calls(plan)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = [float(word) for word in done.stdout.replace("[", " ").replace("]", " ").split()]
    np.testing.assert_allclose(printed, expected_outputs(plan.artifact, plan.golden)["y"][0], rtol=1e-4)
    words = [sys.executable, "-m", *command.split()]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0


def test_the_command_line_shows_deploys_and_takes_back(study: Path, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    toml = tmp_path / "t.toml"
    text = 'name = "t"\n'
    for tier, node in zip(("mobile", "edge"), nodes, strict=True):
        text += f'[[tiers]]\nname = "{tier}"\ncpus = 1.0\nmemory_bytes = 1000000000\naddress = "{node.address}"\n'
    toml.write_text(text + '[[links]]\nlower = "mobile"\nupper = "edge"\nup_bps = 1e8\ndown_bps = 1e8\nrtt_s = 0.001\n')

    def tierwise(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tierwise", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    shown = tierwise("deploy", "study", CUT, "--topology", str(toml), "--name", "m", "--dry-run").stdout
    for words in ["runs segment 0, forwards to", "runs segment 1", "the name is free", "estimated time"]:
        assert words in shown
    assert nodes[0].models() == nodes[1].models() == []
    done = tierwise("deploy", "study", CUT, "--topology", str(toml), "--name", "m")
    assert done.returncode == 0, done.stderr
    assert f"tierwise infer m picture.png --node {nodes[0].address}" in done.stdout
    assert nodes[0].models() == ["m"]
    assert tierwise("undeploy", "m").stdout.startswith("m was taken off mobile (")
    assert nodes[0].models() == nodes[1].models() == []
    again = tierwise("undeploy", "study", "m")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    nodes[1].process.kill()
    nodes[1].process.wait(10)
    failed = tierwise("deploy", "study", CUT, "--topology", str(toml))
    assert failed.returncode == 5
    assert f"tier edge at {nodes[1].address}" in failed.stderr.splitlines()[-1]
    assert nodes[0].models() == []


def test_several_strategies_become_paths_that_infer_chooses_from(
    study: Path, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    toml = tmp_path / "t.toml"
    text = 'name = "t"\n'
    for tier, node in zip(("mobile", "edge"), nodes, strict=True):
        text += f'[[tiers]]\nname = "{tier}"\ncpus = 1.0\nmemory_bytes = 1000000000\naddress = "{node.address}"\n'
    toml.write_text(text + '[[links]]\nlower = "mobile"\nupper = "edge"\nup_bps = 1e8\ndown_bps = 1e8\nrtt_s = 0.001\n')

    def tierwise(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tierwise", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    done = tierwise("deploy", "study", CUT, WHOLE, "--topology", str(toml), "--paths-out", "paths.toml")
    assert done.returncode == 0, done.stderr
    assert "tierwise infer --paths paths.toml" in done.stdout
    paths = load_paths(tmp_path / "paths.toml")
    assert [(path.name, path.link, path.probe) for path in paths.paths] == [
        (CUT, "mobile to edge", nodes[1].address),
        (WHOLE, None, None),
    ]
    assert paths.input == ENCODING
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "picture.png")
    asked = tierwise("infer", "--paths", "paths.toml", "picture.png")
    assert f"made by {CUT} (chosen)\npath    mobile > edge\n" in asked.stdout, asked.stderr
    nodes[1].process.kill()
    nodes[1].process.wait(10)
    asked = tierwise("infer", "--paths", "paths.toml", "picture.png", "--json")
    told = json.loads(asked.stdout)
    assert (told["made_by"], told["why"], told["path"]) == (WHOLE, "fallback: failed (UNAVAILABLE)", ["mobile"])
    for words, said in [
        (("deploy", "study", CUT, WHOLE, "--topology", str(toml), "--name", "m"), "one strategy can be given a --name"),
        (("deploy", "study", CUT, CUT, "--topology", str(toml)), "named once"),
        (("deploy", "study", CUT, "--topology", str(toml), "--paths-out", "no/p.toml"), "no: the folder must exist"),
        (("infer", "m", "picture.png", "--paths", "paths.toml"), "no MODEL is named"),
        (("infer", "m", "picture.png", "--deadline", "1"), "--deadline needs --paths"),
    ]:
        refused = tierwise(*words)
        assert refused.returncode == 2
        assert said in refused.stderr


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
    np.testing.assert_allclose(ask(nodes[0], "m", plan.golden).outputs["y"], -asked[0], rtol=1e-5)
    # Taking the first one back leaves the name to the second, which owns it now.
    undeploy(study, find_deployment(study, "m"), Silent())
    assert nodes[0].models() == ["m"]
    assert len(nodes[1].models()) == 1


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
    ask(mobile, CUT, plan.golden)


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
