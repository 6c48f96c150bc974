"""The searches on tables, and the measuring of tables on a small model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise._errors import InputError, SpecError
from tierwise.artifact import Optimiser
from tierwise.measure import Silent
from tierwise.training import Scheme
from tierwise.training.compiler import Model, Prediction, compile_training, read_model, resolve
from tierwise.training.search import (
    Budget,
    Candidates,
    Choice,
    Depth,
    Evolution,
    Probe,
    ProbeSet,
    Slice,
    Table,
    calibrate,
    candidates,
    measure_contributions,
    measure_costs,
    measured_cpu_s,
    search_evolving,
    search_exactly,
    search_scheme,
)

SIZES = st.integers(0, 12)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    depths = []
    for i in range(draw(st.integers(1, 3))):
        depths.append(
            Depth(
                biases=3 * i + 1,
                gain=draw(st.integers(-2, 10)) / 128,
                step_peak_bytes=draw(SIZES),
                prefix_peak_bytes=draw(SIZES),
                state_bytes=draw(SIZES),
                cpu_s=draw(SIZES) / 7,
            )
        )
    slices = []
    for layer in range(draw(st.integers(0, 3))):
        reached = draw(st.sampled_from(depths)).biases
        for ratio in (0.25, 1.0)[: draw(st.integers(1, 2))]:
            slices.append(
                Slice(
                    layer=f"l{layer}",
                    ratio=ratio,
                    biases=reached,
                    gain=draw(st.integers(-3, 10)) / 128,
                    step_peak_bytes=draw(SIZES),
                    state_bytes=draw(SIZES),
                    cpu_s=draw(SIZES) / 7,
                )
            )
    return Table(depths=tuple(depths), slices=tuple(slices))


def all_choices(table: Table) -> list[Choice]:
    places = range(len(table.slices))
    taken = [c for size in range(len(table.slices) + 1) for c in itertools.combinations(places, size)]
    return [Choice(depth, slices) for depth in range(len(table.depths)) for slices in taken]


@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(0, 60), st.none() | st.integers(0, 40))
def test_exact_search_finds_what_trying_all_finds(table: Table, most: int, time: int | None) -> None:
    budget = Budget(bytes=most, cpu_s=None if time is None else time / 7)
    fitting = [choice for choice in all_choices(table) if table.fits(choice, budget)]
    found = search_exactly(table, budget)
    if found is None:
        # What makes a depth alone too large makes it too large with slices, too.
        assert not fitting
        return
    assert table.fits(found, budget)
    assert table.gain(found) == pytest.approx(max(map(table.gain, fitting)), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(0, 60))
def test_evolution_keeps_the_budget_and_is_never_above_the_best(table: Table, most: int) -> None:
    budget = Budget(bytes=most)
    how = Evolution(population=20, generations=10, parents=5)
    found, best = search_evolving(table, budget, how), search_exactly(table, budget)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        assert table.fits(found, budget)
        assert table.gain(found) <= table.gain(best) + 1e-12


def large_table() -> Table:
    """Twelve layers of four ratios: too many schemes to try all, 4 GB that a float32 would round."""
    rng = np.random.default_rng(5)
    depths = [
        Depth(biases=i, gain=0.01 * i, step_peak_bytes=10**9 + i, prefix_peak_bytes=10**8, state_bytes=10**6 + i)
        for i in range(1, 14)
    ]
    slices = [
        Slice(
            layer=f"l{layer}",
            ratio=ratio,
            biases=13 - layer,
            gain=float(rng.random() * ratio),
            step_peak_bytes=int(rng.integers(10**9) * ratio),
            state_bytes=int(rng.integers(10**8) * ratio),
        )
        for layer in range(12)
        for ratio in (0.125, 0.25, 0.5, 1.0)
    ]
    return Table(depths=tuple(depths), slices=tuple(slices))


def test_large_table_keeps_the_budget_to_the_byte() -> None:
    table = large_table()
    last = 0.0
    for most in range(2_100_000_000, 5_000_000_000, 900_000_007):
        found = search_exactly(table, Budget(bytes=most))
        assert found is not None
        assert table.bytes(found) <= most
        assert table.gain(found) >= last
        last = table.gain(found)
        exactly = search_exactly(table, Budget(bytes=table.bytes(found)))
        assert exactly is not None
        assert table.gain(exactly) == pytest.approx(last, abs=1e-9)


def test_search_withholds_what_the_table_is_short_by() -> None:
    table, asked = large_table(), Budget(bytes=3_000_000_000)

    def heavier(scheme: Scheme) -> Prediction:
        peak = 1_000_000_000 + 600_000_000 * len(scheme.weights)
        return Prediction(peak, 0, 0, 0, 0, 0, 0)

    found = search_scheme(table, asked, heavier)
    assert found.exact.captured_bytes <= asked.bytes
    assert found.withheld_bytes > 0
    assert found.gap >= 0


def test_budget_below_the_classifier_is_one_clear_error() -> None:
    nothing = Prediction(0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError, match="--memory"):
        search_scheme(large_table(), Budget(bytes=1000), lambda scheme: nothing)
    slow = large_table().timed([1.0] * 13, [0.0] * 48)
    with pytest.raises(InputError, match="--seconds"):
        search_scheme(slow, Budget(bytes=10**10, cpu_s=0.5), lambda scheme: nothing)


@pytest.fixture
def model(kit: Any) -> Model:
    (inputs, _), _ = kit.batches("resnet", 2)
    return read_model(kit.seeded("resnet"), {name: torch.from_numpy(x) for name, x in inputs.items()})


@pytest.fixture
def data() -> ProbeSet:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 5, 80))
    # A class is a brightness of one channel, so that there is something to learn.
    pictures = torch.from_numpy(rng.standard_normal((80, 3, 13, 13)).astype(np.float32))
    pictures += 2 * (labels[:, None, None, None] - 2)
    return ProbeSet((pictures[:60],), labels[:60], (pictures[60:],), labels[60:])


PROBE = Probe(steps=25, batch=8, seeds=(0, 1), optimiser=Optimiser(kind="momentum", rate=0.1))


def test_candidates_end_at_blocks(model: Model) -> None:
    found = candidates(model)
    assert [layer for layer, ratio, _ in found.slices if ratio == 1] == [f"blocks.{i}.layers.0.conv" for i in range(3)]
    assert found.depths == (1, 4, 7, 9)
    assert {depth for layer, _, depth in found.slices if layer == "blocks.1.layers.0.conv"} == {7}
    # Four channels: an eighth and a quarter of them are the same one.
    assert [ratio for layer, ratio, _ in found.slices if layer == "blocks.1.layers.0.conv"] == [0.25, 0.5, 1.0]


def test_candidates_can_be_named(model: Model) -> None:
    found = candidates(model, ["blocks.*.shortcut.conv"], [0.5])
    assert [layer for layer, _, _ in found.slices] == ["blocks.1.shortcut.conv", "blocks.2.shortcut.conv"]
    with pytest.raises(SpecError, match="a pattern must fit a layer"):
        candidates(model, ["blocks.9.*"])
    with pytest.raises(SpecError, match="ratios"):
        candidates(model, (), [0.0])


def test_contributions_are_kept_entry_by_entry(
    model: Model, data: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tierwise.training.search import _contribution

    chosen = Candidates((1, 4), (("blocks.2.layers.0.conv", 0.5, 4), ("blocks.2.layers.0.conv", 1.0, 4)))
    real, runs = _contribution.trained_accuracy, []

    def counted(model: Model, scheme: Scheme, data: ProbeSet, probe: Probe) -> float:
        if len(runs) == 5:
            raise KeyboardInterrupt
        runs.append((scheme, probe.seeds))
        return real(model, scheme, data, probe)

    monkeypatch.setattr(_contribution, "trained_accuracy", counted)
    with pytest.raises(KeyboardInterrupt):
        measure_contributions(model, chosen, data, PROBE, tmp_path, Silent())
    assert len(list(tmp_path.glob("*.json"))) == 5
    done, runs[:] = list(runs), []
    found = measure_contributions(model, chosen, data, PROBE, tmp_path, Silent())
    assert len(runs) == 3
    assert not [one for one in runs if one in done]
    monkeypatch.setattr(_contribution, "trained_accuracy", real)
    assert measure_contributions(model, chosen, data, PROBE, tmp_path / "anew", Silent()) == found
    assert found.depth_gains()[0] == 0
    assert max(found.depths) > 0.4  # a fifth is chance
    assert all(0 <= accuracy <= 1 for accuracy in (*found.depths, *found.slices))
    other = msgspec.structs.replace(PROBE, steps=2)
    measure_contributions(model, Candidates((1,), ()), data, other, tmp_path, Silent())
    assert len(list(tmp_path.glob("*.json"))) == 10


def batch_of(kit: Any) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    (inputs, labels), _ = kit.batches("resnet", 2)
    return (torch.from_numpy(inputs["input"]),), torch.from_numpy(labels)


def test_searched_scheme_compiles_within_its_budget(kit: Any, model: Model, tmp_path: Path) -> None:
    how, chosen = Optimiser(kind="momentum", rate=1e-3), candidates(model, (), (0.25, 1.0))
    costs = measure_costs(model, chosen, how, batch_of(kit), tmp_path, Silent())
    table = costs.table(chosen, [0.02 * i for i in range(4)], [0.01 * ratio for _, ratio, _ in chosen.slices])
    full = table.bytes(Choice(3, tuple(sorted(places[-1] for places in table.within(3)))))
    budget = Budget(bytes=(table.bytes(Choice(0)) + full) // 2)
    found = search_scheme(table, budget, costs.predict)
    assert found.exact.captured_bytes <= budget.bytes
    made = compile_training(
        kit.seeded("resnet"), kit.lesson("resnet"), found.exact.scheme, how, tmp_path / "a", most_bytes=budget.bytes
    )
    assert made.manifest.training is not None
    # Whole layers are exact by construction, shares lie between them and nothing; sums need be neither.
    for place, (layer, ratio, depth) in enumerate(chosen.slices):
        exact = costs.predict(Scheme(biases=depth, whole=1, weights={layer: ratio})).bytes
        weighed = table.bytes(Choice(chosen.depths.index(depth), (place,)))
        assert weighed >= (exact if ratio == 1 else 0.85 * exact)
    assert all(one.name for one in resolve(found.exact.scheme, model))


def test_costs_come_from_the_cache(kit: Any, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tierwise.training.search import _cost

    chosen, how = Candidates((1, 4), (("blocks.2.layers.0.conv", 0.5, 4),)), Optimiser()
    first = measure_costs(model, chosen, how, batch_of(kit), tmp_path, Silent())
    monkeypatch.setattr(_cost, "predict_step", None)
    again = measure_costs(model, chosen, how, batch_of(kit), tmp_path, Silent())
    assert (first.depths, first.slices) == (again.depths, again.slices)
    assert first.depths[1].bytes > first.depths[0].bytes


def test_calibration_gives_back_times_that_follow_the_sizes(kit: Any, model: Model, tmp_path: Path) -> None:
    chosen = candidates(model, (), (0.5, 1.0))
    costs = measure_costs(model, chosen, Optimiser(), batch_of(kit), tmp_path, Silent())
    table = costs.table(chosen, [0.0] * 4, [0.0] * len(chosen.slices))

    def clock(scheme: Scheme) -> float:
        cost = costs.predict(scheme)
        return 1e-4 + 3e-10 * cost.step_macs + 1e-10 * cost.prefix_macs

    timed = calibrate(table, chosen, costs, clock, Silent())
    for place, depth in enumerate(chosen.depths):
        assert timed.cpu_s(Choice(place)) == pytest.approx(clock(chosen.bias_only(depth)), rel=0.02)
    for place, (layer, ratio, depth) in enumerate(chosen.slices):
        whole = clock(chosen.with_slice(depth, layer, ratio))
        assert timed.cpu_s(Choice(chosen.depths.index(depth), (place,))) == pytest.approx(whole, rel=0.05)


def test_clock_runs_the_compiled_step(kit: Any) -> None:
    clock = measured_cpu_s(kit.seeded("resnet"), kit.lesson("resnet"), Optimiser(kind="sgd"))
    assert 0 < clock(Scheme(biases=1, whole=1)) < 10
