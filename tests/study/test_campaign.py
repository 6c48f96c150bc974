from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tierwise._config import loads_toml
from tierwise._errors import ChainError, SpecError
from tierwise.measure import Profile, Server, SingleStream, profile
from tierwise.operators import OPERATORS, parse_chain
from tierwise.study import Campaign, StrategySpec, campaign_names, campaign_text, load_campaign, run_study
from tierwise.study._differ import first_difference
from tierwise.study._plan import Plan, asked_strategies
from tierwise.study._toml import toml_text
from tierwise.tasks import BuiltinTask, ResNet
from tierwise.topology import load

DIGITS = BuiltinTask(name="digits")


def campaign(*strategies: StrategySpec, **changes: object) -> Campaign:
    spec = Campaign(name="t", task=DIGITS, strategies=strategies or (StrategySpec(chain="identity"),))
    return msgspec.structs.replace(spec, **changes)


def test_embedded_campaigns_are_whole() -> None:
    assert campaign_names() == ("digits", "fashion-mnist", "fashion-mnist-grid", "mrpc")
    for name in ("digits", "fashion-mnist"):
        found = load_campaign(name)
        assert found.name == name
        strategies = asked_strategies(found, found.asked_topology())
        # Whole models on three tiers, cut ones on three pairs; plain and quantised.
        names = [entry.name for entry in strategies]
        assert {name: names.count(name) for name in names if name != "sptq+partition-3"} == dict.fromkeys(
            ("identity", "sptq", "partition", "sptq+partition"), 3
        )


def test_the_text_study_has_every_operator_that_takes_text() -> None:
    found = load_campaign("mrpc")
    chains = [parse_chain(entry.chain, entry.options) for entry in found.strategies]
    assert {spec.NAME for chain in chains for spec in chain} == {kind.NAME for kind in OPERATORS} - {"bottleneck"}
    topology = found.asked_topology()
    assert len(asked_strategies(found, topology)) > 30
    # Tiers and links are the preset's; only memory differs.
    preset = load("paper")
    assert topology.links == preset.links
    assert [(tier.name, tier.cpus, tier.power) for tier in topology.tiers] == [
        (tier.name, tier.cpus, tier.power) for tier in preset.tiers
    ]


def test_reading_a_study_imports_no_torch() -> None:
    code = "import sys, tierwise.study; tierwise.study.load_campaign('digits'); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "False"


def test_unknown_names_and_keys_say_where(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError,
        match=r"one of digits, fashion-mnist, fashion-mnist-grid, mrpc or a \.toml file, but got 'digit'",
    ):
        load_campaign("digit")
    with pytest.raises(SpecError, match="readable UTF-8 text"):
        campaign_text("missing.toml")
    path = tmp_path / "mine.toml"
    path.write_text(campaign_text("digits").replace("[scenario]", "[scenario]\nspeed = 3"))
    with pytest.raises(SpecError, match=r"mine\.toml: .*unknown field `speed` - at `\$\.scenario`"):
        load_campaign(str(path))
    path.write_text(campaign_text("digits"))
    assert load_campaign(str(path)) == load_campaign("digits")


def test_profiles_have_their_sizes() -> None:
    sizes = {name: profile(name) for name in ("quick", "study", "full")}
    requests = {name: p.sessions * p.rounds * p.samples for name, p in sizes.items()}
    assert requests == {"quick": 150, "study": 1032, "full": 10_240}
    assert all(p.sessions >= 2 for p in sizes.values())
    own = Profile(samples=3)
    assert campaign(profile=own).measured() is own
    assert campaign(profile="study").measured() == sizes["study"]


@pytest.mark.parametrize(
    "spec",
    [
        load_campaign("digits"),
        campaign(
            StrategySpec(chain="sptq", name="sptq-64", options={"sptq": {"items": 64, "per_channel": False}}),
            StrategySpec(
                chain="sptq+partition", placements=("mobile|edge",), options={"partition": {"cut": 'a "b"\\'}}
            ),
            task=BuiltinTask(name="digits", subject=ResNet(depth=14)),
            topology=load("paper"),
            scenario=Server(rate_per_s=12.5),
            profile=Profile(samples=7, min_duration_s=1e-3),
            link_means="proxy",
        ),
    ],
)
def test_toml_text_decodes_to_the_same_campaign(spec: Campaign) -> None:
    assert loads_toml(toml_text(spec), Campaign, where="text") == spec


def test_toml_text_reads_like_what_people_write() -> None:
    text = toml_text(campaign(scenario=SingleStream()))
    assert 'name = "t"\n' in text
    assert '\n[task]\nkind = "builtin"\nname = "digits"\n' in text
    assert '\n[[strategies]]\nchain = "identity"\nplacements = "auto"\n' in text


def test_parts_want_as_many_tiers() -> None:
    three = StrategySpec(chain="partition", options={"partition": {"parts": 3}})
    found = asked_strategies(campaign(three), load("wifi-lte"))
    assert [asked.id for asked in found] == ["partition@mobile|edge|cloud"]


def test_a_bottleneck_stands_on_two_tiers_whatever_follows() -> None:
    narrow = StrategySpec(chain="bottleneck+sptq", placements=("mobile|edge", "edge|cloud"))
    found = asked_strategies(campaign(narrow), load("wifi-lte"))
    assert [asked.segments for asked in found] == [("mobile", "edge"), ("edge", "cloud")]


@pytest.mark.parametrize(
    ("parts", "placements", "must"),
    [
        (3, ("mobile|edge",), "must be 3 of mobile, edge, cloud"),
        (1, "auto", "at least 2, but got 1"),
        (4, "auto", "needs 4 tiers, but got 3"),
    ],
)
def test_parts_that_fit_no_tiers_are_refused(parts: int, placements: tuple[str, ...], must: str) -> None:
    wrong = campaign(StrategySpec(chain="partition", options={"partition": {"parts": parts}}, placements=placements))
    with pytest.raises(SpecError, match=must):
        asked_strategies(wrong, load("wifi-lte"))


def test_placements_climb_and_paths_start_at_the_device() -> None:
    found = asked_strategies(
        campaign(StrategySpec(chain="identity"), StrategySpec(chain="sptq + partition")), load("wifi-lte")
    )
    assert [entry.id for entry in found] == [
        "identity@mobile", "identity@edge", "identity@cloud",
        "sptq+partition@mobile|edge", "sptq+partition@mobile|cloud", "sptq+partition@edge|cloud",
    ]  # fmt: skip
    assert found[2].path == found[5].path == ("mobile", "edge", "cloud")
    assert (found[0].path, found[3].path) == (("mobile",), ("mobile", "edge"))


@pytest.mark.parametrize("text", ["mobile", "edge|mobile", "edge|edge", "edge|moon", "mobile|edge|cloud"])
def test_illegal_placements_are_named(text: str) -> None:
    with pytest.raises(SpecError, match=r"strategies\[0\]\.placements\[0\]: a placement of 'partition' must be 2 of"):
        asked_strategies(campaign(StrategySpec(chain="partition", placements=(text,))), load("wifi-lte"))


def test_two_strategies_need_two_names() -> None:
    twice = (StrategySpec(chain="sptq", placements=("edge",)), StrategySpec(chain="sptq"))
    with pytest.raises(SpecError, match="sptq@edge twice"):
        asked_strategies(campaign(*twice), load("wifi-lte"))
    named = (twice[0], msgspec.structs.replace(twice[1], name="sptq-b"))
    assert len(asked_strategies(campaign(*named), load("wifi-lte"))) == 4


def plan(**changes: object) -> Plan:
    values = {"sessions": 2, "rounds": 2, "samples": 5, "cold_starts": 2, **changes}
    return Plan(scenario=SingleStream(), profile=Profile(**values), seed=3, strategies=("a@x", "b@y"), samples=5)  # type: ignore[arg-type]


def test_plans_name_every_record_once() -> None:
    whole = plan()
    for session in range(2):
        blocks = list(whole.blocks(session, lambda round: 0.0))
        keys = [key for block in blocks for key in whole.block_keys(session, block)]
        assert len(keys) == len(set(keys)) == whole.least_requests() == 20
        cold = whole.cold_starts(session)
        assert len(whole.cold_keys(session)) == len(cold) == 4
        assert not whole.complete(session, set(keys), lambda round: 0.0)
        assert whole.complete(session, set(keys) | whole.cold_keys(session), lambda round: 0.0)
    assert whole.cold_starts(0) != whole.cold_starts(1)


def test_rounds_are_added_until_the_shortest_duration_is_filled() -> None:
    whole = plan(min_duration_s=10.0)
    asked: list[int] = []

    def measured_s(before_round: int) -> float:
        asked.append(before_round)
        return 2.4 * before_round

    rounds = {block.round for block in whole.blocks(0, measured_s)}
    # 4 rounds have taken 9.6 s, 5 have taken 12 s.
    assert rounds == set(range(5))
    # Only whole rounds are asked about, so that a study that was stopped inside one decides as if it was not.
    assert asked == [2, 3, 4, 5]


def test_differences_are_named() -> None:
    before = campaign(StrategySpec(chain="identity"), StrategySpec(chain="sptq"))
    assert first_difference(before, before) is None
    after = msgspec.structs.replace(before, seed=4)
    assert first_difference(before, after) == ("seed", "0", "4")
    after = campaign(StrategySpec(chain="identity"), StrategySpec(chain="partition"))
    assert first_difference(before, after) == ("strategies[1].chain", "'sptq'", "'partition'")
    assert first_difference(before, campaign())[0] == "strategies"  # type: ignore[index]
    assert first_difference(before, msgspec.structs.replace(before, link_means="tun")) == (
        "link_means", "nothing", "'tun'"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "nearest"),
    [
        ("qat+bottleneck", "bottleneck"),
        ("bottleneck+partition", "bottleneck"),
        ("sptq+bottleneck", "bottleneck+sptq"),
        ("bottleneck+distill", "distill+bottleneck"),
        ("prune+early-exit+bottleneck+sptq", "prune+bottleneck+sptq"),
    ],
)
def test_an_illegal_chain_is_refused_before_the_directory_is_taken(chain: str, nearest: str, tmp_path: Path) -> None:
    wrong = campaign(StrategySpec(chain="identity"), StrategySpec(chain=chain))
    with pytest.raises(ChainError) as caught:
        run_study(wrong, tmp_path / "study", cache=tmp_path / "cache")
    assert f"The nearest legal chain is {nearest!r}" in str(caught.value)
    assert not (tmp_path / "study" / "study.sqlite").exists(), "the campaign put right may use the directory again"
    assert not (tmp_path / "cache").exists(), "nothing was read or trained"


def test_a_coded_latent_crosses_every_pair_of_tiers() -> None:
    chains = ("bottleneck", "distill+bottleneck", "prune+bottleneck", "bottleneck+sptq")
    asked = asked_strategies(campaign(*(StrategySpec(chain=chain) for chain in chains)), load("wifi-lte"))
    for chain in chains:
        assert [one.placement for one in asked if one.spec.chain == chain] == [
            "mobile|edge",
            "mobile|cloud",
            "edge|cloud",
        ]
    with pytest.raises(SpecError, match=r"must be 2 of mobile, edge, cloud"):
        asked_strategies(campaign(StrategySpec(chain="bottleneck", placements=("mobile",))), load("wifi-lte"))
