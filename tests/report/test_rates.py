"""What a device stores, computes and sends: three measures, every rate, beside what codes nothing."""

import dataclasses

import msgspec
import pytest

from tierwise.artifact import Boundary, FileEntry, Rate
from tierwise.report import write_report
from tierwise.report._rates import rates
from tierwise.report._sends import sends
from tierwise.study import evidence_of


@pytest.fixture(scope="module")
def narrowed(make_study):
    """A study whose cut of the float model codes what crosses, at two rates; its quantised model has a plain cut."""
    return _narrowed(make_study())


def _narrowed(data, test=0.7):
    found = tuple(
        Rate(channels=n, item_bytes=30.0 * n, metric="accuracy", value=0.8 + n / 50, test=test if n == 2 else None)
        for n in (2, 4)
    )
    boundary = Boundary(tensor="latent", codec="affine", tables="t", rates=found, encoder_bits=4096)
    variants = {}
    for key, variant in data.variants.items():
        parts = [msgspec.structs.replace(part, weight_bits=4096) for part in variant.manifest.segments]
        provenance = variant.manifest.provenance
        if key == "partition":
            parts[0] = msgspec.structs.replace(parts[0], boundary=boundary)
            provenance = msgspec.structs.replace(
                provenance, chain="bottleneck+sptq", specs=({"op": "bottleneck", "preset": "ghnd"}, {"op": "sptq"})
            )
        manifest = msgspec.structs.replace(variant.manifest, segments=tuple(parts), provenance=provenance)
        variants[key] = dataclasses.replace(variant, manifest=manifest)
    return dataclasses.replace(data, variants=variants)


def ways(data):
    return sends(data, evidence_of(data))


def test_every_rate_stands_beside_what_codes_nothing(narrowed):
    found = {(way.strategies, way.method, way.channels): way for way in ways(narrowed)}
    assert set(found) == {
        ("identity", "all local", None),
        ("sptq", "all local", None),
        ("identity", "whole input (png)", None),
        ("sptq", "whole input (png)", None),
        ("sptq+partition", "plain cut", None),
        ("partition", "ghnd+sptq", 2),
        ("partition", "ghnd+sptq", 4),
    }
    local, offload = found["sptq", "all local", None], found["sptq", "whole input (png)", None]
    assert (local.link_bytes, local.device_bits, local.device_macs) == (0, 4096, 40_300_000)
    assert (offload.link_bytes, offload.device_bits, offload.device_macs) == (410, 0, 0)
    less, whole = found["partition", "ghnd+sptq", 2], found["partition", "ghnd+sptq", 4]
    assert (less.frame_bytes, whole.frame_bytes) == (60, 120)
    assert whole.link_bytes - less.link_bytes == 60, "what surrounds a frame is the same at every rate"
    assert (less.test, whole.test) == (0.7, pytest.approx(353 / 360)), "each by its own pass over the test split"
    assert less.device_macs == whole.device_macs == 9_500_000
    cut = found["sptq+partition", "plain cut", None]
    assert (cut.frame_bytes, cut.validation, cut.link_bytes) == (None, None, 1300)


def test_the_front_is_that_of_all_three_measures(narrowed):
    found = ways(narrowed)
    for way in found:
        beaten = any(
            (a := (other.link_bytes, other.device_bits, -other.test))
            != (b := (way.link_bytes, way.device_bits, -way.test))
            and all(x <= y for x, y in zip(a, b, strict=True))
            for other in found
        )
        assert way.on_front != beaten, way
    assert 0 < sum(way.on_front for way in found) < len(found)


def test_what_was_not_measured_is_in_the_table_only(narrowed, make_study):
    known = rates(narrowed, evidence_of(narrowed))
    assert known.left_out == 0
    assert [label for label, _ in known.chart.views] == ["bytes sent", "encoder size", "encoder arithmetic"]
    for _, drawn in known.chart.views:
        points = drawn.spec["datasets"]["points"]
        assert sorted(int(point["number"]) for point in points) == list(range(1, len(known.table.rows) + 1))
        assert all(point["at"] > 0 for point in points), "nothing has a place of its own on a logarithm"
    unknown = _narrowed(make_study(), test=None)
    assert rates(unknown, evidence_of(unknown)).left_out == 1
    silent = _narrowed(make_study(started=False))
    assert rates(silent, None).chart is None
    assert len(rates(silent, None).table.rows) == len(known.table.rows)
    assert rates(make_study(), None) is None


def test_artifacts_of_earlier_releases_count_by_their_files(narrowed):
    variants = {}
    for key, variant in narrowed.variants.items():
        parts = tuple(msgspec.structs.replace(part, weight_bits=None) for part in variant.manifest.segments)
        files = tuple(FileEntry(name=part.file, bytes=1000, sha256="0" * 64) for part in parts)
        manifest = msgspec.structs.replace(variant.manifest, segments=parts, files=files)
        variants[key] = dataclasses.replace(variant, manifest=manifest)
    found = {(way.strategies, way.method): way for way in ways(dataclasses.replace(narrowed, variants=variants))}
    assert found["identity", "all local"].device_bits == 8000
    assert found["partition", "ghnd+sptq"].device_bits == 4096


def test_the_page_shows_them_only_where_there_are_some(narrowed, make_study, tmp_path):
    page = write_report(narrowed, tmp_path / "narrowed.html").read_text(encoding="utf-8")
    assert 'id="rates"' in page
    assert "4,096" in page
    assert 'id="rates"' not in write_report(make_study(), tmp_path / "plain.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_a_browser_switches_hides_and_zooms(browser, narrowed, tmp_path, width, scheme):
    path = write_report(narrowed, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    plot = page.locator("#chart-rates")

    def becomes(expected, title):
        page.wait_for_function(
            """([wanted, title]) => {
              const plot = document.getElementById("chart-rates");
              const seen = [...plot.querySelectorAll(".mark-text text")].map((one) => one.textContent);
              return plot.textContent.includes(title)
                && new Set(seen.filter((text) => /^[0-9]+$/.test(text))).size === wanted;
            }""",
            arg=[expected, title],
            timeout=5000,
        )

    becomes(7, "bytes of a request")
    page.locator("[name=across]").first.focus()
    page.keyboard.press("ArrowRight")  # as the keyboard chooses among radio buttons
    becomes(7, "bits of the parameters")
    assert "encoder size" in plot.get_attribute("aria-label")
    button = page.locator("[data-method='ghnd+sptq']")
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    becomes(5, "bits of the parameters")
    page.locator("[name=across]").first.check()
    becomes(5, "bytes of a request")  # what is hidden stays so
    button.click()
    becomes(7, "bytes of a request")
    # Labels that stay are not drawn anew, so that their order changes.
    labels = "[...document.querySelectorAll('#chart-rates .role-axis-label text')].map((one) => one.textContent)"
    extent = f"{labels}.sort().join()"
    before = page.evaluate(extent)
    for move in ("in", "in", "right"):
        page.locator(f"[data-move={move}]").press("Enter")
    page.wait_for_function(f"() => {extent} !== {before!r}", timeout=5000)
    page.locator("[data-move=all]").click()
    page.wait_for_function(f"() => {extent} === {before!r}", timeout=5000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert asked == [path.as_uri()]
    page.close()
