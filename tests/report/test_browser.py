"""The page as a browser shows it, opened from disk; skipped where no browser is installed."""

from __future__ import annotations

import contextlib

import pytest

from tierwise.report import write_report

_CHARTS = ("tradeoff", "stages", "shares", "spread", "bandwidth", "prediction")


@pytest.fixture(scope="module")
def report(make_study, tmp_path_factory):
    data = make_study(failing={"identity@cloud": 0.1}, names={"partition": "partition<b>&'\"" + "x" * 60})
    return write_report(data, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def imported(make_import, tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    return write_report(make_import(folder), folder / "report.html")


@contextlib.contextmanager
def _opened(browser, path, width, scheme="light"):
    """The page in a new tab, with everything it said and asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        yield page, said, asked
    finally:
        page.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_everything_in_silence_and_asks_for_nothing(browser, report, width, scheme):
    with _opened(browser, report, width, scheme) as (page, said, asked):
        assert said == []
        assert asked == [report.as_uri()]
        for name in _CHARTS:
            box = page.locator(f"#chart-{name} svg").bounding_box()
            assert box["width"] > 250, name
            assert box["height"] > 150, name
            assert box["width"] <= width
            marks = f"#chart-{name} :is(.mark-symbol, .mark-rect, .mark-text) :is(path, text)"
            assert page.locator(marks).count() > 10, name
        for plot in page.locator(".plot").all():
            assert plot.get_attribute("role") == "img"
            assert len(plot.get_attribute("aria-label")) > 40, "a sentence for those who do not see the chart"
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 400])
def test_the_map_scrolls_in_its_own_box_and_reads_itself_out(browser, report, width):
    with _opened(browser, report, width) as (page, said, _):
        box = page.locator(".scroll.both")
        size = box.evaluate("box => [box.clientWidth, box.scrollWidth]")
        assert size[0] <= width
        if width == 400:
            assert size[1] > size[0]
            box.evaluate("box => { box.scrollLeft = 300 }")
            name = page.locator(".effects tbody th").first.bounding_box()
            assert name["x"] >= box.bounding_box()["x"] - 1  # the names stay in sight
        page.locator(".effects td[data-p]").nth(1).click()
        words = page.locator(".readout").inner_text().replace("\u00a0", " ")
        assert words.startswith("sptq@mobile against ")
        assert "faster by its ratio's interval, p < 0.0001" in words
        assert "Cliff's delta" in words
        assert page.locator(".effects td.picked").count() == 1
        assert said == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_an_import_has_a_page_as_good(browser, imported, width, scheme):
    with _opened(browser, imported, width, scheme) as (page, said, asked):
        assert said == []
        assert asked == [imported.as_uri()]
        assert page.locator(".plot[data-drawn]").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_its_policy_lets_no_foreign_script_run_and_nothing_out(browser, report):
    with _opened(browser, report, 1280) as (page, said, _):
        page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
                      " document.body.append(s); }")  # fmt: skip
        assert page.evaluate("window.ran") is None
        assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'out', () => 'held')") == "held"
        assert any("Content Security Policy" in line for line in said)


def test_the_table_sorts_both_ways_with_missing_figures_last(browser, make_study, tmp_path):
    data = make_study(failing={"sptq@edge": 1.0})
    path = write_report(data, tmp_path / "report.html")
    with _opened(browser, path, 1280) as (page, _, _):
        cells = "[...document.querySelectorAll('.decision-table tbody tr')].map(row => row.cells[{}].dataset.key)"
        title = page.locator(".decision-table thead th", has_text="p90")
        for direction, reverse in (("ascending", False), ("descending", True)):
            title.locator("button").click()
            assert title.get_attribute("aria-sort") == direction
            keys = page.evaluate(cells.format(2))
            assert keys[-1] is None
            numbers = [float(key) for key in keys[:-1]]
            assert numbers == sorted(numbers, reverse=reverse)
        page.locator(".decision-table thead th button").first.click()
        names = page.evaluate(cells.format(0))
        assert names[0].startswith("identity@")
        assert page.locator(".decision-table thead th[aria-sort]").count() == 1


def test_charts_follow_the_width_of_the_window(browser, report):
    with _opened(browser, report, 1280) as (page, _, _):
        plot = page.locator("#chart-tradeoff svg")
        wide = plot.bounding_box()["width"]
        page.set_viewport_size({"width": 500, "height": 900})
        page.wait_for_function("document.querySelector('#chart-tradeoff svg').getBoundingClientRect().width < 500")
        assert plot.bounding_box()["width"] < wide


def test_colours_follow_the_scheme_without_drawing_anew(browser, report):
    fill = "getComputedStyle(document.querySelector('#chart-stages .mark-rect path')).fill"
    with _opened(browser, report, 1280) as (page, _, _):
        light = page.evaluate(fill)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(fill)
        page.emulate_media(media="print")
        assert page.evaluate(fill) == light != dark


def test_it_can_be_read_without_scripts(browser, report):
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert page.locator(".decision-table tbody tr").count() == 12
    assert "Charts need JavaScript" in page.locator("body").inner_text()
    page.close()
