"""The page: values, charts and scripts in one file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwise import __version__
from tierwise._errors import InputError, UnavailableError
from tierwise.planner import Evidence
from tierwise.report import _charts as charts
from tierwise.report._imported import imported_view
from tierwise.report._training import TrainingView, training_view
from tierwise.report._view import View, view
from tierwise.study import StudyData
from tierwise.training import Trace, Trial

__all__ = ["write_report", "write_training_report"]

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[nµm]?s\b|[kMG]?B\b|[kMG]?bit/s|CPUs?\b))")


def write_report(data: StudyData | Evidence, path: Path) -> Path:
    """Write the study's report: one HTML page that opens offline, whole or not at all.

    The page is a function of ``data`` and the installed versions alone: written twice, it is the same byte for byte.

    Args:
        data: A study, complete or not; or evidence alone, as imported studies have it, for the sections it can fill.
        path: File to write; missing folders are made, an older report is replaced.

    Returns:
        ``path``.

    Raises:
        UnavailableError: The packages that draw charts are not installed.
        InputError: The file cannot be written there.
    """
    page = imported_view(data) if isinstance(data, Evidence) else view(data)
    return _written(path, _render("report.html", page))


def write_training_report(trials: Sequence[Trial], traces: Sequence[Trace], path: Path) -> Path:
    """Write the page of training schemes that were compared, as `write_report` writes a study's.

    Args:
        trials: Of one task.
        traces: Memory of a step, of the schemes it is known of.
        path: File to write.

    Returns:
        ``path``.

    Raises:
        UnavailableError: The packages that draw charts are not installed.
        InputError: No trials, trials of several tasks, or the file cannot be written there.
    """
    return _written(path, _render("training.html", training_view(trials, traces)))


def _written(path: Path, text: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8", newline="\n")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"the report must be writable ({error.strerror or error})", where=path) from error
    return path


def _render(template: str, page: View | TrainingView) -> str:
    try:
        import altair  # noqa: F401 - the charts need it; better said here than halfway
        import jinja2
        import vl_convert  # noqa: F401
        from markupsafe import Markup, escape
    except ImportError as error:
        raise _missing(error) from error
    # The template escapes every value; what is marked safe below is our own text or made by `_inert`.
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tierwise.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["unbroken"] = _unbroken
    # A narrow column breaks a strategy's name after these signs rather than inside a word.
    templates.filters["breakable"] = lambda text: Markup(re.sub(r"([+@|])", r"\1<wbr>", str(escape(text))))
    library = _library()
    script, style = _source(templates, "report.js"), _source(templates, "report.css")
    if "</script" in library.lower() or "\r" in library:
        raise UnavailableError("the chart library must be embeddable in a page", got="a closing tag inside it")
    drawn = {one.id: one.spec for one in page.drawn()}
    return templates.get_template(template).render(
        view=page,
        version=__version__,
        policy=_policy(library, script),
        library=Markup(library),
        script=Markup(script),
        style=Markup(style),
        charts_json=Markup(_inert({"config": charts.CONFIG, "charts": drawn})),
    )


def _unbroken(text: str) -> str:
    """A figure stays on one line with its unit. Not for text that is to be copied."""
    return _BEFORE_UNIT.sub("\u00a0", text)


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed in one script; making it takes seconds, so it is made once a process."""
    import vl_convert

    library: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return library


def _source(templates: Any, name: str) -> str:
    text: str = templates.loader.get_source(templates, name)[0]
    return text


def _missing(error: ImportError) -> UnavailableError:
    return UnavailableError(
        "the packages that draw a report must be installed",
        got=f"no {error.name}",
        fix='Install them with: pip install "tierwise[report]"',
    )


def _inert(value: object) -> str:
    """JSON that no HTML parser can mistake for markup, whatever text is inside."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _policy(*scripts: str) -> str:
    """A content policy that runs exactly these scripts and lets nothing in or out."""
    hashes = (base64.b64encode(hashlib.sha256(one.encode("utf-8")).digest()).decode("ascii") for one in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; connect-src 'none'; "
        "base-uri 'none'; form-action 'none'"
    )
