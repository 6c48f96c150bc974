"""``tierwise study import``."""

from __future__ import annotations

from pathlib import Path

import click

from tierwise._config import convert
from tierwise._errors import InputError

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise study import --latency requests.csv --accuracy scores.csv --out theirs
  tierwise study import --latency requests.csv --accuracy scores.csv --out theirs \\
      --columns "latency=Response time,strategy=Operator,subject=Model" --unit s --kind bert=text --kind vit=image
  tierwise study import --latency latency.csv --accuracy accuracy.csv --answers answers.csv --out ours-again
  tierwise recommend theirs --subject vit --max-accuracy-drop 2pp

The latency file has one row a request: latency_ms (any of ns, us, ms, s, min), strategy, tier (edge, mobile|edge or
Mobile-Edge), subject; and where known block, kind, bytes_up, bytes_down. The accuracy file has one row a figure:
strategy, subject, metric, value (or value_percent); and where known tier, items, training_h, artifact_bytes, variant.
The answers file has one row an item of the test split: item, label, and a column of answered classes for each variant,
strategy@tier or strategy; and subject where there are several. With it accuracies are compared item by item.
"""

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("import", epilog=_EPILOG)
@click.option("--latency", type=_FILE, required=True, help="CSV (or .csv.gz), one row a request.")
@click.option("--accuracy", type=_FILE, required=True, help="CSV (or .csv.gz), one row an accuracy.")
@click.option("--answers", type=_FILE, help="CSV (or .csv.gz), one row an item of the test split.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New directory of the imported study.")
@click.option("--columns", default="", metavar="ROLE=TITLE,...", help="Titles of columns that are called otherwise.")
@click.option("--unit", help="Unit of the latencies where their column's title has none.")
@click.option("--kind", "kinds", multiple=True, metavar="SUBJECT=KIND", help="image, text or tensor; may be repeated.")
@click.option("--baseline", default="identity", show_default=True, help="Strategy that accuracy is lost against.")
@click.option("--metric", help="Accuracy metric that decides [each subject's first].")
@click.option("--paired-by-order", is_flag=True, help="The k-th rows of all strategies were measured side by side.")
@click.option("--topology", help="Preset or TOML file with the links that the bytes crossed, for what-if questions.")
def command(
    latency: Path,
    accuracy: Path,
    answers: Path | None,
    out: Path,
    columns: str,
    unit: str | None,
    kinds: tuple[str, ...],
    baseline: str,
    metric: str | None,
    paired_by_order: bool,
    topology: str | None,
) -> None:
    """Import a study that others made, so that statistics, recommendations and the report work on it.

    The files are read strictly: whatever does not fit is refused with its line, and then nothing is written.
    """
    from tierwise.planner import SubjectKind
    from tierwise.study import ImportSpec, import_evidence, write_evidence
    from tierwise.topology import load

    spec = ImportSpec(
        name=out.name,
        columns=_pairs(columns.split(",") if columns else (), "--columns"),
        unit=unit,
        kinds=convert(_pairs(kinds, "--kind"), dict[str, SubjectKind], where="--kind"),
        baseline=baseline,
        metric=metric,
        paired_by_order=paired_by_order,
        topology=None if topology is None else load(topology),
    )
    evidence = import_evidence(latency, accuracy, spec, answers=answers)
    write_evidence(out, evidence)
    count = len(evidence.subjects)
    requests = sum(one.requests for one in evidence.deployments)
    click.echo(
        f"{requests} requests, {len(evidence.deployments)} strategies of {count} subject{'s' if count > 1 else ''} "
        f"in {out}"
    )
    for note in evidence.notes:
        click.echo(f"note: {note}")


def _pairs(words: tuple[str, ...] | list[str], option: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InputError("an entry must read NAME=VALUE", got=repr(word), where=option)
        pairs[key.strip()] = value.strip()
    return pairs
