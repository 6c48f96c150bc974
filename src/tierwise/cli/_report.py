"""``tierwise study report``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command(epilog="\b\nExample:\n  tierwise study report study-digits\n")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page [DIRECTORY/report.html].")
@click.option("--text", is_flag=True, help="Print the table only, write nothing.")
def command(directory: Path, out: Path | None, text: bool) -> None:
    """Make the report of a study again from its records; works on a study that is not complete, too.

    DIRECTORY may also hold an import: the page then has the sections that the imported files can fill.
    """
    from tierwise.report import text_table, write_report
    from tierwise.study import is_import, load_evidence, load_study

    where = out if out is not None else directory / "report.html"
    if is_import(directory):
        from tierwise.cli._recommend_text import table_text
        from tierwise.planner import decision_table

        evidence = load_evidence(directory)
        click.echo(table_text(evidence, decision_table(evidence)))
        page = None if text else write_report(evidence, where)
    else:
        data = load_study(directory)
        click.echo(text_table(data))
        page = None if text else write_report(data, where)
    if page is not None:
        click.echo(f"\nThe report: {page.resolve()}")
