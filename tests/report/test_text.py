from __future__ import annotations

import pytest

from tierwise.report import text_table
from tierwise.report._rows import decision_rows
from tierwise.report._verdict import paired_difference, verdict


def _said(data):
    rows = decision_rows(data)
    return ["".join(words.text for words in sentence) for sentence in verdict(data, rows)]


def test_the_table_is_aligned_and_names_every_strategy(make_study):
    data = make_study()
    text = text_table(data)
    head, *lines = text.split("\n\n")[0].splitlines()
    assert len(lines) == len(data.strategies)
    end = head.index("p50") + len("p50")
    assert all(line[end - 1] == "s" and line[end : end + 2] == "  " for line in lines)  # "... ms" ends under "p50"
    assert "no p99: it needs 459 answered requests a strategy, there are 100" in text
    assert "errors" not in head
    assert "errors" in text_table(make_study(failing={"identity@cloud": 0.2})).splitlines()[0]


def test_a_name_cannot_write_to_the_terminal(make_study):
    text = text_table(make_study(chains=("identity",), names={"identity": "\x1b[2Jgone\nrow"}))
    assert "\x1b" not in text
    assert "?[2Jgone?row@mobile" in text


def test_verdict_names_the_fastest_the_lossless_and_the_runner_up(make_study):
    first, second, third = _said(make_study())
    assert first.startswith("sptq@mobile answers fastest: half of its requests were back within 3.")
    assert second.startswith("The fastest that loses no accuracy is identity@mobile with 5.")
    assert "gives up 0.28 points" in second
    assert "which 360 items cannot tell apart" in second
    assert third.startswith("The runner-up, identity@edge, costs 2.")
    assert "over 100 paired requests" in third


def test_one_strategy_is_the_whole_verdict(make_study):
    data = make_study(chains=("identity",), tiers=("mobile",))
    (only,) = _said(data)
    assert "loses no accuracy (98.1 % accuracy on 360 test items)" in only


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"started": False}, "nothing has been measured yet"),
        ({"failing": {f"identity@{tier}": 1.0 for tier in ("mobile", "edge", "cloud")}}, "failed too often"),
    ],
)
def test_no_verdict_where_there_is_none(make_study, options, words):
    (only,) = _said(make_study(chains=("identity",), **options))
    assert only.startswith("There is no verdict")
    assert words in only


def test_accuracy_that_was_not_measured_is_not_invented(make_study):
    said = " ".join(_said(make_study(accuracy=False)))
    assert "Its accuracy was not measured." in said
    assert "%" not in said.split(". ")[0]


def test_what_failed_too_often_is_named_with_its_count(make_study):
    data = make_study(failing={"sptq@mobile": 0.5})
    failed = next(row.errors for row in decision_rows(data) if row.strategy == "sptq@mobile")
    assert _said(data)[-1] == (
        f"Left out of this verdict for failing more than 1 % of requests: sptq@mobile ({failed} of 100)."
    )


def test_pairs_are_of_the_same_input_and_a_strategy_equals_itself(make_study):
    data = make_study()
    seen, pairs = paired_difference(data, "identity@mobile", "identity@mobile")
    assert (seen.value_s, seen.low_s, seen.high_s, pairs) == (0.0, 0.0, 0.0, 100)
    there, _ = paired_difference(data, "identity@edge", "identity@mobile")
    back, _ = paired_difference(data, "identity@mobile", "identity@edge")
    assert there.low_s == pytest.approx(-back.high_s)
    assert paired_difference(make_study(requests=2), "identity@edge", "identity@mobile") is None


def test_requests_that_arrive_on_their_own_are_not_paired(make_study):
    said = " ".join(_said(make_study(server=True)))
    assert "paired" not in said
    assert "at the median" in said
