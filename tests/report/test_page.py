from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys

import pytest

from tierwise._errors import InputError, UnavailableError
from tierwise.report import write_report

_HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><!--"


def _page(data, folder):
    return write_report(data, folder / "report.html").read_text(encoding="utf-8")


def _charts(page):
    return json.loads(re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)[1])["charts"]


class _Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_everything_is_inside_the_page(make_study, tmp_path):
    page = _page(make_study(), tmp_path)
    elements = _Elements()
    elements.feed(page)
    outside = [value for name, value in elements.attributes if name in ("src", "href", "srcset", "data", "poster")]
    assert all(value.startswith(("#", "data:")) for value in outside)
    assert "@import" not in page.partition("<body>")[0]
    assert any(value.startswith("default-src 'none'; script-src 'sha256-") for _, value in elements.attributes)
    assert set(_charts(page)) == {"tradeoff", "stages", "shares", "spread", "bandwidth", "prediction"}
    assert page.count("<h1>") == 1
    assert '<html lang="en">' in page
    assert len(page) < 1_400_000


def test_a_page_is_a_function_of_its_study(make_study, tmp_path):
    first = write_report(make_study(), tmp_path / "a" / "report.html")
    second = write_report(make_study(), tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.html"]  # nothing left beside them


def test_hostile_text_stays_text(make_study, tmp_path):
    data = make_study(
        chains=("identity", "partition"),
        names={"identity": _HOSTILE, "partition": "{{ 7 * 7 }}"},
        notes=(_HOSTILE,),
        task_name=_HOSTILE,
        toml=f"# {_HOSTILE}\n",
        failing={f"{_HOSTILE}@mobile": 0.2},
    )
    page = _page(data, tmp_path)
    elements = _Elements()
    elements.feed(page)
    assert "img" not in elements.tags
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    assert elements.tags.count("script") == 3
    assert _HOSTILE in elements.text  # and it can still be read
    assert "{{ 7 * 7 }}" in elements.text
    assert any(_HOSTILE in point["strategy"] for point in _charts(page)["tradeoff"]["datasets"]["points"])


_ALWAYS = {"tradeoff", "stages", "shares", "spread"}
_LINKS = {"bandwidth"}
_CUTS = {"prediction"}


@pytest.mark.parametrize(
    ("options", "drawn", "words"),
    [
        ({"started": False}, set(), "Nothing was emulated, or no session has begun"),
        ({"chains": ()}, set(), "The study has no strategies"),
        ({"accuracy": False}, {"stages", "shares", "spread"} | _LINKS | _CUTS, "not measured"),
        ({"coverage": False}, _ALWAYS | _LINKS | _CUTS, "No variant of this study is"),
        ({"chains": ("identity",), "tiers": ("mobile",)}, _ALWAYS, "one deployment"),
        ({"chains": ("identity",), "requests": 230}, _ALWAYS | _LINKS, "of 460"),
        ({"chains": ("identity",), "requests": 1}, _ALWAYS | _LINKS, "open"),
        ({"chains": ("identity",), "server": True}, _ALWAYS | _LINKS, "Throughput"),
        ({"complete": False}, _ALWAYS | _LINKS | _CUTS, "Incomplete"),
    ],
)
def test_a_study_of_any_shape_has_a_page(make_study, tmp_path, options, drawn, words):
    page = _page(make_study(**options), tmp_path)
    assert set(_charts(page)) == drawn
    assert words in page


def test_every_strategy_may_fail(make_study, tmp_path):
    data = make_study(chains=("identity",), failing={f"identity@{tier}": 1.0 for tier in ("mobile", "edge", "cloud")})
    page = _page(data, tmp_path)
    assert _charts(page) == {}
    assert "There is no verdict: every strategy failed too often." in page
    assert "connection refused" in page


def test_reservations_are_on_the_page(make_study, tmp_path):
    page = _page(make_study(), tmp_path)
    for words in (
        "a TUN relay",
        "control groups (v1)",
        "scaled down to 1/8",
        "≥ 459 samples",
        "has 100",
        "warm-ups ended by their cap",
        "Modelled energy",
        "assumed: phone-class SoC",
        "follows ReduceMean pool",
    ):
        assert words in page.replace("\u00a0", " "), words


def test_an_old_report_survives_a_failure(make_study, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UnavailableError, match=r"pip install \"tierwise\[report\]\""):
        write_report(make_study(started=False), path)
    assert path.read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(make_study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/report\.html: the report must be writable"):
        write_report(make_study(started=False), tmp_path / "file" / "report.html")


def test_reading_a_study_loads_no_chart_library():
    heavy = {"torch", "transformers", "altair", "jinja2", "vl_convert", "pandas"}
    code = f"import sys, tierwise.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
