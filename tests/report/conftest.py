"""A study that never ran: every figure made up from a seed, so that a page of any shape can be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tierwise.artifact import (
    Accuracy,
    Coverage,
    ImageInput,
    Manifest,
    NodeAudit,
    Provenance,
    Segment,
    TensorSpec,
)
from tierwise.measure import Environment, Record, Server, SingleStream, StageTime, Throttling, WarmUp
from tierwise.planner import Cost, Evidence
from tierwise.study import (
    Campaign,
    ImportSpec,
    SessionData,
    Strategy,
    StrategySpec,
    StudyData,
    Variant,
    import_evidence,
)
from tierwise.study._read import summarise_cell
from tierwise.tasks import BuiltinTask
from tierwise.topology import load, scale

_CORRECT = {"identity": 353, "sptq": 352, "partition": 353, "sptq+partition": 352}
_BYTES = {"identity": 1_240_000, "sptq": 331_000, "partition": 1_251_000, "sptq+partition": 338_000}
_ITEMS = 360
_ORDER = ("mobile", "edge", "cloud")


def _environment(minute: int) -> Environment:
    return Environment(
        cpu_model="Example CPU @ 2.10GHz",
        flags=("avx2", "avx512f", "avx512_vnni"),
        isa="x86-vnni",
        host_cpus=8,
        affinity_cpus=8,
        quota_cpus=2.0,
        usable_cpus=2.0,
        governor=None,
        throttling=Throttling(periods=1000 + minute, throttled_periods=12 + minute, throttled_s=0.3 + minute / 100),
        memory_bytes=8_000_000_000,
        memory_available_bytes=5_000_000_000,
        load_1min=0.42,
        versions={"tierwise": "0.1.0", "python": "3.11.8", "onnxruntime": "1.23.0", "numpy": "2.3.0"},
        commit="0123456789abcdef0123456789abcdef01234567+",
        platform="Linux-6.1-x86_64",
        taken_at=f"2026-03-14T09:{minute:02d}:00+00:00",
    )


def _calibration() -> dict[str, Any]:
    link = {"means": "tun", "jitter_s": 0.0, "loss_frac": 0.0, "measured_loss_frac": None, "tries": 1}
    tier = {"address": None, "cpu_means": "cgroup-v1", "memory_means": "cgroup-v1", "tries": 1}
    return {
        "link_means": "tun",
        "limiter": "cgroup-v1",
        "memory_limiter": "cgroup-v1",
        "load_before": 0.4,
        "links": [
            {**link, "lower": "mobile", "upper": "edge", "asked_up_bps": 50e6, "asked_down_bps": 50e6,
             "asked_rtt_s": 0.005, "up_bps": 49.2e6, "down_bps": 49.4e6, "rtt_s": 0.00512, "off_frac": 0.016},
            {**link, "lower": "edge", "upper": "cloud", "asked_up_bps": 10e6, "asked_down_bps": 20e6,
             "asked_rtt_s": 0.04, "up_bps": 9.93e6, "down_bps": 19.8e6, "rtt_s": 0.0402, "off_frac": 0.01},
        ],
        "tiers": [
            {**tier, "tier": name, "asked_cpus": cpus, "threads": max(1, int(cpus)), "memory_bytes": memory,
             "asked_slowdown": max(1.0, 1 / cpus), "short_slowdown": max(1.0, 1 / cpus) * 1.02,
             "long_slowdown": max(1.0, 1 / cpus) * 0.99, "off_frac": 0.02}
            for name, cpus, memory in (
                ("mobile", 0.5, 500_000_000), ("edge", 1.0, 2_000_000_000), ("cloud", 2.0, 8_000_000_000)
            )
        ],
    }  # fmt: skip


def _coverage() -> Coverage:
    reason = "input not quantised: follows ReduceMean pool"
    names = [f"layer{i // 4 + 1}.{i % 4}.conv" for i in range(17)]
    nodes = [NodeAudit(node=name, op="QLinearConv", int8=True, macs=2_360_000) for name in names]
    nodes.append(NodeAudit(node="head.fc", op="Gemm", int8=False, macs=640, reason=reason))
    return Coverage(int8_ops=17, float_ops=1, int8_macs_frac=0.99998, nodes=tuple(nodes), isa="x86-vnni")


def _manifest(chain: str, accuracy: bool, coverage: bool, notes: Sequence[str]) -> Manifest:
    pixels = TensorSpec(name="input", dtype="FP32", shape=(-1, 1, 8, 8))
    middle = TensorSpec(name="cut", dtype="FP32", shape=(-1, 16, 8, 8))
    answer = TensorSpec(name="logits", dtype="FP32", shape=(-1, 10))
    whole = (Segment(file="model.onnx", inputs=(pixels,), outputs=(answer,), macs=40_300_000),)
    cut = (
        Segment(file="head.onnx", inputs=(pixels,), outputs=(middle,), macs=9_500_000),
        Segment(file="tail.onnx", inputs=(middle,), outputs=(answer,), macs=30_800_000),
    )
    parted = chain.endswith("partition")
    cut_notes = ("partition: cut at layer1.2 (relu_3), 1.02 kB an item as uint8",) if parted else ()
    found = (Accuracy(metric="accuracy", value=_CORRECT.get(chain, 350) / _ITEMS, split="test", items=_ITEMS),)
    return Manifest(
        name="digits",
        input=ImageInput(encoding="png", height=8, width=8, channels=1, mean=(0.5,), std=(0.5,)),
        outputs=(answer,),
        segments=cut if parted else whole,
        files=(),
        provenance=Provenance(
            task="digits",
            task_fingerprint="0" * 64,
            chain=chain,
            specs=(),
            versions={},
            composition_error=2.4e-7 if parted else None,
            notes=tuple(notes) or cut_notes,
        ),
        accuracy=found if accuracy else (),
        coverage=_coverage() if coverage and chain.startswith("sptq") else None,
    )


def _stages(chain: str, placement: tuple[str, ...], path: tuple[str, ...]) -> list[tuple[str, str, float, int]]:
    """Tier, stage, typical seconds, bytes up of each stage of one request."""
    slow = {"mobile": 4.0, "edge": 2.0, "cloud": 1.0}
    work = 0.0011 * (0.42 if chain.startswith("sptq") else 1.0)
    rate = {"mobile": 50e6, "edge": 10e6}
    delay = {"mobile": 0.0025, "edge": 0.02}
    first = placement[0]
    out: list[tuple[str, str, float, int]] = []
    size = 410  # the PNG, and the protocol around it
    for tier in path:
        computes = tier in placement
        out.append((tier, "decode", 0.00004 * slow[tier], 0))
        if tier == first:
            out.append((tier, "preprocess", 0.00012 * slow[tier], 0))
        if computes:
            share = 1.0 if len(placement) == 1 else (0.24 if tier == first else 0.76)
            stage = "infer" if len(placement) == 1 else ("head" if tier == first else "tail")
            out += [(tier, "queue", 0.00002, 0), (tier, stage, work * share * slow[tier], 0)]
            if len(placement) > 1 and tier == first:
                size = 1300 if chain.startswith("sptq") else 4350
        out.append((tier, "encode", 0.00005 * slow[tier], 0))
        if tier != path[-1]:
            out.append((tier, "uplink", delay[tier] + 8 * size / rate[tier], size))
            out.append((tier, "downlink", delay[tier] + 8 * 180 / rate[tier], 0))
    out.append((path[-1], "postprocess", 0.00001, 0))
    return out


def _records(
    strategy: Strategy, rng: np.random.Generator, requests: int, failing: float, scenario: str
) -> list[Record]:
    typical = _stages(strategy.chain, strategy.segments, strategy.path)
    found = []
    for number in range(2 * requests + 2):
        session, index = divmod(number, requests + 1)
        cold = index == 0
        speed = (1.0 + 0.02 * session) * rng.lognormal(0, 0.06) * (3.0 if rng.random() < 0.02 else 1.0)
        stages = tuple(StageTime(tier, stage, seconds * speed) for tier, stage, seconds, _ in typical)
        failed = bool(rng.random() < failing) and not cold
        found.append(
            Record(
                strategy=strategy.id,
                scenario=scenario,
                session=session,
                round=0 if cold else (index - 1) // 50,
                query=index,
                sample=index % 50,
                cold=cold,
                started_ns=number * 100_000_000,
                latency_s=sum(one.seconds for one in stages) + 0.0003 * float(rng.lognormal(0, 0.2)),
                load_s=0.021 if cold else 0.0,
                stages=() if failed else stages,
                bytes_up=sum(size for *_, size in typical),
                bytes_down=180 * (len(strategy.path) - 1),
                prediction=None if failed else 3,
                correct=None if failed else True,
                error="edge: the node answered UNAVAILABLE: connection refused" if failed else None,
            )
        )
    return found


def _predicted(strategy: Strategy) -> Cost:
    total = {stage: 0.0 for stage in ("head", "uplink", "tail", "downlink")}
    for _, stage, seconds, _ in _stages(strategy.chain, strategy.segments, strategy.path):
        if stage in total:
            total[stage] += seconds
    return Cost(
        head_s=total["head"], uplink_s=total["uplink"], tail_s=total["tail"], downlink_s=total["downlink"],
        up_bytes=4096, down_bytes=40,
    )  # fmt: skip


def _strategies(chains: Sequence[str], names: dict[str, str], tiers: Sequence[str]) -> list[Strategy]:
    """Every chain on every tier, or every ordered pair of tiers where it is cut."""
    strategies = []
    for chain in chains:
        pairs = [(a, b) for a in tiers for b in tiers if _ORDER.index(a) < _ORDER.index(b)]
        placements = pairs if chain.endswith("partition") else [(tier,) for tier in tiers]
        for placement in placements:
            name = names.get(chain, chain)
            one = Strategy(
                id=f"{name}@{'|'.join(placement)}",
                name=name,
                chain=chain,
                placement="|".join(placement),
                segments=placement,
                path=_ORDER[: _ORDER.index(placement[-1]) + 1],
                variant=chain,
            )
            if chain.endswith("partition"):
                one = dataclasses.replace(one, predicted=_predicted(one))
            strategies.append(one)
    return strategies


def _variants(
    chains: Sequence[str], accuracy: bool, coverage: bool, started: bool, notes: Sequence[str]
) -> dict[str, Variant]:
    return {
        chain: Variant(
            key=chain,
            manifest=_manifest(chain, accuracy, coverage, notes),
            digest="ab" * 32,
            directory=f"artifacts/{chain}",
            artifact_bytes=_BYTES.get(chain, 1_000_000),
            agreement_frac=1.0 if started else None,
        )
        for chain in chains
    }


def _session(number: int, strategies: Sequence[Strategy]) -> SessionData:
    return SessionData(
        number=number,
        attempt=0,
        environment=_environment(5 * number),
        environment_after=_environment(5 * number + 4),
        calibration=_calibration(),
        warmups=tuple(
            WarmUp(strategy=one.id, requests=20, settled=i != 2, last_change_frac=0.01)
            for i, one in enumerate(strategies)
        ),
    )


def made_up_study(
    directory: Path = Path("study-digits"),
    *,
    chains: Sequence[str] = ("identity", "sptq", "partition", "sptq+partition"),
    names: dict[str, str] | None = None,
    tiers: Sequence[str] = ("mobile", "edge", "cloud"),
    requests: int = 50,
    failing: dict[str, float] | None = None,
    accuracy: bool = True,
    coverage: bool = True,
    started: bool = True,
    complete: bool = True,
    server: bool = False,
    notes: Sequence[str] = (),
    task_name: str = "digits",
    toml: str = 'name = "digits"\n',
    seed: int = 7,
) -> StudyData:
    """A study of the default shape: ``requests`` warm requests in each of two sessions for each strategy."""
    rng = np.random.default_rng(seed)
    topology = load("wifi-lte")
    fitted, scaling = scale(topology, 2.0)
    scenario = Server(rate_per_s=20.0) if server else SingleStream()
    strategies = _strategies(chains, names or {}, tiers)
    records: list[Record] = []
    for one in strategies:
        if started:
            records += _records(one, rng, requests, (failing or {}).get(one.id, 0.0), scenario.TAG)
    grouped = {one.id: [record for record in records if record.strategy == one.id] for one in strategies}
    return StudyData(
        directory=directory,
        campaign=Campaign(
            name="digits",
            task=BuiltinTask(name="digits"),
            scenario=scenario,
            strategies=tuple(StrategySpec(chain=chain) for chain in chains) or (StrategySpec(chain="identity"),),
        ),
        campaign_toml=toml,
        topology=topology,
        fitted=fitted,
        scaling=scaling,
        task_name=task_name,
        task_fingerprint="f" * 64,
        metric="accuracy",
        test_items=_ITEMS,
        load_items=50,
        strategies=tuple(strategies),
        variants=_variants(chains, accuracy, coverage, started, notes),
        sessions=tuple(_session(number, strategies) for number in range(2 if started else 0)),
        records=tuple(records),
        cells=tuple(summarise_cell(name, own) for name, own in grouped.items() if own),
        complete=complete,
        tierwise_version="0.1.0",
    )


def made_up_import(folder: Path, *, subjects: Sequence[str] = ("resnet", "bert"), links: bool = True) -> Evidence:
    """An import of three operators on two tiers for each subject, read from files as those of others are."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    latency = ["latency_ms,strategy,tier,subject,kind,block,bytes_up,bytes_down"]
    accuracy = ["strategy,subject,metric,value,items,training_h,artifact_bytes"]
    for subject in subjects:
        for name, work_ms, value, hours in (
            ("identity", 80, 0.93, 0),
            ("sptq", 40, 0.925, 0.1),
            ("qat", 41, 0.93, 2.5),
        ):
            accuracy.append(f"{name},{subject},accuracy,{value},2000,{hours},{int(5e5 * work_ms)}")
            for tier, typical_ms, up in (("mobile", 4 * work_ms, 0), ("edge", 2 * work_ms + 12, 9000)):
                for block, factor in enumerate(rng.lognormal(0, 0.08, 40)):
                    head = f"{typical_ms * factor:.4f},{name},{tier},{subject}"
                    latency.append(f"{head},{'text' if subject == 'bert' else 'image'},{block},{up},{up // 40}")
    paths = folder / "latency.csv", folder / "accuracy.csv"
    for path, lines in zip(paths, (latency, accuracy), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return import_evidence(*paths, ImportSpec(name="theirs", topology=load("wifi-lte") if links else None))


@pytest.fixture(scope="session")
def make_import() -> Callable[..., Evidence]:
    """`made_up_import`, as a fixture."""
    return made_up_import


@pytest.fixture(scope="session")
def make_study() -> Callable[..., StudyData]:
    """`made_up_study`, as a fixture."""
    return made_up_study
