"""Evidence from a study's records, and that an import of the same records decides the same."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tierwise._errors import StoreError
from tierwise.artifact import Accuracy, ImageInput, Manifest, Provenance, Segment, TensorSpec
from tierwise.measure import Record, StageTime, read_environment
from tierwise.planner import AccuracyDrop, Comparison, Need, recommend
from tierwise.study import (
    Answers,
    ImportSpec,
    SessionData,
    Strategy,
    StudyData,
    Variant,
    evidence_of,
    import_evidence,
    load_campaign,
    write_evidence,
)
from tierwise.topology import load, scale

TOPOLOGY = load("wifi-lte")
ENCODING = ImageInput(encoding="png", height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))
X, H, Y = (TensorSpec(name=n, dtype="FP32", shape=(-1, size)) for n, size in (("x", 64), ("h", 16), ("y", 10)))
PLACES = {
    "identity@mobile": ("mobile",),
    "identity@edge": ("edge",),
    "identity@cloud": ("cloud",),
    "partition@edge|cloud": ("edge", "cloud"),
}
ORDER = ("mobile", "edge", "cloud")


def manifest(chain: str, value: float) -> Manifest:
    parts = [(X, H), (H, Y)] if "partition" in chain else [(X, Y)]
    return Manifest(
        name="m",
        input=ENCODING,
        outputs=(Y,),
        segments=tuple(
            Segment(file=f"{i}.onnx", inputs=(a,), outputs=(b,), macs=100) for i, (a, b) in enumerate(parts)
        ),
        files=(),
        provenance=Provenance(task="t", task_fingerprint="f", chain=chain, specs=(), versions={}, training_s=2.0),
        accuracy=(
            Accuracy(metric="accuracy", value=value, split="test", items=500),
            Accuracy(metric="accuracy", value=0.1, split="validation", items=50),
        ),
    )


def record(strategy: str, query: int, latency_s: float, **other: object) -> Record:
    path = ORDER[: ORDER.index(PLACES[strategy][-1]) + 1]
    stages = [StageTime("client", "uplink", 1e-4)]
    stages += [StageTime(tier, "uplink", 0.004) for tier in path[:-1]]
    stages += [StageTime(tier, "downlink", 0.003) for tier in path[:-1]]
    stages += [StageTime(path[-1], "infer", 0.01), StageTime(path[-1], "queue", 5.0)]
    input_links = ORDER.index(PLACES[strategy][0])
    up = 100 * input_links + (300 if "partition" in strategy else 0)
    fields = {
        "session": 0,
        "round": 0,
        "sample": query % 10,
        "cold": False,
        "started_ns": 0,
        "stages": tuple(stages),
        "bytes_up": up,
        "bytes_down": 50 * (len(path) - 1),
        "correct": query % 10 != 3,
    }
    return Record(strategy=strategy, scenario="single-stream", query=query, latency_s=latency_s, **{**fields, **other})


def study(
    records: tuple[Record, ...], *, sessions: tuple[SessionData, ...] = (), answers: Answers | None = None
) -> StudyData:
    fitted, scaling = scale(TOPOLOGY, 2.0)
    return StudyData(
        directory=Path("somewhere"),
        campaign=load_campaign("digits"),
        campaign_toml="",
        topology=TOPOLOGY,
        fitted=fitted,
        scaling=scaling,
        task_name="digits",
        task_fingerprint="f",
        metric="accuracy",
        test_items=500,
        load_items=10,
        strategies=tuple(
            Strategy(
                id=id,
                name=id.partition("@")[0],
                chain=id.partition("@")[0],
                placement="|".join(tiers),
                segments=tiers,
                path=ORDER[: ORDER.index(tiers[-1]) + 1],
                variant=id.partition("@")[0],
            )
            for id, tiers in PLACES.items()
        ),
        variants={
            chain: Variant(chain, manifest(chain, value), "d", "a", 1000)
            for chain, value in (("identity", 0.95), ("partition", 0.94))
        },
        sessions=sessions,
        records=records,
        cells=(),
        complete=True,
        tierwise_version="0",
        answers=answers,
    )


def measured() -> tuple[Record, ...]:
    generator = np.random.default_rng(0)
    speed = {"identity@mobile": 0.08, "identity@edge": 0.05, "identity@cloud": 0.12, "partition@edge|cloud": 0.1}
    return tuple(
        record(id, query, float(s * common * generator.lognormal(0, 0.05)))
        for query, common in enumerate(generator.lognormal(0, 0.2, 60))
        for id, s in speed.items()
    )


def test_deployments_as_they_were_measured() -> None:
    cold = record("identity@edge", 0, 9.0, cold=True)
    failed = record("identity@edge", 60, 9.0, error="gone", round=1)
    found = evidence_of(study((*measured(), cold, failed)))
    by_id = {one.id: one for one in found.deployments}
    edge, cut = by_id["identity@edge"], by_id["partition@edge|cloud"]
    assert (edge.requests, edge.errors, edge.training_s, edge.artifact_bytes) == (61, 1, 2.0, 1000)
    assert (edge.accuracies, edge.accuracy_items) == ({"accuracy": 0.95}, 500)
    assert len(found.samples[edge.key].latency_s) == 60
    assert found.samples[edge.key].latency_s.max() < 1
    assert [(hop.lower, hop.up_bytes, hop.down_bytes, hop.carries) for hop in cut.hops] == [
        ("mobile", 100, 50, "input"),
        ("edge", 300, 50, "boundary"),
    ]
    assert [hop.up_bytes for hop in by_id["identity@cloud"].hops] == [100, 100]
    assert edge.hops[0].measured_s == pytest.approx(0.007)
    assert by_id["identity@mobile"].hops == ()
    assert found.accuracy_lost(cut) == pytest.approx(0.01)
    assert (found.subjects[0].kind, found.subjects[0].baseline, found.subjects[0].paired) == ("image", "identity", True)
    # Records say which requests were right, but these are no test items.
    assert found.judged == {}
    assert "not kept for 2 of 2 variants" in found.notes[0]
    np.testing.assert_array_equal(found.samples[edge.key].block, found.samples[cut.key].block)


def test_accuracies_are_compared_by_the_test_items() -> None:
    labels = np.arange(500) % 10
    wrong = np.where(np.arange(500) < 25, (labels + 1) % 10, labels)
    answers = Answers(
        labels, {"identity": wrong, "partition": np.where(np.arange(500) < 30, (labels + 1) % 10, labels)}
    )
    found = evidence_of(study(measured(), answers=answers))
    by_id = {one.id: one for one in found.deployments}
    assert found.judged[by_id["identity@edge"].key].right.sum() == 475
    assert not any("were not kept" in note for note in found.notes)
    contrast = Comparison(found, found.subjects[0], Need()).contrast("identity@edge", "partition@edge|cloud")
    assert (contrast.accuracy.items, contrast.accuracy.only_first, contrast.accuracy.only_second) == (500, 5, 0)
    assert contrast.accuracy.p == pytest.approx(2 * 0.5**5)
    assert contrast.accuracy_difference.value == pytest.approx(0.01)


def test_energy_is_modelled_from_compute_time_and_bytes() -> None:
    records = tuple(record("identity@edge", query, 0.05) for query in range(5))
    energy = evidence_of(study(records)).deployments[0].energy
    mobile, edge = TOPOLOGY.tier("mobile").power, TOPOLOGY.tier("edge").power
    expected = mobile.idle_w * 0.05 + mobile.radio_j_per_byte * 150
    expected += edge.idle_w * 0.05 + (edge.active_w - edge.idle_w) * 0.01  # waiting in a queue is not computing
    assert energy.joules == pytest.approx(expected)
    assert energy.kind == "modelled"
    assert edge.source in energy.source


def test_links_are_those_calibrated_or_else_those_asked() -> None:
    asked = evidence_of(study(measured())).links
    assert [(link.source, link.up_bps) for link in asked] == [("asked", link.up_bps) for link in TOPOLOGY.links]
    environment = read_environment()
    seen = {"lower": "mobile", "upper": "edge", "down_bps": 2e6, "rtt_s": 0.02}
    sessions = tuple(
        SessionData(i, 0, environment, None, {"links": [{**seen, "up_bps": rate}]}, ())
        for i, rate in enumerate((1e6, 3e6, 2e6))
    )
    links = evidence_of(study(measured(), sessions=sessions)).links
    assert (links[0].source, links[0].up_bps, links[0].down_bps, links[0].rtt_s) == ("calibrated", 2e6, 2e6, 0.02)
    assert links[1].source == "asked"


def test_a_strategy_that_never_answered_is_named() -> None:
    gone = record("identity@cloud", 0, 1.0, error="refused")
    found = evidence_of(study((gone, *(one for one in measured() if one.strategy != "identity@cloud"))))
    assert "identity@cloud" not in {one.id for one in found.deployments}
    assert "no request was answered: identity@cloud" in found.notes[0]


def test_a_study_without_answers_is_refused() -> None:
    with pytest.raises(StoreError, match="needs measured strategies"):
        evidence_of(study(()))


def imported(folder: Path, records: tuple[Record, ...]) -> tuple[Path, Path]:
    latency, accuracy = folder / "latency.csv", folder / "accuracy.csv"
    rows = [
        f"{one.latency_s!r},{one.strategy.partition('@')[0]},{one.strategy.partition('@')[2]},digits,{one.query}"
        for one in records
    ]
    latency.write_text("latency_s,strategy,tier,subject,block\n" + "\n".join(rows) + "\n")
    accuracy.write_text(
        "strategy,subject,metric,value,items\nidentity,digits,accuracy,0.95,500\npartition,digits,accuracy,0.94,500\n"
    )
    return latency, accuracy


@pytest.mark.parametrize("tests", ["blocked", "paper"])
def test_an_import_of_the_same_records_decides_the_same(tests: str, tmp_path: Path) -> None:
    ours = evidence_of(study(measured()))
    theirs = import_evidence(*imported(tmp_path, measured()), ImportSpec(kinds={"digits": "image"}))
    need = Need(max_accuracy_drop=AccuracyDrop(frac=0.02), max_latency_s=0.09, tests=tests)
    one, other = recommend(ours, need), recommend(theirs, need)
    assert one.chosen == other.chosen == "identity@edge"
    assert one.tests == other.tests
    assert one.runner_up.ratio == other.runner_up.ratio
    assert (one.runner_up.p, one.runner_up.delta) == (other.runner_up.p, other.runner_up.delta)
    assert [each.id for each in one.excluded] == [each.id for each in other.excluded]
    # What the import does not know it says.
    assert "cannot be said" in other.notes[-1]
    assert one.sweeps


def tierwise(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tierwise", *words], capture_output=True, text=True, timeout=60)


def test_the_command_answers_in_words_and_in_json(tmp_path: Path) -> None:
    evidence = import_evidence(*imported(tmp_path, measured()))
    directory = str(write_evidence(tmp_path / "theirs", evidence))
    table = tierwise("recommend", directory)
    assert table.returncode == 0, table.stderr
    assert "identity@edge" in table.stdout
    text = tierwise("recommend", directory, "--max-latency", "120ms", "--at", "p90", "--max-accuracy-drop", "2pp")
    assert text.returncode == 0, text.stderr
    for word in ("take identity@edge", "runner-up", "Cliff's delta", "Friedman", "excluded   identity@cloud", "p90 "):
        assert word in text.stdout
    answer = json.loads(tierwise("recommend", directory, "--minimize", "accuracy-drop", "--json").stdout)
    assert answer["chosen"].startswith("identity@")
    assert msgspec.json.encode(answer)
    none = tierwise("recommend", directory, "--max-latency", "1ms")
    assert "no deployment fits; the nearest is identity@edge" in none.stdout
    assert "relax max-latency by" in none.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--max-latency", "100"), 2, "duration"),
        (("--max-accuracy-drop", "1"), 2, "1pp or 1%"),
        (("--at", "95"), 2, "p95"),
        (("--tiers", "moon"), 2, "moon"),
        (("--subject", "other"), 2, "digits"),
        (("--max-energy", "1kWh"), 2, "1J"),
        (("--minimize", "energy"), 2, "energy"),
    ],
)
def test_wrong_words_are_one_line(words: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    evidence = import_evidence(*imported(tmp_path, measured()))
    done = tierwise("recommend", str(write_evidence(tmp_path / "theirs", evidence)), *words)
    assert done.returncode == code, done.stdout
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("recommend",), ("study", "import")])
def test_help_has_examples(words: tuple[str, ...]) -> None:
    assert "Examples" in tierwise(*words, "--help").stdout


def test_no_study_no_recommendation(tmp_path: Path) -> None:
    done = tierwise("recommend", str(tmp_path))
    assert done.returncode == 6
    assert "study import" in done.stderr
