"""All means of emulating links pass the same check."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import pytest

from tierwise._errors import InputError, UnavailableError
from tierwise.testbed import (
    Availability,
    LinkMeans,
    NetemMeans,
    Network,
    ProxyMeans,
    Spawner,
    TunMeans,
    all_link_means,
    measure_link,
)
from tierwise.testbed._lane import Shape
from tierwise.testbed._links import choose_link_means
from tierwise.testbed._netem import netem_line
from tierwise.testing import check_link_means
from tierwise.topology import Link, Tier, Topology


def needed(means: LinkMeans) -> LinkMeans:
    found = means.availability()
    if not found.ok:
        pytest.skip(f"{means.name}: {found.reason}")
    return means


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Spawner]:
    with Spawner(tmp_path) as spawner:
        yield spawner


def two_tiers(link: Link) -> Topology:
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in (link.lower, link.upper))
    return Topology(name="two", tiers=tiers, links=(link,))


@pytest.mark.emulation
@pytest.mark.parametrize("means", all_link_means(), ids=lambda means: means.name)
def test_it_keeps_the_contract(means: LinkMeans) -> None:
    check_link_means(needed(means))


@pytest.mark.emulation
def test_a_means_that_delays_more_than_asked_is_found_out() -> None:
    class Late(LinkMeans):
        name = "late"

        def availability(self) -> Availability:
            return ProxyMeans().availability()

        def network(self, topology: Topology, spawner: Spawner) -> AbstractContextManager[Network]:
            links = tuple(msgspec.structs.replace(link, rtt_s=link.rtt_s + 0.004) for link in topology.links)
            return ProxyMeans().network(msgspec.structs.replace(topology, links=links), spawner)

    with pytest.raises(AssertionError, match="seconds of round trip"):
        check_link_means(needed(Late()), tries=1)


@pytest.mark.emulation
def test_a_network_that_leaves_a_process_running_is_found_out() -> None:
    class Untidy(LinkMeans):
        name = "untidy"

        def availability(self) -> Availability:
            return ProxyMeans().availability()

        @contextmanager
        def network(self, topology: Topology, spawner: Spawner) -> Iterator[Network]:
            with ProxyMeans().network(topology, spawner) as network:
                yield network
            spawner.start("straggler", [sys.executable, "-c", "import time; time.sleep(60)"])

    with pytest.raises(AssertionError, match="must end its processes when it is closed, but straggler run on"):
        check_link_means(Untidy(), tries=8)


@pytest.mark.emulation
@pytest.mark.parametrize("means", [NetemMeans(), TunMeans()], ids=lambda means: means.name)
def test_packets_are_lost_as_often_as_asked_and_the_rate_stays(means: LinkMeans, spawner: Spawner) -> None:
    link = Link(lower="low", upper="high", up_bps=40e6, down_bps=40e6, rtt_s=0.01, loss_frac=0.05)
    with needed(means).network(two_tiers(link), spawner) as network:
        figures = [measure_link(network, link, spawner) for _ in range(3)]
    assert statistics.median(one.loss_frac or 0.0 for one in figures) == pytest.approx(0.05, abs=0.015)
    assert statistics.median(one.up_bps for one in figures) == pytest.approx(40e6, rel=0.1)
    assert statistics.median(one.down_bps for one in figures) == pytest.approx(40e6, rel=0.1)


@pytest.mark.emulation
def test_loss_through_a_proxy_stalls_streams_but_not_the_link(spawner: Spawner) -> None:
    link = Link(lower="low", upper="high", up_bps=20e6, down_bps=20e6, rtt_s=0.02, loss_frac=0.01)
    with ProxyMeans().network(two_tiers(link), spawner) as network:
        figures = [measure_link(network, link, spawner) for _ in range(3)]
    assert {one.loss_frac for one in figures} == {None}
    assert statistics.median(one.up_bps for one in figures) == pytest.approx(20e6, rel=0.15)


@pytest.mark.emulation
@pytest.mark.parametrize("means", all_link_means(), ids=lambda means: means.name)
def test_jitter_leaves_the_middle_and_spreads_the_rest(means: LinkMeans, spawner: Spawner) -> None:
    link = Link(lower="low", upper="high", up_bps=50e6, down_bps=50e6, rtt_s=0.02, jitter_s=0.003)
    with needed(means).network(two_tiers(link), spawner) as network:
        figures = [measure_link(network, link, spawner) for _ in range(3)]
    assert statistics.median(one.rtt_s for one in figures) == pytest.approx(0.02, abs=0.004)
    assert statistics.median(one.rtt_s - one.rtt_low_s for one in figures) > 0.0015


def test_the_first_that_is_available_is_chosen() -> None:
    chosen = choose_link_means(all_link_means(), None)
    assert chosen.name == next(means.name for means in all_link_means() if means.availability().ok)
    assert choose_link_means(all_link_means(), "proxy").name == "proxy"


def test_unknown_means_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="must be one of netem, tun, proxy, but got 'dummynet'"):
        choose_link_means(all_link_means(), "dummynet")


def test_means_that_are_not_there_say_why_and_how_to_get_them() -> None:
    missing = [means for means in all_link_means() if not means.availability().ok]
    if not missing:
        pytest.skip("this machine has all means")
    with pytest.raises(UnavailableError, match=f"link means {missing[0].name} must be available, but got .+\\. .+"):
        choose_link_means(all_link_means(), missing[0].name)


def test_netem_is_told_everything_in_its_own_units() -> None:
    shape = Shape(rate_bps=20e6, delay_s=0.025, jitter_s=0.002, loss_frac=0.01)
    assert netem_line("tw-up", shape) == (
        "qdisc add dev tw-up root netem limit 1056 delay 25000us 2000us distribution normal"
        " loss random 1.0000% rate 20000000bit -14"
    )
    assert netem_line("tw-up", Shape(rate_bps=1e6)) == "qdisc add dev tw-up root netem limit 1001 rate 1000000bit -14"


def test_relays_and_proxies_start_without_numpy_and_grpc() -> None:
    code = "import tierwise.testbed, sys; print({'numpy', 'grpc', 'onnxruntime', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
