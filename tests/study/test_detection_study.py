"""A study of a detector, from its campaign to its report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tierwise.measure import Profile, Silent, SingleStream
from tierwise.report import write_report
from tierwise.study import Campaign, StrategySpec, load_study, run_study
from tierwise.tasks import SPLITS, DetectionTask, FastestDet, Training, YoloFolders
from tierwise.topology import Link, Tier, Topology

pytest.importorskip("pycocotools")


@pytest.fixture
def squares(tmp_path: Path) -> YoloFolders:
    generator = np.random.default_rng(0)
    for split in SPLITS:
        for folder in ("images", "labels"):
            (tmp_path / split / folder).mkdir(parents=True)
        for i in range(4):
            pixels = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[16:48, 16:48] = (250, 200, 40)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG")
            (tmp_path / split / "images" / f"{i}.jpg").write_bytes(file.getvalue())
            (tmp_path / split / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5")
    return YoloFolders(**{name: str(tmp_path / name) for name in SPLITS}, labels=("square",))


@pytest.mark.emulation
def test_a_study_of_boxes_goes_from_campaign_to_report(squares: YoloFolders, tmp_path: Path) -> None:
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=2 * 10**9) for name in ("low", "high"))
    link = Link(lower="low", upper="high", up_bps=50e6, down_bps=50e6, rtt_s=0.004)
    training = Training(epochs=1, batch=4, precision="float32")
    campaign = Campaign(
        name="boxes",
        task=DetectionTask(data=squares, subject=FastestDet(width=16), training=training, pixels=64, metric="map50"),
        topology=Topology(name="two", tiers=tiers, links=(link,)),
        profile=Profile(sessions=2, rounds=1, samples=4, cold_starts=1, warmup_window=2, warmup_windows=2),
        scenario=SingleStream(),
        strategies=(StrategySpec(chain="identity"),),
        link_means="proxy",
    )
    run_study(campaign, tmp_path / "study", Silent(), cache=tmp_path / "cache")
    study = load_study(tmp_path / "study")
    variants = {strategy.variant: study.variants[strategy.variant] for strategy in study.strategies}
    for variant in variants.values():
        assert [(one.metric, one.split, one.items) for one in variant.manifest.accuracy] == [("map50", "test", 4)]
    page = write_report(study, tmp_path / "report.html").read_text()
    assert "map50" in page
