"""What was built: the variants, and which of their operators really run in 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_frac
from tierwise.artifact import Coverage, NodeAudit
from tierwise.report._table import Cell, Column, Table, Tag
from tierwise.study import StudyData, Variant

__all__ = ["Audit", "audits", "unaudited", "variants_table"]


@final
@dataclass(frozen=True)
class Audit:
    """The int8 coverage of one variant.

    Attributes:
        variant: Its key.
        strategies: Strategies that use it.
        share_frac: Share of the multiply-accumulates that runs in int8.
        summary: The same with counts, in words.
        reasons: Why operators stayed in float: reason and number of operators, the most frequent first.
        table: Every compute operator, those in float first.
    """

    variant: str
    strategies: tuple[str, ...]
    share_frac: float
    summary: str
    reasons: tuple[tuple[str, int], ...]
    table: Table


def variants_table(data: StudyData) -> Table:
    """One row per variant: what it is made of and how it was checked."""
    columns = (
        Column("Variant"),
        Column("Segments", numeric=True),
        Column("Size", numeric=True),
        Column("Arithmetic", numeric=True, unit="MACs an item, by segment"),
        Column("Parts against whole", numeric=True, unit="largest difference"),
        Column("Deployed = direct", numeric=True, unit="same class"),
        Column("Remarks", wide=True),
    )
    return Table(
        caption="Variants: what the operator chains produced",
        columns=columns,
        rows=tuple(_variant_row(variant) for variant in data.variants.values()),
    )


def _variant_row(variant: Variant) -> tuple[Cell, ...]:
    manifest = variant.manifest
    macs = [segment.macs for segment in manifest.segments]
    error = manifest.provenance.composition_error
    agreement = variant.agreement_frac
    return (
        Cell(manifest.provenance.chain, note=variant.digest[:12]),
        Cell(str(len(macs)), key=float(len(macs))),
        Cell(format_bytes(variant.artifact_bytes), key=float(variant.artifact_bytes)),
        Cell(" + ".join(_count(part) for part in macs), key=float(sum(macs))),
        Cell("not cut" if error is None else "exact" if error == 0 else f"{error:.1e}", soft=error is None),
        Cell("not checked" if agreement is None else format_frac(agreement), soft=agreement is None),
        Cell("; ".join(manifest.provenance.notes)),
    )


def audits(data: StudyData) -> tuple[Audit, ...]:
    """One audit per variant that a quantising operator made."""
    found = []
    for variant in data.variants.values():
        coverage = variant.manifest.coverage
        if coverage is not None:
            users = tuple(one.id for one in data.strategies if one.variant == variant.key)
            found.append(_audit(variant, coverage, users))
    return tuple(found)


def unaudited(data: StudyData) -> tuple[str, ...]:
    """Chains without an audit: nothing in them was quantised."""
    chains = (one.manifest.provenance.chain for one in data.variants.values() if one.manifest.coverage is None)
    return tuple(dict.fromkeys(chains))


def _audit(variant: Variant, coverage: Coverage, users: tuple[str, ...]) -> Audit:
    ops = coverage.int8_ops + coverage.float_ops
    counts: dict[str, int] = {}
    for node in coverage.nodes:
        if not node.int8:
            counts[node.reason or "no reason found"] = counts.get(node.reason or "no reason found", 0) + 1
    return Audit(
        variant=variant.manifest.provenance.chain,
        strategies=users,
        share_frac=coverage.int8_macs_frac,
        summary=(
            f"{coverage.int8_ops} of {ops} compute operators run in int8, "
            f"{_honest(coverage.int8_macs_frac)} of the multiply-accumulates (audited on {coverage.isa})"
        ),
        reasons=tuple(sorted(counts.items(), key=lambda entry: -entry[1])),
        table=_audit_table(coverage.nodes),
    )


def _audit_table(nodes: Sequence[NodeAudit]) -> Table:
    total = sum(node.macs for node in nodes)
    rows = tuple(
        (
            Cell(node.node, key=node.node),
            Cell(node.op, key=node.op),
            Cell("", key=float(node.int8), tags=(Tag("int8", "yes") if node.int8 else Tag("float", "no"),)),
            Cell(_count(node.macs), key=float(node.macs), note=format_frac(node.macs / total) if total else ""),
            Cell("") if node.int8 else Cell(node.reason or "no reason found", key=node.reason),
        )
        for node in sorted(nodes, key=lambda node: (node.int8, -node.macs))
    )
    columns = (
        Column("Operator"),
        Column("Type"),
        Column("Computes in"),
        Column("Arithmetic", numeric=True, unit="MACs"),
        Column("Why not int8", wide=True),
    )
    return Table(caption="Compute operators of the optimised graph", columns=columns, rows=rows, sortable=True)


def _honest(frac: float) -> str:
    """A percentage that says 100 only where it is."""
    return "more than 99.9 %" if 0.9995 <= frac < 1 else format_frac(frac)


def _count(number: int) -> str:
    """A count in powers of 1000: ``12.3 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return str(number)
