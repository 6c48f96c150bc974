"""What a node counts: labels that stay bounded, and the figures of real nodes under real requests."""

from __future__ import annotations

import urllib.request

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tierwise._errors import RemoteError, UnavailableError
from tierwise.runtime import (
    AdaptivePipeline,
    ClientMetrics,
    LinkFacts,
    NodeMetrics,
    Paths,
    PathSpec,
    PipelineFacts,
    Placed,
    Share,
    deploy,
    metrics_routes,
    metrics_server,
    undeploy,
)
from tierwise.runtime._histograms import Histograms
from tierwise.wire import InferenceClient


def samples(text: str | bytes, name: str) -> dict[frozenset[tuple[str, str]], float]:
    text = text if isinstance(text, str) else text.decode()
    families = text_string_to_metric_families(text)
    return {frozenset(s.labels.items()): s.value for family in families for s in family.samples if s.name == name}


def value(text: str | bytes, name: str, **labels: str) -> float:
    found = [value for have, value in samples(text, name).items() if labels.items() <= dict(have).items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def _answered(metrics: NodeMetrics, model: str, version: str = "1") -> None:
    stages = [("edge", "head", 2_000_000), ("edge", "made-up", 1), ("cloud", "tail", 1)]
    metrics.answered(model, version, 0.004, stages, 3, received_bytes=100, sent_bytes=10)


def test_stages_of_this_tier_are_timed_and_those_of_others_are_theirs() -> None:
    metrics = NodeMetrics("edge")
    metrics.loaded("digits", "1")
    _answered(metrics, "digits")
    text = metrics.exposition()
    stages = {dict(have)["stage"] for have in samples(text, "tierwise_stage_seconds_count")}
    assert stages == {"head", "other"}
    assert value(text, "tierwise_stage_seconds_sum", stage="head", model="digits") == pytest.approx(0.002)
    assert value(text, "tierwise_request_seconds_count", model="digits", version="1", tier="edge") == 1
    assert value(text, "tierwise_batch_items_sum", model="digits") == 3
    assert value(text, "tierwise_link_received_bytes_total", link="clients") == 100


def test_what_clients_make_up_never_becomes_a_label() -> None:
    metrics = NodeMetrics("edge")
    for i in range(300):
        _answered(metrics, f"stranger-{i}")
        metrics.refused("not_found")
    text = metrics.exposition()
    assert b"stranger" not in text
    assert value(text, "tierwise_request_seconds_count", model="other") == 300
    assert value(text, "tierwise_refusals_total", code="not_found") == 300


def test_more_models_and_links_than_the_bound_are_counted_together() -> None:
    metrics = NodeMetrics("edge")
    for i in range(150):
        metrics.loaded(f"m{i}", "1")
        _answered(metrics, f"m{i}")
        metrics.forwarded(f"10.0.0.{i}:1", "cloud", 0.01, 10, 10)
    text = metrics.exposition()
    assert len(samples(text, "tierwise_request_seconds_count")) == 101
    assert value(text, "tierwise_request_seconds_count", model="other") == 50
    assert value(text, "tierwise_models_loaded") == 150
    assert len(samples(text, "tierwise_link_forwards_total")) == 51
    assert value(text, "tierwise_link_forwards_total", link="other") == 100


def test_series_end_with_their_model() -> None:
    metrics = NodeMetrics("edge")
    metrics.loaded("digits", "1")
    _answered(metrics, "digits")
    metrics.unloaded("digits", "1")
    metrics.unloaded("digits", "1")
    text = metrics.exposition()
    assert b"digits" not in text
    assert value(text, "tierwise_models_loaded") == 0


def test_a_late_answer_of_a_model_that_is_gone_makes_no_series_again() -> None:
    metrics = NodeMetrics("edge")
    metrics.loaded("digits", "1")
    held = metrics._of("digits", "1")
    held.stage("infer", 0.1)
    metrics.unloaded("digits", "1")
    for stage in ("infer", "decode", "made up"):
        held.stage(stage, 0.1)
    assert b"digits" not in metrics.exposition()


def test_a_link_says_how_it_was_lately() -> None:
    metrics = NodeMetrics("mobile")
    for _ in range(100):
        metrics.forwarded("10.0.0.7:8001", "edge", 0.02, 900, 100)
    text = metrics.exposition()
    assert value(text, "tierwise_link_rtt_seconds") == pytest.approx(0.02)
    assert samples(text, "tierwise_link_goodput_bytes_per_second") == {}
    for _ in range(100):
        metrics.forwarded("10.0.0.7:8001", "edge", 0.12, 1_000_000, 100)
    text = metrics.exposition()
    assert value(text, "tierwise_link_goodput_bytes_per_second", direction="up") == pytest.approx(1e7, rel=0.01)
    assert value(text, "tierwise_link_up", link="10.0.0.7:8001") == 1
    metrics.forward_failed("10.0.0.7:8001", "UNAVAILABLE")
    metrics.forwarded("10.0.0.8:8001", "edge", None, 900, 100)
    text = metrics.exposition()
    assert value(text, "tierwise_link_up", link="10.0.0.7:8001") == 0
    assert value(text, "tierwise_link_failures_total", code="UNAVAILABLE") == 1
    # Another server, which tells no times: nothing is made up.
    assert not [have for have in samples(text, "tierwise_link_rtt_seconds") if ("link", "10.0.0.8:8001") in have]


def test_a_node_above_that_changes_its_name_makes_one_series() -> None:
    metrics = NodeMetrics("mobile")
    for i in range(100):
        metrics.forwarded("10.0.0.7:8001", f"name-{i}", 0.02, 900, 100)
    assert [dict(have)["peer"] for have in samples(metrics.exposition(), "tierwise_link_peer_info")] == ["name-99"]


def test_names_and_units_follow_the_conventions() -> None:
    metrics = NodeMetrics("edge")
    metrics.forwarded("a:1", "cloud", 0.01, 1, 1)
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        if family.name.startswith("tierwise_") and not family.name.endswith("_created"):
            assert family.documentation.endswith("."), family.name
            counted = ("_seconds", "_bytes", "_info", "_items", "_per_second", "_up", "_under_way", "_loaded")
            assert family.type == "counter" or family.name.endswith(counted), family.name


def test_an_applications_paths_are_answered_over_http(chain, inputs) -> None:
    paths = Paths(paths=(PathSpec(name="here", accuracy_frac=0.9, artifact=str(chain.directory)),))
    metrics = ClientMetrics()
    with AdaptivePipeline(paths, observer=metrics) as pipeline:
        metrics.watch(pipeline.facts)
        for _ in range(3):
            pipeline.infer(inputs)
        with TestClient(Starlette(routes=metrics_routes(metrics.exposition))) as client:
            answer = client.get("/metrics")
            assert client.post("/metrics").status_code == 405
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert value(answer.text, "tierwise_client_answers_total", path="here", why="chosen") == 3
    assert value(answer.text, "tierwise_client_path_chosen", path="here") == 1
    assert value(answer.text, "tierwise_client_request_seconds_count", path="here") == 3
    assert value(answer.text, "tierwise_client_unanswered_total") == 0


def test_what_a_pipeline_learnt_of_its_links_is_told() -> None:
    links = {"wifi": LinkFacts(0.02, 8e6, None), "new": LinkFacts(None, None, None)}
    metrics = ClientMetrics()
    metrics.watch(lambda: PipelineFacts("split", 3, (), links, {}, 1, 0, 0))
    metrics.unanswered()
    text = metrics.exposition()
    assert value(text, "tierwise_client_link_rtt_seconds", link="wifi") == 0.02
    assert value(text, "tierwise_client_link_goodput_bytes_per_second", direction="up") == 1e6
    assert value(text, "tierwise_client_switches_total") == 3
    assert value(text, "tierwise_client_unanswered_total") == 1


def test_they_have_an_address_of_their_own_where_one_is_named() -> None:
    metrics = NodeMetrics("edge")
    with metrics_server("127.0.0.1:0", metrics.exposition) as address:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            assert b"tierwise_node_info" in answer.read()
        with (
            pytest.raises(UnavailableError, match="must be able to listen there"),
            metrics_server(address, metrics.exposition),
        ):
            pass


def test_real_nodes_tell_what_passed_through_them(start_node, chain, inputs, directly) -> None:
    edge = start_node("edge", "--metrics", "127.0.0.1:0")
    mobile = start_node("mobile")
    placement = [
        Placed(control=mobile.unix, share=Share(segments=(0, 1), forward=edge.tcp)),
        Placed(control=edge.unix, share=Share(segments=(1, 3))),
    ]
    deploy(chain, "m", placement)
    with InferenceClient(mobile.tcp) as below, InferenceClient(edge.tcp) as above:
        for _ in range(5):
            answer = below.infer("m", inputs).outputs["y"]
        np.testing.assert_allclose(answer, directly(chain, inputs), rtol=1e-5)
        with pytest.raises(RemoteError, match="NOT_FOUND"):
            below.infer("<b>none</b>", inputs)
        text, told = below.metrics(), above.metrics()
        undeploy("m", placement)
        assert 'model="m"' not in above.metrics()
    for exposition, stage in ((text, "head"), (told, "tail")):
        assert value(exposition, "tierwise_request_seconds_count", model="m") == 5
        assert value(exposition, "tierwise_stage_seconds_count", model="m", stage=stage) == 5
        assert value(exposition, "tierwise_requests_under_way") == 0
        assert value(exposition, "process_resident_memory_bytes") > 10e6
    assert value(text, "tierwise_refusals_total") == 1
    assert "none" not in text
    assert value(text, "tierwise_link_peer_info", link=edge.tcp, peer="edge") == 1
    assert value(text, "tierwise_link_forwards_total", link=edge.tcp) == 5
    assert 0 < value(text, "tierwise_link_rtt_seconds") < 1
    sent = value(text, "tierwise_link_sent_bytes_total", link=edge.tcp)
    assert sent == value(told, "tierwise_link_received_bytes_total", link="clients") > 0


def test_a_version_that_was_replaced_has_no_series_left(start_node, chain, other_chain) -> None:
    node = start_node("edge")
    with InferenceClient(node.tcp) as client:
        for artifact in (chain, other_chain, chain):
            deploy(artifact, "m", [Placed(control=node.unix, share=Share())])
        text = client.metrics()
    served = [
        dict(have)["version"] for have in samples(text, "tierwise_request_seconds_count") if ("model", "m") in have
    ]
    assert len(served) == 1
    assert value(text, "tierwise_models_loaded") == 2


def test_a_link_that_died_is_told_and_written_down(start_node, chain, inputs) -> None:
    edge, mobile = start_node("edge"), start_node("mobile")
    placement = [
        Placed(control=mobile.unix, share=Share(segments=(0, 1), forward=edge.tcp)),
        Placed(control=edge.unix, share=Share(segments=(1, 3))),
    ]
    deploy(chain, "m", placement)
    with InferenceClient(mobile.tcp) as client:
        client.infer("m", inputs)
        edge.process.kill()
        edge.process.wait(10)
        for _ in range(3):
            with pytest.raises(RemoteError, match="UNAVAILABLE"):
                client.infer("m", inputs)
        text = client.metrics()
    assert value(text, "tierwise_link_up", link=edge.tcp) == 0
    assert value(text, "tierwise_link_failures_total", link=edge.tcp, code="UNAVAILABLE") == 3
    assert value(text, "tierwise_refusals_total", code="unavailable") == 3


def test_a_histogram_tells_what_the_librarys_own_tells() -> None:
    rng, bounds = np.random.default_rng(0), (1e-05, 0.001, 0.5, 2.0, 128.0)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Histograms("took", "Seconds.", bounds, ("model", "stage"), ours)
    other = PrometheusHistogram("took", "Seconds.", ("model", "stage"), registry=theirs, buckets=bounds)
    for labels in (("m", "a"), ("m", 'b"\n')):
        for amount in (*(10 ** rng.uniform(-6, 3, size=200)), *bounds, 0.0):
            one.labels(*labels).observe(float(amount))
            other.labels(*labels).observe(float(amount))
    one.labels("gone", "a").observe(1.0)
    one.remove("gone", "a")
    expected = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == expected
    with pytest.raises(ValueError, match="Duplicated"):
        Histograms("took", "Again.", bounds, (), ours)
