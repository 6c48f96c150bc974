"""Whole testbeds with real nodes: opened, verified, used, broken, and gone without a trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tierwise._errors import EmulationError, InputError, UnavailableError
from tierwise.measure import usable_cpus
from tierwise.testbed import Calibration, TunMeans, open_testbed, sweep
from tierwise.topology import Link, Tier, Topology, load, preset_names
from tierwise.wire import InferenceClient

CPUS = usable_cpus()
HERE = Path(__file__).parent
TUN = TunMeans().availability()


def topology(**changes: float) -> Topology:
    link = {"up_bps": 50e6, "down_bps": 50e6, "rtt_s": 0.004} | changes
    tiers = (
        Tier(name="device", cpus=0.5, memory_bytes=400_000_000),
        Tier(name="server", cpus=1.0, memory_bytes=800_000_000),
    )
    return Topology(name="two", tiers=tiers, links=(Link(lower="device", upper="server", **link),))


def until(condition: Callable[[], bool], what: str, patience_s: float = 15.0) -> None:
    give_up_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.05)


def traces(run: str) -> list[str]:
    """Processes and folders that carry the name of a run."""
    found = [str(path) for path in Path("/tmp").glob(f"{run}*")]
    for mount in ("cpu", "memory", "."):
        found += [str(path) for path in Path("/sys/fs/cgroup", mount).rglob(f"{run}*")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if run.encode() in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.mark.emulation
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_opens_verifies_and_closes_by_the_best_means(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    with open_testbed(load(name), workdir=tmp_path, machine_cpus=CPUS, report=lines.append) as bed:
        calibration = bed.calibration
        assert list(bed.control) == ["mobile", "edge", "cloud"]
        assert bed.alive()
        bed.check_alive()
    assert calibration.worst_off_frac is not None
    assert calibration.worst_off_frac <= 0.1
    assert all(link.up_bps and link.down_bps and link.rtt_s for link in calibration.links)
    assert all(tier.short_slowdown and tier.long_slowdown for tier in calibration.tiers)
    assert msgspec.json.decode(msgspec.json.encode(calibration), type=Calibration) == calibration
    assert sum(line.startswith(("link ", "tier ")) for line in lines) == 5


@pytest.mark.emulation
def test_the_upper_node_is_reached_over_the_link_and_nodes_are_controlled_past_it(tmp_path: Path) -> None:
    slow = topology(up_bps=8e6, down_bps=8e6)
    # By proxy, this process is on the device's network too and may use the forward address itself.
    with open_testbed(slow, workdir=tmp_path, machine_cpus=CPUS, link_means="proxy", verify=False) as bed:
        blob = np.zeros(300_000, dtype=np.uint8)
        took_s = {}
        for address in (bed.forward("device", "server"), bed.control["server"]):
            with InferenceClient(address) as client:
                client.infer("tierwise.probe", {"work": np.array([0])})
                tries_s = []
                for _ in range(5):
                    begin_s = time.monotonic()
                    client.infer("tierwise.probe", {"blob": blob})
                    tries_s.append(time.monotonic() - begin_s)
                # Other work on the machine makes some slower; nothing makes one faster than its way is.
                took_s[address.partition(":")[0]] = min(tries_s)
        assert took_s["127.0.0.1"] == pytest.approx(0.31, rel=0.2)
        assert took_s["unix"] < 0.1
        assert bed.calibration.worst_off_frac is None
        with pytest.raises(InputError, match="a link must join server to device, but got links device to server"):
            bed.forward("server", "device")


@pytest.mark.emulation
def test_a_rate_this_machine_cannot_carry_stops_with_both_figures(tmp_path: Path) -> None:
    # A round trip that even a busy machine keeps, so that the rate is what is farthest off.
    fast = topology(up_bps=400e9, down_bps=400e9, rtt_s=0.01)
    with (
        pytest.raises(EmulationError, match=r"[\d.]+ [MG]bit/s (up|down) where 400 Gbit/s was asked for") as caught,
        open_testbed(fast, workdir=tmp_path, machine_cpus=CPUS, link_means="proxy"),
    ):
        pass
    assert "link device to server: the emulated link must come out within 10% of its spec" in str(caught.value)


@pytest.mark.emulation
def test_a_quota_that_lets_short_work_pass_stops_with_both_figures(tmp_path: Path) -> None:
    from tierwise.testbed import ControlGroups

    if not ControlGroups(1).availability("cpu").ok:
        pytest.skip("no cgroup-v1 quotas here")
    one = Topology(name="one", tiers=(Tier(name="device", cpus=0.5, memory_bytes=400_000_000),))
    with (
        pytest.raises(EmulationError, match=r"[\d.]+ times slower on short work where 2 was asked for \(cgroup-v1"),
        open_testbed(one, workdir=tmp_path, machine_cpus=CPUS, limiter="cgroup-v1"),
    ):
        pass


@pytest.mark.emulation
def test_a_remote_tier_is_used_as_it_is(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tierwise", "node", "--listen", "127.0.0.1:0", "--tier", "server"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as remote:
        try:
            assert remote.stdout is not None
            address = remote.stdout.readline().strip().rpartition(" ")[2]
            device, server = topology().tiers
            mixed = msgspec.structs.replace(
                topology(), tiers=(device, msgspec.structs.replace(server, address=address))
            )
            with open_testbed(mixed, workdir=tmp_path, machine_cpus=CPUS) as bed:
                assert bed.control["server"] == address
                (link,) = bed.calibration.links
                assert (link.means, link.up_bps, link.off_frac) == ("real", None, None)
                assert link.rtt_s is not None
                assert bed.calibration.tiers[1].address == address
                assert bed.calibration.tiers[1].short_slowdown is None
                if bed.calibration.link_means != "proxy":
                    # A gate leads out of the device's own network.
                    assert bed.forward("device", "server") != address
            assert remote.poll() is None
        finally:
            remote.terminate()


def test_nobody_at_a_remote_address_says_how_to_start_one(tmp_path: Path) -> None:
    device, server = topology().tiers
    tiers = (device, msgspec.structs.replace(server, address="127.0.0.1:9"))
    with (
        pytest.raises(UnavailableError, match=r"tier server: a node must listen at 127\.0\.0\.1:9, .* --tier server"),
        open_testbed(msgspec.structs.replace(topology(), tiers=tiers), workdir=tmp_path, machine_cpus=CPUS),
    ):
        pass


def test_an_emulated_tier_above_a_remote_one_is_refused(tmp_path: Path) -> None:
    device, server = topology().tiers
    tiers = (msgspec.structs.replace(device, address="10.0.0.9:8001"), server)
    with (
        pytest.raises(InputError, match="tier server must have an address, because device below it is a remote node"),
        open_testbed(msgspec.structs.replace(topology(), tiers=tiers), workdir=tmp_path, machine_cpus=CPUS),
    ):
        pass


def test_a_node_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import sys; sys.exit('no such model zoo')")
    with (
        pytest.raises(UnavailableError, match="exit code 1; it wrote: no such model zoo") as caught,
        open_testbed(topology(), workdir=tmp_path, machine_cpus=CPUS, verify=False, node_program=program),
    ):
        pass
    assert str(tmp_path / "node-device.log") in str(caught.value)


def test_a_node_that_dies_is_noticed(tmp_path: Path) -> None:
    with open_testbed(topology(), workdir=tmp_path, machine_cpus=CPUS, link_means="proxy", verify=False) as bed:
        os.kill(bed.node_pid("server"), signal.SIGSEGV)
        until(lambda: not bed.alive(), "the node must be seen dead")
        with pytest.raises(UnavailableError, match="the process node-server must keep running, but got SIGSEGV"):
            bed.check_alive()


OWNER = """
import signal, sys, time
from pathlib import Path
from tierwise.testbed import open_testbed
sys.path.insert(0, sys.argv[1])
from test_testbed import CPUS, topology
# A shell lets what it starts in the background ignore Ctrl-C, and tests may be that.
signal.signal(signal.SIGINT, signal.default_int_handler)
with open_testbed(topology(), workdir=Path(sys.argv[2]), machine_cpus=CPUS, verify=False) as bed:
    print(Path(bed.control["device"].removeprefix("unix:")).parent.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(HERE), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_their_owner_and_the_rest_is_swept(
    owner: subprocess.Popen[str], kind: signal.Signals
) -> None:
    assert owner.stdout is not None
    run = owner.stdout.readline().strip()
    assert any("--tier device" in trace for trace in traces(run))
    owner.send_signal(kind)
    owner.wait(60)
    until(lambda: not any("--tier" in trace for trace in traces(run)), "processes must end with their owner")
    sweep()
    assert traces(run) == []


def test_two_testbeds_at_once_do_not_clash_and_sweeping_spares_the_living(tmp_path: Path) -> None:
    with (
        open_testbed(topology(), workdir=tmp_path / "a", machine_cpus=CPUS, verify=False) as first,
        open_testbed(topology(), workdir=tmp_path / "b", machine_cpus=CPUS, verify=False) as second,
    ):
        sweep()
        assert first.alive()
        assert second.alive()
        for bed in (first, second):
            with InferenceClient(bed.control["server"]) as client:
                assert client.live()


@pytest.mark.emulation
def test_an_ordinary_user_gets_proxies_and_the_duty_cycle(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    # Reading is all that is kept, since interpreter and sources may lie in folders that are root's own.
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reading]
    code = """
import sys
from pathlib import Path
import msgspec
from tierwise.testbed import open_testbed
from tierwise.topology import load
with open_testbed(load("wifi-lte"), workdir=Path(sys.argv[1]), machine_cpus=float(sys.argv[2])) as bed:
    print(msgspec.json.encode(bed.calibration).decode())
"""
    folder = Path("/tmp") / f"tierwise-nobody-{os.getpid()}"
    folder.mkdir()
    try:
        os.chown(folder, 65534, 65534)
        done = subprocess.run(
            [*nobody, sys.executable, "-c", code, str(folder / "work"), str(CPUS)],
            capture_output=True, text=True, cwd="/", timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        calibration = json.loads(done.stdout)
    finally:
        shutil.rmtree(folder)
    assert (calibration["link_means"], calibration["limiter"]) == ("proxy", "duty")
    assert calibration["memory_limiter"] == "none"
    assert all(entry["off_frac"] <= 0.1 for entry in (*calibration["links"], *calibration["tiers"]))


@pytest.mark.emulation
@pytest.mark.skipif(not TUN.ok, reason=TUN.reason)
def test_tiers_in_namespaces_see_only_their_neighbours(tmp_path: Path) -> None:
    with open_testbed(load("lan"), workdir=tmp_path, machine_cpus=CPUS, link_means="tun", verify=False) as bed:
        edge, cloud = bed.forward("mobile", "edge"), bed.forward("edge", "cloud")
        code = (
            "import socket, sys; host, _, port = sys.argv[1].rpartition(':');"
            "socket.create_connection((host, int(port)), timeout=1)"
        )

        def reaches(tier: str, address: str) -> bool:
            inside = ["nsenter", f"--net=/proc/{bed.node_pid(tier)}/ns/net", "--"]
            return not subprocess.run([*inside, sys.executable, "-c", code, address], capture_output=True).returncode

        assert reaches("mobile", edge)
        assert reaches("edge", cloud)
        assert not reaches("mobile", cloud)
