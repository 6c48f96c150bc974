"""Presets load and say where they come from; scaling keeps proportions; errors name file, path and fix."""

from pathlib import Path

import msgspec
import pytest

from tierwise._errors import SpecError
from tierwise.topology import Link, Tier, Topology, load, preset_names, scale

GB = 10**9


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_topology_with_its_source(name: str) -> None:
    topology = load(name)
    assert topology.name == name
    assert topology.source
    assert [tier.name for tier in topology.tiers] == ["mobile", "edge", "cloud"]
    assert all(tier.power is not None and tier.power.source for tier in topology.tiers)


def test_the_paper_preset_is_the_published_set_up() -> None:
    topology = load("paper")
    assert [(tier.cpus, tier.memory_bytes) for tier in topology.tiers] == [(4, 4 * GB), (8, 16 * GB), (16, 64 * GB)]
    assert [(link.up_bps, link.down_bps, link.rtt_s) for link in topology.links] == [(200e6, 200e6, 0), (1e6, 1e6, 0)]


def test_scaling_is_by_one_factor_and_leaves_links_alone() -> None:
    topology = load("paper")
    scaled, scaling = scale(topology, machine_cpus=2.0)
    assert scaling.factor == 0.125
    assert (scaling.wanted_cpus, scaling.machine_cpus) == (16, 2)
    assert [tier.cpus for tier in scaled.tiers] == [0.5, 1.0, 2.0]
    assert [tier.memory_bytes for tier in scaled.tiers] == [GB // 2, 2 * GB, 8 * GB]
    assert scaled.links == topology.links


def test_a_machine_that_is_large_enough_scales_nothing() -> None:
    scaled, scaling = scale(load("paper"), machine_cpus=64.0)
    assert scaling.factor == 1.0
    assert scaled == load("paper")


def test_remote_tiers_are_neither_scaled_nor_counted() -> None:
    tiers = (
        Tier(name="mobile", cpus=4, memory_bytes=4 * GB),
        Tier(name="cloud", cpus=64, memory_bytes=64 * GB, address="cloud.example:8001"),
    )
    link = Link(lower="mobile", upper="cloud", up_bps=1e6, down_bps=1e6, rtt_s=0.1)
    scaled, scaling = scale(Topology(name="mine", tiers=tiers, links=(link,)), machine_cpus=2.0)
    assert scaling.factor == 0.5
    assert [tier.cpus for tier in scaled.tiers] == [2, 64]


def test_a_topology_of_remote_tiers_only_is_not_scaled() -> None:
    tier = Tier(name="cloud", cpus=64, memory_bytes=GB, address="cloud.example:8001")
    assert scale(Topology(name="mine", tiers=(tier,)), machine_cpus=2.0)[1].factor == 1.0


def test_an_unknown_name_lists_the_presets() -> None:
    with pytest.raises(SpecError, match=r"one of the presets lan, paper, wifi-lte or a \.toml file, but got 'papr'"):
        load("papr")


TOML = """
name = "mine"
[[tiers]]
name = "mobile"
cpus = 1.0
memory_bytes = 1_000_000_000
[[tiers]]
name = "cloud"
cpus = 2.0
memory_bytes = 2_000_000_000
[[links]]
lower = "mobile"
upper = "cloud"
up_bps = 1e6
down_bps = 1e6
rtt_s = 0.01
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    assert load(str(file)).tier("cloud").cpus == 2.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cpus = 1.0", "cpus = 0", r"> 0.*\$\.tiers\[0\]\.cpus"),
        ("cpus = 1.0", "cpu = 1.0", r"unknown field `cpu`.*\$\.tiers\[0\]"),
        ("rtt_s = 0.01", "rtt_s = -1", r">= 0.*\$\.links\[0\]\.rtt_s"),
        ("rtt_s = 0.01", "rtt_s = 0\nloss_frac = 1.0", r"< 1.*\$\.links\[0\]\.loss_frac"),
        ('upper = "cloud"', 'upper = "moon"', "links must join neighbouring tiers in order"),
        ('name = "cloud"', 'name = "mobile"', "tier names must be unique"),
        ('name = "cloud"', 'name = "Cloud 9"', r"\$\.tiers\[1\]\.name"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TOML.replace(old, new, 1))
    with pytest.raises(SpecError, match=message) as caught:
        load(str(file))
    assert str(file) in str(caught.value)


def test_tiers_are_found_by_name_and_place() -> None:
    topology = load("lan")
    assert topology.index("edge") == 1
    with pytest.raises(KeyError):
        topology.tier("fog")


def test_a_topology_survives_json() -> None:
    topology = load("wifi-lte")
    assert msgspec.json.decode(msgspec.json.encode(topology), type=Topology) == topology
