"""What the page says of every pair, of other links, and of what to take, against the planner's own answers."""

from __future__ import annotations

import re

import msgspec
import pytest

from tierwise.planner import Need, recommend
from tierwise.report._advice import advice, deploying
from tierwise.report._choices import choose, duration_text, energy_text
from tierwise.report._early_exit import exit_rate, exits_table
from tierwise.report._effects import effects
from tierwise.report._sensitivity import sensitivity
from tierwise.study import evidence_of


@pytest.fixture(scope="module")
def study(make_study):
    return make_study(failing={"identity@cloud": 0.1})


@pytest.fixture(scope="module")
def choices(study):
    evidence = evidence_of(study)
    return choose(evidence, evidence.subjects[0])


def test_what_fails_too_often_takes_no_part(choices):
    assert choices.left_out == ("identity@cloud",)
    assert "identity@cloud" not in {one.id for one in choices.deployments}
    assert choices.recommended == "sptq@mobile"


def test_the_map_mirrors_each_pair(choices):
    found = effects(choices)
    assert len(found.names) == len(found.rows) == 11
    assert found.names[0] == "sptq@mobile"
    for i, row in enumerate(found.rows):
        assert row[i].text == ""
        for j in range(i + 1, len(row)):
            upper, lower = row[j], found.rows[j][i]
            one = choices.comparison.contrast(found.names[i], found.names[j])
            assert float(upper.text.removeprefix("≈ ")) == pytest.approx(one.ratio.value, rel=0.05)
            assert float(lower.text) == pytest.approx(-one.delta.value, abs=0.006)
            assert lower.note == one.delta.band
            assert upper.tone[1] == lower.tone[1] == str(("negligible", "small", "medium", "large").index(lower.note))
            assert {upper.tone[0], lower.tone[0]} == {"f", "s"}
            assert upper.sure == lower.sure == (one.p < 0.05)
            assert upper.text.startswith("≈") == (one.verdict == "equivalent")
    assert len(found.pairs.rows) == 55
    assert "Friedman's test over 100 blocks in which all 11 answered" in found.overall
    assert "with 10 degrees of freedom" in found.overall


def test_equivalence_is_claimed_and_counted(make_study):
    evidence = evidence_of(make_study(chains=("identity", "qat"), tiers=("mobile",), requests=200))
    found = effects(choose(evidence, evidence.subjects[0]))  # the made-up qat is as fast as identity
    assert found.equal[0].startswith("identity@mobile and qat@mobile: ratio ")
    assert "For 1 “no difference that matters” is a claim" in found.claims
    assert found.margin == "5 %"


def test_a_large_study_keeps_a_page(make_study):
    chains = tuple(f"operator{i}" for i in range(14))
    evidence = evidence_of(make_study(chains=chains, requests=4))
    found = effects(choose(evidence, evidence.subjects[0]))
    assert len(found.names) == 40
    assert found.left_out == 2
    assert found.pairs is None


def test_one_deployment_or_one_block_compares_nothing(make_study):
    evidence = evidence_of(make_study(chains=("identity",), tiers=("mobile",)))
    assert effects(choose(evidence, evidence.subjects[0])) is None


def test_winners_cover_the_axis_and_agree_with_the_planner(study, choices):
    found = sensitivity(choices)
    assert [lane.link for lane in found.lanes] == sorted((lane.link for lane in found.lanes), reverse=True)
    for lane in found.lanes:
        assert all(a.high == b.low for a, b in zip(lane.bands, lane.bands[1:], strict=False))
        assert lane.bands[0].low < lane.now < lane.bands[-1].high
    letters = {letter: winner for letter, winner, _ in found.legend}
    assert letters["A"] == "sptq@mobile"
    assert all(letters[band.letter] == band.winner for lane in found.lanes for band in lane.bands)
    # What stays on the device wins throughout here, so the others are asked about as well.
    beyond = [lane for lane in found.lanes if lane.need == "fastest beyond the device"]
    assert {band.winner.partition("@")[2] for lane in beyond for band in lane.bands}.isdisjoint({"mobile"})
    assert re.search(
        r"Checked against \d+ measured link times: .* held out, by [\d.]+ % at the median", found.validation
    )


def test_the_winner_changes_where_a_link_pays(make_import, tmp_path):
    evidence = make_import(tmp_path)
    found = sensitivity(choose(evidence, evidence.subjects[0]))
    fastest = found.lanes[0]
    assert [band.winner.partition("@")[2] for band in fastest.bands] == ["mobile", "edge"]
    # 4 x 40 ms on the device; 2 x 40 + 12 ms beyond it, of which 9 kB and 0.2 kB take 8 * 9225 / rate.
    expected = 8 * 9225 / (0.068 + 8 * 9225 / 50e6)
    assert fastest.bands[0].high == pytest.approx(expected, rel=0.25)
    assert found.validation.startswith("No link's time was measured on its own here")


def test_advice_is_the_planners(study, choices):
    evidence = evidence_of(study)
    found = advice(choices, evidence)
    assert found.chosen == recommend(evidence, Need()).chosen == "sptq@mobile"
    assert found.within == "at most 1 pp lost"
    assert dict(found.figures)["Over links"] == "nothing"
    assert "Energy, modelled" in dict(found.figures)
    assert found.against[0][0] == "Runner-up"
    needs = [row[0].text for row in found.needs.rows]
    assert needs[:3] == ["Lowest latency", "Lowest latency, at most 1 pp lost",
                         "Computing on mobile alone, at most 1 pp lost"]  # fmt: skip
    takes = {row[0].text: row[1].text for row in found.needs.rows}
    assert takes["Computing on edge alone, at most 1 pp lost"] == "sptq@edge"
    assert any("identity@cloud: failed too often" in note for note in found.notes)


def test_the_command_is_exact_and_quoted(make_study, tmp_path):
    data = make_study(tmp_path / "my study", chains=("partition",))
    evidence = evidence_of(data)
    found = deploying(choose(evidence, evidence.subjects[0]), data)
    commands = [command for _, commands in found.steps for command in commands]
    assert found.strategy == "partition@mobile|edge"
    assert "tierwise deploy 'my study' 'partition@mobile|edge' --topology nodes.toml" in commands
    assert "tierwise node --tier edge --listen 0.0.0.0:8001" in commands
    assert "tierwise topologies --show wifi-lte > nodes.toml" in commands


def test_early_exits_are_shown_only_where_records_know_of_them(study):
    assert exits_table(study) is None
    assert exit_rate(study.records) is None
    left = [msgspec.structs.replace(study.records[0], exit_frac=share) for share in (1.0, 1.0, 0.0, 1.0)]
    assert exit_rate(left) == 0.75


def test_figures_read_well(choices):
    assert [duration_text(seconds) for seconds in (0.5, 54.9, 119, 600, 36000)] == [
        "500 ms", "54.9 s", "119 s", "10 min", "10 h",
    ]  # fmt: skip
    assert energy_text(choices.deployment("sptq@mobile").energy).endswith(" mJ")
