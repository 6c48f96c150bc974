"""The third file of an import: what each variant answered to each item of the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.planner import Judged
from tierwise.study._import_rows import Judgement, column, needed
from tierwise.study._table_file import Row, Table, normal

__all__ = ["read_answers"]

Key = tuple[str, str, str]
Integers = npt.NDArray[np.int64]

_LARGEST = 2**53
_ROUNDED = 0.005 + 1e-9  # an accuracy may be given in whole percent


def read_answers(
    table: Table, columns: Mapping[str, str], cells: Sequence[Key], judgements: Mapping[Key, Judgement]
) -> dict[tuple[str, str], Judged]:
    """Answers by `Deployment.key`, of those that the file has.

    A column of answers is titled by the variant that the accuracy file names, by ``strategy@tier``, or by the strategy.

    Args:
        table: The file.
        columns: Titles by role.
        cells: Subject, strategy and placement of each deployment.
        judgements: What is said of the accuracy of each of them.

    Raises:
        InputError: A missing column, a column of nobody, a wrong or missing field, an item given twice, or answers that
            do not give the number of items or the accuracy that the other file says.
    """
    item, label = (needed(table, role, columns) for role in ("item", "label"))
    subject = column(table, "subject", columns)
    titles = [title for title in table.titles if title not in {item, label, subject}]
    owners = _owners(table, titles, cells, judgements)
    found: dict[tuple[str, str], Judged] = {}
    for name, rows in _by_subject(table, subject, cells).items():
        _once_each(rows, item, name)
        labels = np.array([_class(row, label) for row in rows], dtype=np.int64)
        answers = {title: _answers(rows, title) for title in titles}
        for key, title in owners.items():
            predicted = answers[title]
            if key[0] != name or predicted is None:
                continue
            judged = Judged(title, predicted, labels)
            _check(table, judged, judgements[key], f"{key[1]}@{key[2]}")
            found[name, f"{key[1]}@{key[2]}"] = judged
    return found


def _owners(
    table: Table, titles: Sequence[str], cells: Sequence[Key], judgements: Mapping[Key, Judgement]
) -> dict[Key, str]:
    """The column of each deployment that has one."""
    owners: dict[Key, str] = {}
    named: dict[str, str] = {}
    for key in cells:
        _, strategy, placement = key
        variant = judgements[key].variant
        able = [normal(variant)] if variant else [normal(f"{strategy}@{placement}"), normal(strategy)]
        title = next((one for one in able if one in titles), None)
        if title is None:
            continue
        if variant is None and named.setdefault(title, strategy) != strategy:
            raise InputError(
                "a column of answers must be of one strategy",
                got=f"{table.titles[title]!r} for {named[title]} and {strategy}",
                where=table.path,
                fix="Add a column variant to the accuracy file, and title the answers by it",
            )
        owners[key] = title
    if stray := [title for title in titles if title not in owners.values()]:
        raise InputError(
            "a column of answers must be titled by a variant of the accuracy file, a strategy@tier, or a strategy",
            got=repr(table.titles[stray[0]]),
            where=table.path,
        )
    return owners


def _by_subject(table: Table, title: str | None, cells: Sequence[Key]) -> dict[str, list[Row]]:
    names = list(dict.fromkeys(subject for subject, _, _ in cells))
    if title is None:
        if len(names) > 1:
            raise InputError(
                "the file must have a column subject, since the others hold several", got="none", where=table.path
            )
        return {names[0]: list(table.rows)}
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        name = row.name(title)
        if name not in names:
            raise InputError(f"the subject must be one of {', '.join(names)}", got=repr(name), where=row.where)
        found.setdefault(name, []).append(row)
    return found


def _once_each(rows: Sequence[Row], title: str, subject: str) -> None:
    seen: set[str] = set()
    for row in rows:
        name = row.name(title)
        if name in seen:
            raise InputError("an item must be given once", got=f"{name} of {subject} again", where=row.where)
        seen.add(name)


def _answers(rows: Sequence[Row], title: str) -> Integers | None:
    """None where the column says nothing of this subject."""
    given = [bool(row.cells[title].strip()) for row in rows]
    if not any(given):
        return None
    if not all(given):
        raise InputError(
            f"column {title} must hold an answer for every item of a subject, or for none",
            got="an empty field",
            where=rows[given.index(False)].where,
        )
    return np.array([_class(row, title) for row in rows], dtype=np.int64)


def _class(row: Row, title: str) -> int:
    value = row.number(title)
    if value % 1 or abs(value) > _LARGEST:
        raise InputError(
            f"column {title} must hold a class, which is a whole number", got=row.cells[title].strip(), where=row.where
        )
    return int(value)


def _check(table: Table, judged: Judged, judgement: Judgement, id: str) -> None:
    count = len(judged.labels)
    if judgement.items is not None and judgement.items != count:
        raise InputError(
            f"the answers must be to all {judgement.items:g} items that the accuracy of {id} is of",
            got=f"{count} items",
            where=table.path,
        )
    for metric, stated in judgement.accuracies.items():
        value = _value(metric, judged)
        if value is not None and abs(value - stated) > _ROUNDED:
            raise InputError(
                f"the answers must give the {metric} that the accuracy file says of {id}, {stated:.4g}",
                got=f"{value:.4g}",
                where=table.path,
                fix="Call it by another name where it is another metric: accuracy is the share of right answers, f1 "
                "that of class 1",
            )


def _value(metric: str, judged: Judged) -> float | None:
    """The metrics that are compared item by item; None for others."""
    if metric == "accuracy":
        return float(judged.right.mean())
    if metric == "f1":
        said, true = judged.predicted == 1, judged.labels == 1
        both = int((said & true).sum())
        return 2 * both / max(1, int(said.sum() + true.sum()))
    return None
