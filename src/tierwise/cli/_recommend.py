"""``tierwise recommend``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tierwise._config import convert
from tierwise._errors import InputError
from tierwise._units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from tierwise.planner import AccuracyDrop

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise recommend study-digits                                      the decision table
  tierwise recommend study-digits --max-latency 100ms --at p95 --max-accuracy-drop 1pp
  tierwise recommend study-digits --tiers mobile,edge --minimize energy --json
  tierwise recommend study-images study-texts                          one table over several studies
  tierwise recommend theirs --subject bert --tests paper --max-latency 50ms
"""

_QUANTITIES = ["latency", "accuracy-drop", "energy", "bytes", "size", "training-cost"]


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIRECTORY...")
@click.option("--subject", help="Which subject, where there are several.")
@click.option("--max-latency", metavar="TIME", help="Bound on latency, such as 100ms.")
@click.option("--at", default="p50", show_default=True, metavar="pNN", help="Quantile that is bounded and minimised.")
@click.option("--max-accuracy-drop", metavar="DROP", help="1pp (points) or 1% (of the baseline's accuracy).")
@click.option("--max-energy", metavar="JOULES", help="Bound on the energy of one request, such as 0.5J.")
@click.option("--max-bytes", metavar="SIZE", help="Bound on the bytes of one request over all links, such as 50kB.")
@click.option("--max-size", metavar="SIZE", help="Bound on the size of the artifact, such as 20MB.")
@click.option("--max-training-cost", metavar="TIME", help="Bound on CPU time of training, such as 2h.")
@click.option("--tiers", metavar="A,B", help="Tiers that may compute.")
@click.option("--minimize", type=click.Choice(_QUANTITIES), help="What decides among those that fit [latency].")
@click.option("--margin", default="5%", show_default=True, metavar="SHARE", help="Difference that does not matter.")
@click.option(
    "--tests",
    type=click.Choice(["blocked", "paper"]),
    default="blocked",
    show_default=True,
    help="paper: exactly the tests of the published study.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    directories: tuple[Path, ...],
    subject: str | None,
    max_latency: str | None,
    at: str,
    max_accuracy_drop: str | None,
    max_energy: str | None,
    max_bytes: str | None,
    max_size: str | None,
    max_training_cost: str | None,
    tiers: str | None,
    minimize: str | None,
    margin: str,
    tests: str,
    as_json: bool,
) -> None:
    """Recommend a deployment from the study (or import) in DIRECTORY, with the evidence and what would change it.

    Without a constraint or objective it prints the decision table: per tier and kind of subject, which operator for
    which need.
    """
    from tierwise.cli._recommend_text import recommendation_text, table_text
    from tierwise.planner import Need, decision_table, joined, recommend
    from tierwise.study import load_evidence

    need = convert(
        {
            "max_latency_s": None if max_latency is None else parse_seconds(max_latency),
            "at": _quantile(at),
            "max_accuracy_drop": None if max_accuracy_drop is None else msgspec.to_builtins(_drop(max_accuracy_drop)),
            "max_energy_j": None if max_energy is None else _number(max_energy, "J", "--max-energy"),
            "max_bytes": None if max_bytes is None else parse_bytes(max_bytes),
            "max_size_bytes": None if max_size is None else parse_bytes(max_size),
            "max_training_s": None if max_training_cost is None else _hours(max_training_cost),
            "tiers": None if tiers is None else [tier.strip() for tier in tiers.split(",")],
            "minimize": minimize or "latency",
            "margin_frac": _number(margin, "%", "--margin") / 100,
            "tests": tests,
        },
        Need,
        where="recommend",
    )
    evidence = joined([load_evidence(directory) for directory in directories])
    if not need.constrained and minimize is None:
        table = decision_table(evidence, subject)
        click.echo(_json({"table": table, "notes": evidence.notes}) if as_json else table_text(evidence, table))
        return
    found = recommend(evidence, need, subject)
    click.echo(_json(found) if as_json else recommendation_text(found))


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()


def _quantile(text: str) -> float:
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", text)
    if match is None or float(match.group(1)) == 0:
        raise InputError("a quantile must read like p50, p95 or p99.9", got=repr(text), where="--at")
    return float(match.group(1)) / 100


def _drop(text: str) -> AccuracyDrop:
    from tierwise.planner import AccuracyDrop

    relative = text.strip().endswith("%")
    number = _number(text, "%" if relative else "pp", "--max-accuracy-drop")
    return AccuracyDrop(frac=number / 100, relative=relative)


def _hours(text: str) -> float:
    """A bare number is hours."""
    return parse_seconds(f"{text}h" if re.fullmatch(r"[\d.]+", text) else text)


def _number(text: str, unit: str, option: str) -> float:
    match = re.fullmatch(rf"\s*(\d+\.?\d*|\.\d+)\s*{unit}{'?' if unit == 'J' else ''}\s*", text)
    if match is None:
        other = " or 1%" if unit == "pp" else ""
        raise InputError(f"the value must read like 1{unit}{other}", got=repr(text), where=option)
    return float(match.group(1))
