from __future__ import annotations

import dataclasses

import msgspec
import pytest

from tierwise.artifact import Accuracy
from tierwise.report import decision_rows
from tierwise.report._rows import wilson
from tierwise.report._stages import latencies, stage_means


def test_the_fastest_comes_first_and_every_strategy_has_a_row(make_study):
    data = make_study()
    rows = decision_rows(data)
    assert {row.strategy for row in rows} == {one.id for one in data.strategies}
    medians = [row.p50.value_s for row in rows]
    assert medians == sorted(medians)


def test_the_front_holds_exactly_what_nothing_beats(make_study):
    rows = decision_rows(make_study())
    for row in rows:
        beaten = any(
            other.p50.value_s <= row.p50.value_s
            and other.accuracy.value >= row.accuracy.value
            and (other.p50.value_s, other.accuracy.value) != (row.p50.value_s, row.accuracy.value)
            for other in rows
        )
        assert row.on_front is not beaten


def test_best_of_each_reach_loses_no_accuracy_and_is_the_fastest_such(make_study):
    rows = decision_rows(make_study())
    best = [row for row in rows if row.best_of_reach]
    assert sorted(row.reach for row in best) == ["cloud", "edge", "mobile"]
    for row in best:
        rivals = [other for other in rows if other.reach == row.reach and other.keeps_accuracy]
        assert row.keeps_accuracy
        assert row.p50.value_s == min(other.p50.value_s for other in rivals)


def test_loss_is_counted_from_the_unchanged_model(make_study):
    rows = {row.strategy: row for row in decision_rows(make_study())}
    assert rows["identity@mobile"].loss_frac == 0
    assert rows["sptq@mobile"].loss_frac == pytest.approx(1 / 360)
    assert not rows["sptq@mobile"].keeps_accuracy


def test_p99_needs_459_samples(make_study):
    few = decision_rows(make_study(chains=("identity",), requests=229))
    many = decision_rows(make_study(chains=("identity",), requests=230))
    assert {row.requests for row in few} == {458}
    assert all(row.p99 is None for row in few)
    assert all(row.p99 is not None for row in many)


def test_who_fails_too_often_is_listed_but_not_marked(make_study):
    data = make_study(failing={"sptq@mobile": 0.5, "sptq@edge": 1.0})
    rows = {row.strategy: row for row in decision_rows(data)}
    assert rows["sptq@mobile"].errors > 10
    assert not rows["sptq@mobile"].eligible
    assert not rows["sptq@mobile"].on_front
    dead = rows["sptq@edge"]
    assert (dead.p50, dead.mean_s, dead.errors, dead.answered) == (None, None, 100, 0)
    assert decision_rows(data)[-1] is not None
    assert decision_rows(data)[-1].strategy == "sptq@edge"


def test_without_accuracy_latency_alone_decides(make_study):
    rows = decision_rows(make_study(accuracy=False))
    assert [row.strategy for row in rows if row.on_front] == [rows[0].strategy]
    assert all(row.accuracy is None and row.loss_frac is None for row in rows)
    assert sum(row.best_of_reach for row in rows) == 3


def test_the_test_split_counts_before_the_validation_split_and_f1_has_no_interval(make_study):
    data = make_study(chains=("identity",))
    variant = data.variants["identity"]
    both = (
        Accuracy(metric="f1", value=0.5, split="validation", items=100),
        Accuracy(metric="f1", value=0.75, split="test", items=200),
    )
    manifest = msgspec.structs.replace(variant.manifest, accuracy=both)
    data = dataclasses.replace(data, variants={"identity": dataclasses.replace(variant, manifest=manifest)})
    row = decision_rows(data)[0]
    assert (row.accuracy.value, row.accuracy_split, row.metric) == (0.75, "test", "f1")
    assert row.accuracy.low is None
    assert row.accuracy.text == "75.0 %"


def test_a_study_that_has_not_begun_has_rows_without_figures(make_study):
    rows = decision_rows(make_study(started=False))
    assert len(rows) == 12
    assert all(row.p50 is None and not row.on_front and not row.best_of_reach for row in rows)


def test_wilson_interval_at_its_ends():
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81 of 263.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_stages_and_other_add_up_to_the_mean_latency(make_study):
    data = make_study()
    rows = decision_rows(data)
    for entry in stage_means(data, rows):
        assert entry.total_s == pytest.approx(entry.latency_s)
        assert entry.seconds["other"] > 0


def test_latencies_are_sorted_and_hold_neither_cold_starts_nor_failures(make_study):
    data = make_study(failing={"identity@mobile": 0.3})
    for strategy, values in latencies(data).items():
        wanted = [r for r in data.records if r.strategy == strategy and not r.cold and r.error is None]
        assert values == sorted(values)
        assert len(values) == len(wanted)
