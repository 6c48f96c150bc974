"""Pages of studies that others measured: what the files hold is shown, what they do not hold is not."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from tierwise.cli._report import command
from tierwise.report import write_report
from tierwise.study import write_evidence


def _charts(page):
    return set(json.loads(re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)[1])["charts"])


def test_every_subject_has_its_sections(make_import, tmp_path):
    page = write_report(make_import(tmp_path), tmp_path / "report.html").read_text(encoding="utf-8")
    assert _charts(page) == {f"{name}-{i}" for name in ("tradeoff", "spread", "bandwidth") for i in (1, 2)}
    for words in ("12 deployments of resnet, bert", "Nothing was measured or built by Tierwise", "2.5 h", "bert: "):
        assert words in page.replace("\u00a0", " "), words
    for section in ("stages", "deploy", "int8", "calibration", "environment", "prediction"):
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page
    assert page.count('class="effects"') == 2


def test_one_subject_without_links(make_import, tmp_path):
    evidence = make_import(tmp_path, subjects=("resnet",), links=False)
    first = write_report(evidence, tmp_path / "a.html")
    page = first.read_text(encoding="utf-8")
    assert _charts(page) == {"tradeoff", "spread"}
    assert "what other links would change cannot be said" in page
    assert write_report(evidence, tmp_path / "b.html").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("text", [True, False])
def test_the_command_takes_an_import(make_import, tmp_path, text):
    directory = write_evidence(tmp_path / "theirs", make_import(tmp_path))
    done = CliRunner().invoke(command, [str(directory), *(["--text"] if text else [])])
    assert done.exit_code == 0, done.output
    assert "sptq@edge" in done.output
    assert (directory / "report.html").exists() != text
