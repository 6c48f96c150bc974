"""What counts as right, and what the error says when it is not."""

import subprocess
import sys
import time

import msgspec
import pytest

from tierwise._errors import EmulationError
from tierwise.testbed import Calibration, LinkFigures, TierCalibration, rtt_slack_s
from tierwise.testbed._calibration import asked_link, check_link, check_tier
from tierwise.topology import Link

LINK = Link(lower="mobile", upper="edge", up_bps=200e6, down_bps=100e6, rtt_s=0.02)


def figures(up_bps: float = 200e6, down_bps: float = 100e6, rtt_s: float = 0.02) -> LinkFigures:
    return LinkFigures(up_bps=up_bps, down_bps=down_bps, rtt_s=rtt_s, rtt_low_s=rtt_s)


def tier(asked_slowdown: float = 2.0) -> TierCalibration:
    return TierCalibration(
        tier="mobile",
        asked_cpus=1 / asked_slowdown,
        threads=1,
        cpu_means="duty",
        memory_bytes=10**9,
        memory_means="none",
        asked_slowdown=asked_slowdown,
    )


def test_a_link_within_a_tenth_is_accepted_with_its_deviation() -> None:
    entry = check_link(LINK, "tun", figures(up_bps=190e6, rtt_s=0.0215), tries=2)
    assert entry.off_frac == pytest.approx(0.075)
    assert (entry.up_bps, entry.asked_up_bps, entry.means, entry.tries) == (190e6, 200e6, "tun", 2)


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (figures(up_bps=150e6), "150 Mbit/s up where 200 Mbit/s was asked for"),
        (figures(down_bps=120e6), "120 Mbit/s down where 100 Mbit/s was asked for"),
        (figures(rtt_s=0.03), "30 ms round trip where 20 ms was asked for"),
    ],
)
def test_a_link_that_is_off_stops_with_both_figures(measured: LinkFigures, text: str) -> None:
    with pytest.raises(EmulationError, match="within 10% of its spec") as caught:
        check_link(LINK, "tun", measured, tries=3)
    assert text in str(caught.value)
    assert "link mobile to edge" in str(caught.value)
    assert "(tun, 3 tries; 0 s without a link)" in str(caught.value)


def test_a_small_packets_own_time_on_a_slow_wire_is_no_deviation() -> None:
    slow = Link(lower="edge", upper="cloud", up_bps=1e6, down_bps=1e6, rtt_s=0.0)
    assert rtt_slack_s(slow) == pytest.approx(0.3e-3 + 2 * 53 * 8 / 1e6)
    assert check_link(slow, "tun", figures(1e6, 1e6, 1.0e-3), tries=1).off_frac == 0.0
    with pytest.raises(EmulationError, match="2 ms round trip where 0 s was asked for"):
        check_link(slow, "tun", figures(1e6, 1e6, 2e-3), tries=1)


def test_what_the_machine_takes_to_wake_processes_is_no_deviation_up_to_a_millisecond() -> None:
    bare = Link(lower="mobile", upper="edge", up_bps=200e6, down_bps=200e6, rtt_s=0.0)

    def measured(rtt_s: float, passed_on_s: float) -> LinkFigures:
        return LinkFigures(up_bps=200e6, down_bps=200e6, rtt_s=rtt_s, rtt_low_s=rtt_s, passed_on_s=passed_on_s)

    entry = check_link(bare, "tun", measured(0.9e-3, 0.35e-3), tries=1)
    assert (entry.off_frac, entry.passed_on_s) == (0.0, 0.35e-3)
    with pytest.raises(EmulationError, match=r"900 µs round trip where 0 s .*; 250 µs without a link"):
        check_link(bare, "tun", measured(0.9e-3, 0.25e-3), tries=1)
    with pytest.raises(EmulationError, match=r"2 ms round trip where 0 s .*; 5 ms without a link"):
        check_link(bare, "tun", measured(2e-3, 5e-3), tries=1)


def test_a_delay_hides_the_work_of_its_link() -> None:
    delayed = Link(lower="mobile", upper="edge", up_bps=1e9, down_bps=1e9, rtt_s=0.002)
    bare = msgspec.structs.replace(delayed, rtt_s=0.0)
    late = LinkFigures(up_bps=1e9, down_bps=1e9, rtt_s=0.003, rtt_low_s=0.003, passed_on_s=0.3e-3)
    assert rtt_slack_s(delayed, late) == pytest.approx(0.6e-3, abs=1e-6)
    assert rtt_slack_s(bare, late) == pytest.approx(0.9e-3, abs=1e-6)


def test_nothing_excuses_a_link_that_is_too_quick() -> None:
    delayed = Link(lower="mobile", upper="edge", up_bps=1e9, down_bps=1e9, rtt_s=0.001)
    early = LinkFigures(up_bps=1e9, down_bps=1e9, rtt_s=0.4e-3, rtt_low_s=0.4e-3, passed_on_s=0.4e-3)
    assert rtt_slack_s(delayed, early) == rtt_slack_s(delayed)
    with pytest.raises(EmulationError, match="400 µs round trip where 1 ms was asked for"):
        check_link(delayed, "proxy", early, tries=1)


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a measurement is: it forks, so no other thread may run."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


PASSING = """
import os, psutil
from tierwise.testbed import _passing
from tierwise.testbed._passing import passed_on
"""


def test_a_byte_that_is_passed_on_comes_back_and_the_processes_between_are_gone_after() -> None:
    done = run(
        PASSING
        + """
with passed_on() as connection:
    assert len(psutil.Process().children()) == 2
    for byte in (b".", b"x"):
        connection.sendall(byte)
        assert connection.recv(1) == byte
assert not psutil.Process().children()
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("_passing.be_prompt = lambda: 1 / 0", "ZeroDivisionError"),
        ("forks = [os.fork]; os.fork = lambda: forks.pop()() if forks else os.open('/nowhere', 0)", "/nowhere"),
    ],
)
def test_a_process_between_that_fails_says_so_at_once_and_leaves_nothing(broken: str, said: str) -> None:
    begun_s = time.monotonic()
    done = run(
        PASSING
        + broken
        + """
try:
    with passed_on() as connection:
        connection.sendall(b".")
        raise SystemExit("bytes came back" if connection.recv(1) else 0)
finally:
    assert not psutil.Process().children()
"""
    )
    assert said in done.stderr
    assert "bytes came back" not in done.stderr
    assert time.monotonic() - begun_s < 20


def test_a_tier_is_accepted_or_stops_with_both_figures() -> None:
    entry = check_tier(tier(), short=2.1, long=1.96, tries=1)
    assert entry.off_frac == pytest.approx(0.05)
    assert (entry.short_slowdown, entry.long_slowdown) == (2.1, 1.96)
    with pytest.raises(
        EmulationError, match=r"1\.01 times slower on short work where 2 was asked for \(duty, 4 tries\)"
    ):
        check_tier(tier(), short=1.01, long=2.0, tries=4)
    with pytest.raises(EmulationError, match=r"tier mobile with 0\.5 CPUs: .* 2\.5 times slower on long work where 2"):
        check_tier(tier(), short=2.0, long=2.5, tries=4)


def test_a_calibration_travels_as_json_and_knows_its_worst() -> None:
    links = (check_link(LINK, "tun", figures(up_bps=190e6), 1), asked_link(LINK, "real"))
    calibration = Calibration(
        link_means="tun",
        limiter="duty",
        memory_limiter="none",
        links=links,
        tiers=(check_tier(tier(), 2.14, 2.0, 1),),
        load_before=0.5,
    )
    assert calibration.worst_off_frac == pytest.approx(0.07)
    assert msgspec.json.decode(msgspec.json.encode(calibration), type=Calibration) == calibration
    nothing = msgspec.structs.replace(calibration, links=(asked_link(LINK, "tun"),), tiers=(tier(),))
    assert nothing.worst_off_frac is None
