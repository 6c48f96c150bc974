"""An adaptive pipeline over real nodes and a link that is stopped, killed, slow."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from tierwise._errors import ArtifactError, InputError, RemoteError, SpecError
from tierwise.artifact import Artifact, TensorInput, read_files
from tierwise.measure import Reply
from tierwise.runtime import (
    AdaptivePipeline,
    BreakerSpec,
    Executor,
    Paths,
    PathSpec,
    PipelineSUT,
    Placed,
    Share,
    deploy,
    load_paths,
)
from tierwise.testbed import ProxyMeans, Spawner
from tierwise.topology import Link, Tier, Topology
from tierwise.wire import InferenceClient

from .conftest import BIAS, H, X, Y, chain_parts, make_artifact

Inputs = dict[str, Any]
QUICK = BreakerSpec(failures=2, first_wait_s=0.05, longest_wait_s=0.2)


def until(condition: Callable[[], bool], what: str, patience_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.01)


@dataclass
class Site:
    """A device with two variants, a node above, and the link between."""

    device: str
    above: Any
    reached: str
    local: Artifact
    split: Artifact
    offload: Artifact

    def paths(self, *names: str, **changes: Any) -> Paths:
        known = {
            "offload": PathSpec(
                name="offload", accuracy_frac=0.9, node=self.reached, model="offload", link="up", over_link=True
            ),
            "split": PathSpec(
                name="split", accuracy_frac=0.8, node=self.device, model="split", link="up", probe=self.reached
            ),
            "local": PathSpec(name="local", accuracy_frac=0.7, node=self.device, model="local"),
        }
        settings = {"breaker": QUICK, "dwell_s": 0.05, "deadline_s": 2.0} | changes
        return Paths(paths=tuple(known[name] for name in names or known), **settings)

    def right(self, reply: Reply, inputs: Inputs) -> bool:
        artifact = {"local": self.local, "split": self.split, "offload": self.offload}[reply.made_by]
        return np.allclose(reply.outputs["y"], Executor(artifact, threads=1).run(inputs)["y"], atol=1e-5)

    def signal(self, number: int) -> None:
        """To the process that carries the link."""
        for child in psutil.Process().children():
            if "tierwise.testbed._proxy" in " ".join(child.cmdline()):
                child.send_signal(number)

    def serve_above(self) -> None:
        for name, artifact, share in (
            ("offload", self.offload, Share()),
            ("split", self.split, Share(segments=(1, 3))),
        ):
            with InferenceClient(self.above.unix) as client:
                client.load(name, msgspec.json.encode(share), read_files(artifact))


@pytest.fixture(scope="module")
def site(
    start_node: Callable[..., Any], chain: Artifact, other_chain: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    third = make_artifact(folder / "third", chain_parts(0.5), TensorInput(tensors=(X, BIAS)), (Y,))
    device, above = start_node("device"), start_node("above")
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in ("device", "above"))
    link = Link(lower="device", upper="above", up_bps=50e6, down_bps=50e6, rtt_s=0.004)
    with (
        Spawner(folder) as spawner,
        ProxyMeans().network(Topology(name="t", tiers=tiers, links=(link,)), spawner) as network,
    ):
        reached = network.address("device", "above", int(above.tcp.rpartition(":")[2]))
        made = Site(device.unix, above, reached, local=other_chain, split=chain, offload=third)
        deploy(other_chain, "local", [Placed(control=device.unix, share=Share())])
        cut = [
            Placed(control=device.unix, share=Share(segments=(0, 1), forward=reached)),
            Placed(control=above.unix, share=Share(segments=(1, 3))),
        ]
        deploy(chain, "split", cut)
        deploy(third, "offload", [Placed(control=above.unix, share=Share())])
        yield made


def test_the_most_accurate_path_answers_and_the_answer_says_so(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths()) as pipeline:
        replies = [pipeline.infer(inputs) for _ in range(20)]
        assert {(reply.made_by, reply.why) for reply in replies} == {("offload", "chosen")}
        assert all(site.right(reply, inputs) for reply in replies)
        assert replies[0].path == ("above",)
        assert replies[0].bytes_up > 0
        assert {stage.stage for stage in replies[0].stages} >= {"uplink", "downlink", "infer"}
        # What no request has taken yet is measured with copies of them.
        until(lambda: all(path.expected_s is not None for path in pipeline.facts().paths), "all are measured")
        facts = pipeline.facts()
        assert facts.answered == {("offload", "chosen"): 20}
        assert (facts.unanswered, facts.late, facts.missed, facts.chosen) == (0, 0, 0, "offload")
        assert facts.links["up"].rtt_s is not None
        assert facts.links["up"].rtt_s > 0.003


@pytest.mark.parametrize("name", ["offload", "split", "local"])
def test_each_path_gives_its_own_variants_answer(site: Site, inputs: Inputs, name: str) -> None:
    with AdaptivePipeline(site.paths(name)) as pipeline:
        reply = PipelineSUT("s", pipeline, lambda sample: inputs).issue(0)
    assert (reply.made_by, reply.why) == (name, "chosen")
    assert site.right(reply, inputs)


def test_for_speed_the_device_answers_itself_over_a_link_that_takes_longer(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths(policy="fast", refresh_s=0.1)) as pipeline:
        pipeline.infer(inputs)

        def local() -> bool:
            return pipeline.infer(inputs).made_by == "local"

        until(local, "the round trip of the link is learnt")
        assert all(local() for _ in range(10))


def test_an_idle_link_is_probed(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths("split", "local", probe_s=0, refresh_s=0)) as pipeline:
        for _ in range(3):
            assert pipeline.infer(inputs).made_by == "split"
        assert pipeline.facts().links["up"].up_bps is None  # all of that was small
    with AdaptivePipeline(site.paths("split", "local", probe_s=0.05, refresh_s=0)) as pipeline:
        assert pipeline.infer(inputs).made_by == "split"
        until(
            lambda: 1e6 < (pipeline.facts().links["up"].up_bps or 0) < 100e6,
            "probes have carried enough to tell 50 Mbit/s",
        )


@pytest.mark.emulation
def test_a_link_that_falls_silent_costs_no_answer_and_comes_back(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths(deadline_s=0.3)) as pipeline:
        pipeline.infer(inputs)
        until(lambda: all(path.expected_s is not None for path in pipeline.facts().paths), "all are measured")
        site.signal(signal.SIGSTOP)
        try:
            replies = [pipeline.infer(inputs) for _ in range(30)]
        finally:
            site.signal(signal.SIGCONT)
        assert all(site.right(reply, inputs) for reply in replies)
        assert replies[0].why == "fallback: deadline"
        assert {reply.made_by for reply in replies} == {"local"}
        assert replies[-1].why == "fallback: breaker"
        until(lambda: pipeline.infer(inputs).made_by == "offload", "the link is back")


def test_an_answer_that_comes_after_another_is_dropped_and_counted(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths("offload", "local", hedge=True, deadline_s=20.0)) as pipeline:
        for _ in range(25):
            assert pipeline.infer(inputs).made_by == "offload"
        site.signal(signal.SIGSTOP)
        try:
            reply = pipeline.infer(inputs)
        finally:
            site.signal(signal.SIGCONT)
        assert (reply.made_by, reply.why) == ("local", "hedge")
        assert site.right(reply, inputs)
        until(lambda: pipeline.facts().late == 1, "the remote answer has come")
        assert sum(pipeline.facts().answered.values()) == 26


def test_a_request_with_less_time_than_the_path_needs_stays_on_the_device(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths("offload", "local")) as pipeline:
        pipeline.infer(inputs)
        until(lambda: all(path.expected_s is not None for path in pipeline.facts().paths), "measured")
        reply = pipeline.infer(inputs, deadline_s=0.0005)
        assert (reply.made_by, reply.why) == ("local", "fallback: forecast")
        assert pipeline.infer(inputs).made_by == "offload"


def test_a_node_that_dies_is_left_alone_and_found_again(
    site: Site, inputs: Inputs, start_node: Callable[..., Any]
) -> None:
    with AdaptivePipeline(site.paths()) as pipeline:
        assert pipeline.infer(inputs).made_by == "offload"
        with InferenceClient(site.above.unix) as client:
            client.unload("offload")
        reply = pipeline.infer(inputs)
        assert (reply.made_by, reply.why) == ("local", "fallback: failed (NOT_FOUND)")
        assert site.right(reply, inputs)
        # The other path over the same link works all the while.
        until(lambda: pipeline.infer(inputs).made_by == "split", "its breaker opens, the next best is taken")
        site.serve_above()
        until(lambda: pipeline.infer(inputs).made_by == "offload", "it is found again")


def test_a_wrong_request_is_refused_and_no_path_is_to_blame(site: Site, inputs: Inputs) -> None:
    wrong = {"x": inputs["x"]}
    with AdaptivePipeline(site.paths()) as pipeline:
        for _ in range(5):
            with pytest.raises(
                RemoteError, match=r"one of the paths must answer.*offload: .*local: .*split: "
            ) as raised:
                pipeline.infer(wrong)
            assert "INVALID_ARGUMENT" in str(raised.value)
        facts = pipeline.facts()
        assert {path.breaker for path in facts.paths} == {"closed"}
        assert facts.unanswered == 5


def test_what_one_path_refuses_and_another_answers_is_the_paths_fault(
    site: Site, inputs: Inputs, make: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Its model may be another one than was meant: what it says of the request holds for all requests."""
    other = make(tmp_path / "o", chain_parts()[1:], TensorInput(tensors=(H, BIAS)), (Y,))
    deploy(other, "other", [Placed(control=site.above.unix, share=Share())])
    away = PathSpec(name="other", accuracy_frac=0.95, node=site.reached, model="other", link="up", over_link=True)
    paths = site.paths("local")
    paths = msgspec.structs.replace(paths, paths=(away, *paths.paths))
    with AdaptivePipeline(paths) as pipeline:
        assert pipeline.infer(inputs).why == "fallback: failed (INVALID_ARGUMENT)"
        until(lambda: pipeline.infer(inputs).why == "fallback: breaker", "its breaker opens")
        opened = pipeline.facts().paths[0].opened
        until(lambda: pipeline.facts().paths[0].opened > opened, "a trial with what another answered opens it again")


def test_a_request_that_no_path_takes_is_not_what_paths_are_tried_with(site: Site, inputs: Inputs) -> None:
    with AdaptivePipeline(site.paths("offload", "local")) as pipeline:
        pipeline.infer(inputs)
        with pytest.raises(RemoteError):
            pipeline.infer({"x": inputs["x"]})
        assert pipeline._latest is inputs


@pytest.mark.parametrize("deadline_s", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_deadline_is_a_number_of_seconds(site: Site, inputs: Inputs, deadline_s: float) -> None:
    with (
        AdaptivePipeline(site.paths("local")) as pipeline,
        pytest.raises(InputError, match="a deadline must be above 0"),
    ):
        pipeline.infer(inputs, deadline_s)


def test_where_nothing_answers_every_path_says_why(tmp_path: Path, inputs: Inputs) -> None:
    nowhere = f"unix:{tmp_path}/nobody"
    paths = tuple(
        PathSpec(name=name, accuracy_frac=0.5, node=nowhere, model=name, link=link)
        for name, link in (("far", "up"), ("near", None))
    )
    with AdaptivePipeline(Paths(paths=paths, breaker=QUICK)) as pipeline:
        for _ in range(4):
            with pytest.raises(RemoteError, match=r"(?s)near: .*UNAVAILABLE"):
                pipeline.infer(inputs)
        assert pipeline.facts().unanswered == 4


def test_a_file_of_paths_with_an_artifact_run_in_this_process(site: Site, tmp_path: Path, inputs: Inputs) -> None:
    file = site.local.directory.parent / "paths.toml"
    file.write_text(
        f"""
policy = "accurate"
deadline_s = 2.0
[breaker]
failures = 2
[[paths]]
name = "offload"
accuracy_frac = 0.9
node = "unix:{tmp_path}/nobody"
model = "m"
link = "up"
[[paths]]
name = "local"
accuracy_frac = 0.7
artifact = "{site.local.directory.name}"
"""
    )
    with AdaptivePipeline(load_paths(file)) as pipeline:
        reply = pipeline.infer(inputs)
        assert (reply.made_by, reply.why, reply.path) == ("local", "fallback: failed (UNAVAILABLE)", ("client",))
        assert site.right(reply, inputs)
        until(lambda: pipeline.infer(inputs).why == "fallback: breaker", "it opens")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("paths = []", "length >= 1"),
        ('[[paths]]\nname = "a"\naccuracy_frac = 1.0', "path 'a' must have either a node or an artifact"),
        ('[[paths]]\nname = "a"\naccuracy_frac = 1.0\nnode = "h:1"', "path 'a' must name a model"),
        (
            '[[paths]]\nname = "a"\naccuracy_frac = 1.0\nnode = "h:1"\nmodel = "m"\nover_link = true',
            "path 'a' must name its link",
        ),
        ('[[paths]]\nname = "a"\naccuracy_frac = 1.0\nartifact = "d"\nlink = "up"', "must not name a link"),
        (2 * '[[paths]]\nname = "a"\naccuracy_frac = 1.0\nartifact = "d"\n', "a name of its own"),
        ('deadline_s = inf\n[[paths]]\nname = "a"\naccuracy_frac = 1.0\nartifact = "d"', "<= 86400"),
        ('probe_s = inf\n[[paths]]\nname = "a"\naccuracy_frac = 1.0\nartifact = "d"', r"\$.probe_s: a number must be"),
        ('polcy = "fast"\n[[paths]]\nname = "a"\naccuracy_frac = 1.0\nartifact = "d"', "polcy"),
    ],
)
def test_a_wrong_file_is_refused_with_what_must_hold(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "paths.toml"
    file.write_text(text)
    with pytest.raises(SpecError, match=said):
        load_paths(file)


def test_an_artifact_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    paths = (PathSpec(name="a", accuracy_frac=1.0, artifact=str(tmp_path / "none")),)
    with pytest.raises(ArtifactError):
        AdaptivePipeline(Paths(paths=paths))


class Told:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.seconds: list[float] = []

    def answered(self, path: str, why: str, request_s: float) -> None:
        self.seen.append((path, why))
        self.seconds.append(request_s)

    def unanswered(self) -> None:
        self.seen.append(("", ""))


def test_an_observer_is_told_of_every_answer(site: Site, inputs: Inputs) -> None:
    told = Told()
    with AdaptivePipeline(site.paths("local"), observer=told) as pipeline:
        begun_s = time.monotonic()
        pipeline.infer(inputs)
        assert 0 < told.seconds[0] <= time.monotonic() - begun_s
        with pytest.raises(RemoteError):
            pipeline.infer({})
    assert told.seen == [("local", "chosen"), ("", "")]


def test_a_closed_pipeline_says_so(site: Site, inputs: Inputs) -> None:
    pipeline = AdaptivePipeline(site.paths())
    pipeline.infer(inputs)
    pipeline.close()
    with pytest.raises(RemoteError, match="must be called on an open pipeline"):
        pipeline.infer(inputs)
