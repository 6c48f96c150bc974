import numpy as np
import pytest

from tierwise.runtime._hop import Account, clock_name, count_hop, to_parameters
from tierwise.runtime._visit import Timeline
from tierwise.wire import Exchange, Parameter, infer_response, write_parameters


def exchange(parameters: dict[str, Parameter]) -> Exchange:
    response = infer_response("m", "", {"y": np.zeros(1, np.float32)})
    write_parameters(response.message.parameters, parameters)
    return Exchange(response, 100, 50, encode_ns=5, sent_ns=1000, answered_ns=2000, decode_ns=7)


TOLD = to_parameters(Account(("edge", "cloud"), 11, 13), [("edge", "infer", 300)], received_ns=1100, answered_ns=1600)


def test_one_clock_tells_both_ways_apart() -> None:
    timeline = Timeline()
    account = count_hop(exchange(TOLD), "mobile", "address", timeline)
    assert account == Account(("edge", "cloud"), 11, 13, way_ns=500)
    assert timeline.entries() == [
        ("mobile", "encode", 5),
        ("mobile", "uplink", 100),
        ("edge", "infer", 300),
        ("mobile", "downlink", 400),
        ("mobile", "decode", 7),
    ]


def test_without_a_link_both_ways_are_local() -> None:
    timeline = Timeline()
    count_hop(exchange(TOLD), "client", "address", timeline, over_link=False)
    assert ("client", "local", 500) in timeline.entries()
    assert {stage for _, stage, _ in timeline.entries()} == {"encode", "local", "infer", "decode"}


def test_two_clocks_tell_their_sum() -> None:
    timeline = Timeline()
    # The other clock runs elsewhere altogether: only differences on it mean something.
    told = TOLD | {"tierwise.clock": "another", "tierwise.received_ns": 10**12, "tierwise.answered_ns": 10**12 + 500}
    count_hop(exchange(told), "mobile", "address", timeline)
    assert ("mobile", "network", 500) in timeline.entries()
    assert {stage for _, stage, _ in timeline.entries()} == {"encode", "network", "infer", "decode"}


@pytest.mark.parametrize(
    "told",
    [{}, TOLD | {"tierwise.stages": "junk"}, TOLD | {"tierwise.path": "{}"}, TOLD | {"tierwise.received_ns": "soon"}],
)
def test_a_server_without_an_account_is_all_network(told: dict[str, Parameter]) -> None:
    timeline = Timeline()
    account = count_hop(exchange(told), "mobile", "10.0.0.1:8001", timeline)
    assert account == Account(path=("10.0.0.1:8001",))
    assert ("mobile", "network", 1000) in timeline.entries()


def test_the_clock_has_one_name_in_a_process() -> None:
    assert clock_name() == clock_name() != ""
