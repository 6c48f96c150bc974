"""Coded latents on the page: three measures, the encoder's arithmetic, every rate."""

import dataclasses

import msgspec
import pytest

from tierwise.artifact import Boundary, Rate
from tierwise.report import write_report
from tierwise.report._rates import measured, rates_chart, rates_table


@pytest.fixture(scope="module")
def narrowed(make_study):
    """A study whose cut variants code what crosses, at two rates."""
    data = make_study()
    rates = tuple(Rate(channels=n, item_bytes=30.0 * n, metric="accuracy", value=0.8 + n / 50) for n in (2, 4))
    boundary = Boundary(tensor="latent", codec="affine", tables="t", rates=rates, encoder_bits=4096)
    variants = {}
    for key, variant in data.variants.items():
        first, *rest = variant.manifest.segments
        if "partition" in variant.manifest.provenance.chain:
            first = msgspec.structs.replace(first, boundary=boundary)
        manifest = msgspec.structs.replace(variant.manifest, segments=(first, *rest))
        variants[key] = dataclasses.replace(variant, manifest=manifest)
    return dataclasses.replace(data, variants=variants)


def test_every_rate_has_a_row(narrowed):
    points = measured(narrowed)
    assert {point.channels for point in points} == {2, 4}
    assert all(point.encoder_bits == 4096 and point.encoder_macs > 0 for point in points)
    assert all((point.test is None) == (point.channels == 2) for point in points), "accuracy is that of all channels"
    table = rates_table(points)
    assert len(table.rows) == len(points)
    drawn = rates_chart(points).spec["datasets"]["rates"]
    assert [row["bytes"] for row in drawn] == [point.item_bytes for point in points]


def test_the_page_shows_them_only_where_there_are_some(narrowed, make_study, tmp_path):
    page = write_report(narrowed, tmp_path / "narrowed.html").read_text(encoding="utf-8")
    assert 'id="rates"' in page
    assert "4,096" in page
    assert 'id="rates"' not in write_report(make_study(), tmp_path / "plain.html").read_text(encoding="utf-8")
