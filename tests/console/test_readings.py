import pytest

from tierwise._errors import InputError
from tierwise.console._readings import Readings, Span
from tierwise.runtime import NodeMetrics


def _read(metrics: NodeMetrics, at_s: float) -> Readings:
    return Readings.parse(metrics.exposition().decode(), at_s)


def _answer(metrics: NodeMetrics, seconds: float, count: int) -> None:
    for _ in range(count):
        metrics.answered("m", "1", seconds, [("edge", "infer", round(seconds * 1e9))], 1, 100, 10)


def test_what_happened_lately_is_told_apart_from_what_happened_before() -> None:
    metrics = NodeMetrics("edge")
    metrics.loaded("m", "1")
    _answer(metrics, 1.0, 50)
    earlier = _read(metrics, 100.0)
    _answer(metrics, 0.002, 80)
    _answer(metrics, 0.2, 20)
    span = Span(earlier, _read(metrics, 110.0))
    assert span.rate("tierwise_request_seconds_count", model="m") == pytest.approx(10)
    spread = span.spread("tierwise_request_seconds", model="m")
    assert spread.count == 100
    assert spread.mean_s == pytest.approx(0.0416)
    # As exact as the buckets, a quarter of a decade wide.
    assert 0.001 < (spread.p50_s or 0) < 0.0033
    assert 0.1 < (spread.p95_s or 0) < 0.33
    assert span.spread("tierwise_stage_seconds", stage="infer").count == 100
    assert span.spread("tierwise_stage_seconds", stage="tail").p50_s is None


def test_a_model_that_was_loaded_anew_never_counts_backwards() -> None:
    metrics = NodeMetrics("edge")
    metrics.loaded("m", "1")
    _answer(metrics, 0.1, 50)
    earlier = _read(metrics, 0.0)
    metrics.unloaded("m", "1")
    metrics.loaded("m", "1")
    _answer(metrics, 0.1, 3)
    assert Span(earlier, _read(metrics, 1.0)).grown("tierwise_request_seconds_count", model="m") == 3


def test_of_one_look_alone_nothing_is_known() -> None:
    metrics = NodeMetrics("edge")
    _answer(metrics, 0.1, 5)
    span = Span(None, _read(metrics, 0.0))
    assert span.rate("tierwise_request_seconds_count") == 0
    assert span.spread("tierwise_request_seconds").mean_s is None


@pytest.mark.parametrize("text", ["not { metrics", 'a{b="c} 1', "a{} what\n"])
def test_what_is_no_exposition_is_one_error(text: str) -> None:
    with pytest.raises(InputError, match="must be Prometheus' text format"):
        Readings.parse(text, 0.0)


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert Readings.parse("a NaN\nb +Inf\nc 2\n", 0.0).series.keys() == {"c"}
