import io
import json
from typing import Any

from tierwise.runtime import ObservabilitySpec
from tierwise.runtime._log import open_log
from tierwise.testing import FakeClock


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json() -> None:
    stream = io.StringIO()
    log = open_log(ObservabilitySpec(), "edge", FakeClock(), stream)
    log.info("model loaded", model="digits", seconds=0.25, trace=None)
    (event,) = _lines(stream)
    assert event.pop("time").endswith("Z")
    assert event == {"level": "info", "tier": "edge", "event": "model loaded", "model": "digits", "seconds": 0.25}


def test_what_a_stranger_sent_stays_on_its_line() -> None:
    nasty = 'a"\nb\u2028\x1b[31m' + "x" * 5000
    for form in ("json", "text"):
        stream = io.StringIO()
        log = open_log(ObservabilitySpec(log_format=form), "edge", FakeClock(), stream)
        log.warning("refused", model=nasty)
        text = stream.getvalue()
        assert text.count("\n") == 1
        assert len(text.splitlines()) == 1
        assert "\x1b" not in text
        assert len(text) < 500


def test_below_the_level_nothing_is_written() -> None:
    stream = io.StringIO()
    log = open_log(ObservabilitySpec(log_level="warning"), "edge", FakeClock(), stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [event["event"] for event in _lines(stream)] == ["c", "d"]


def test_a_flood_of_one_event_is_bounded_and_counted() -> None:
    stream, clock = io.StringIO(), FakeClock()
    log = open_log(ObservabilitySpec(), "edge", clock, stream)
    for _ in range(1000):
        log.info("refused")
    log.info("ready")
    clock.sleep(1)
    log.info("refused")
    events = _lines(stream)
    assert [event["event"] for event in events] == ["refused"] * 20 + ["ready", "refused"]
    assert events[-1]["left_out"] == 980


def test_two_nodes_of_one_process_keep_their_own_levels_and_streams() -> None:
    first, second = io.StringIO(), io.StringIO()
    log = open_log(ObservabilitySpec(log_level="error"), "mobile", FakeClock(), first)
    open_log(ObservabilitySpec(log_format="text"), "edge", FakeClock(), second).info("ready", addresses="a b")
    log.info("ready")
    assert first.getvalue() == ""
    assert second.getvalue().rstrip().endswith('info    edge     ready  addresses="a b"')
