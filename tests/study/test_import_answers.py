"""Answers to single test items in an import: what is read, what is compared, what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tierwise._errors import InputError
from tierwise.planner import Comparison, Need
from tierwise.study import ImportSpec, import_evidence, load_evidence, write_evidence

COUNT = 200
LABELS = [i % 2 for i in range(COUNT)]
WRONG = {"identity": 10, "sptq": 30, "sptq+partition": 30}
"""Of each strategy the first items are answered wrongly."""


def said(name: str) -> list[int]:
    return [1 - label if i < WRONG[name] else label for i, label in enumerate(LABELS)]


def latency(subject: str = "bert", names: tuple[str, ...] = tuple(WRONG)) -> str:
    rows = [
        f"{10 + i + 3 * j},{name},edge,{subject},{i}" for i in range(4) for j, name in enumerate(names)
    ]  # fmt: skip
    return "\n".join(["latency_ms,strategy,tier,subject,block", *rows]) + "\n"


def accuracy(variants: bool = False, metric: str = "accuracy") -> str:
    rows = [f"strategy,subject,metric,value,items{',variant' if variants else ''}"]
    rows += [
        f"{name},bert,{metric},{1 - wrong / COUNT},{COUNT}{f',v-{wrong}' if variants else ''}"
        for name, wrong in WRONG.items()
    ]
    return "\n".join(rows) + "\n"


def answers(names: dict[str, str] | None = None) -> str:
    names = names or {name: name for name in WRONG}
    columns = [said(name) for name in names]
    rows = [",".join(map(str, [i, label, *own])) for i, (label, *own) in enumerate(zip(LABELS, *columns, strict=True))]
    return "\n".join([",".join(["item", "label", *names.values()]), *rows]) + "\n"


def files(folder: Path, times: str, figures: str, items: str | bytes) -> tuple[Path, Path, Path]:
    paths = folder / "latency.csv", folder / "accuracy.csv", folder / "answers.csv"
    for path, text in zip(paths, (times, figures, items), strict=True):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


def test_accuracies_are_compared_item_by_item(tmp_path: Path) -> None:
    first, second, third = files(tmp_path, latency(), accuracy(), answers())
    evidence = import_evidence(first, second, answers=third)
    assert evidence.notes == ()
    again = load_evidence(write_evidence(tmp_path / "out", evidence))
    for one in (evidence, again):
        judged = one.judged["bert", "sptq@edge"]
        np.testing.assert_array_equal(judged.predicted, said("sptq"))
        np.testing.assert_array_equal(judged.labels, LABELS)
    compared = Comparison(again, again.subjects[0], Need())
    contrast = compared.contrast("identity@edge", "sptq@edge")
    assert contrast.accuracy is not None
    assert contrast.accuracy.p == pytest.approx(2 * 0.5**20)  # the exact test: 20 items, all won by one
    assert contrast.accuracy_difference is not None
    assert contrast.accuracy_difference.value == pytest.approx(0.1)
    figures = compared.figures("sptq@edge")
    assert figures.accuracy_paired
    alone = import_evidence(first, second)
    unpaired = Comparison(alone, alone.subjects[0], Need())
    assert not unpaired.figures("sptq@edge").accuracy_paired
    width = [
        found.high - found.low
        for found in (figures.accuracy_lost_interval, unpaired.figures("sptq@edge").accuracy_lost_interval)
    ]
    assert width[0] < width[1], "pairing is what the answers are for"


def test_f1_is_compared_too(tmp_path: Path) -> None:
    def f1(name: str) -> float:
        pairs = list(zip(said(name), LABELS, strict=True))
        both = pairs.count((1, 1))
        return 2 * both / (2 * both + pairs.count((1, 0)) + pairs.count((0, 1)))

    rows = [f"{name},bert,f1,{f1(name)}" for name in WRONG]
    first, second, third = files(
        tmp_path, latency(), "\n".join(["strategy,subject,metric,value", *rows]) + "\n", answers()
    )
    evidence = import_evidence(first, second, answers=third)
    assert evidence.deployments[0].accuracy_items == COUNT, "the answers say how many there are"
    found = Comparison(evidence, evidence.subjects[0], Need()).contrast("identity@edge", "sptq@edge")
    assert found.accuracy_difference is not None
    assert found.accuracy_difference.value == pytest.approx(f1("identity") - f1("sptq"))


def test_titles_by_variant_by_placement_and_by_strategy(tmp_path: Path) -> None:
    """One variant under two strategies is not compared with itself; a variant's name goes before a strategy's."""
    first, second, third = files(
        tmp_path, latency(), accuracy(variants=True), answers({"identity": "v-10", "sptq": "V 30"})
    )
    evidence = import_evidence(first, second, answers=third)
    assert {one.variant for one in evidence.judged.values()} == {"v_10", "v_30"}
    assert len(evidence.judged) == 3
    assert (
        Comparison(evidence, evidence.subjects[0], Need()).contrast("sptq@edge", "sptq+partition@edge").accuracy is None
    )
    first, second, third = files(tmp_path, latency(), accuracy(), answers({"identity": "identity@edge"}))
    evidence = import_evidence(first, second, answers=third)
    assert list(evidence.judged) == [("bert", "identity@edge")]
    assert "no answers to single test items for 2 of 3 deployments" in evidence.notes[0]


def test_several_subjects_have_rows_of_their_own(tmp_path: Path) -> None:
    times = latency() + latency("vit", ("identity",)).partition("\n")[2]
    figures = accuracy().replace(f",{COUNT}\n", ",\n") + "identity,vit,accuracy,1,\n"
    items = "subject," + answers().replace("\n", "\nbert,").removesuffix("bert,")
    items += "vit,a,3,3,,\nvit,b,-1,-1,,\n"
    first, second, third = files(tmp_path, times, figures, items)
    evidence = import_evidence(first, second, answers=third)
    np.testing.assert_array_equal(evidence.judged["vit", "identity@edge"].predicted, [3, -1])
    assert len(evidence.judged) == 4
    files(tmp_path, times, figures, answers())
    with pytest.raises(InputError, match=r"answers\.csv: .*must have a column subject"):
        import_evidence(first, second, answers=third)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


A = answers()
BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "answers.csv: .*it is empty"),
    "header only": (A.splitlines()[0], "answers.csv: .*rows below its header"),
    "utf-16": (A.encode("utf-16"), "answers.csv, line 1: .*NUL"),
    "ragged": (changed(A, "\n1,1,", "\n1,"), "answers.csv, line 3: .*5 fields.*got 4"),
    "no item column": (changed(A, "item", "name"), "answers.csv: .*column item.*--columns item=TITLE"),
    "no label column": (changed(A, "label", "truth"), "answers.csv: .*column label"),
    "title twice": (changed(A, "sptq,sptq+partition", "sptq,sptq"), "line 1: .*title of its own"),
    "a column of nobody": (changed(A, "sptq,", "qat,"), "answers.csv: .*titled by a variant.*'qat'"),
    "item twice": (changed(A, "\n1,", "\n0,"), "answers.csv, line 3: .*item must be given once.*0 of bert"),
    "item without a name": (changed(A, "\n1,", "\n ,"), "answers.csv, line 3: .*column item must hold a name"),
    "half a class": (changed(A, "\n1,1,0,", "\n1,1,0.5,"), "answers.csv, line 3: .*whole number.*0.5"),
    "a class in words": (changed(A, "\n1,1,0,", "\n1,1,cat,"), "answers.csv, line 3: .*finite number.*cat"),
    "a class too large": (changed(A, "\n1,1,0,", "\n1,1,1e300,"), "answers.csv, line 3: .*whole number"),
    "label in words": (changed(A, "\n1,1,", "\n1,dog,"), "answers.csv, line 3: .*column label.*dog"),
    "label missing": (changed(A, "\n1,1,", "\n1,,"), "answers.csv, line 3: .*column label"),
    "an answer missing": (changed(A, "\n1,1,0,", "\n1,1,,"), "answers.csv, line 3: .*for every item of a subject"),
    "fewer items": (A.rpartition("\n199,")[0] + "\n", "answers.csv: .*all 200 items.*identity@edge.*got 199"),
    "another accuracy": (
        "\n".join([A.splitlines()[0], *(row.replace(",0,", ",1,") for row in A.splitlines()[1:])]) + "\n",
        "answers.csv: .*give the accuracy that the accuracy file says of identity@edge, 0.95",
    ),
    "subject of nobody": ("subject," + A.replace("\n", "\nvit,").removesuffix("vit,"), "line 2: .*one of bert.*vit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_file_is_one_clear_error_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    first, second, third = files(tmp_path, latency(), accuracy(), content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        write_evidence(tmp_path / "out", import_evidence(first, second, answers=third))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "answers.csv", "latency.csv"]


def test_titles_that_could_be_two_strategies_are_refused(tmp_path: Path) -> None:
    names = ("identity", "a+b", "a b")
    figures = "strategy,subject,metric,value\n" + "".join(f"{name},bert,accuracy,0.95\n" for name in names)
    first, second, third = files(tmp_path, latency(names=names), figures, answers({"identity": "a b"}))
    with pytest.raises(InputError, match=r"of one strategy, but got 'a b' for a\+b and a b.*column variant"):
        import_evidence(first, second, answers=third)
    figures = "strategy,subject,metric,value,variant\nidentity,bert,accuracy,0.95,x\nidentity,bert,auc,0.9,y\n"
    files(tmp_path, latency(names=("identity",)), figures, answers())
    with pytest.raises(InputError, match=r"accuracy\.csv, line 3: .*one name in all rows.*y after x"):
        import_evidence(first, second, answers=third)


def test_titles_can_be_named_and_the_command_takes_the_file(tmp_path: Path) -> None:
    renamed = changed(A, "item,label", "no,truth")
    first, second, third = files(tmp_path, latency(), accuracy(), renamed)
    spec = ImportSpec(columns={"item": "no", "label": "truth"})
    assert len(import_evidence(first, second, spec, answers=third).judged) == 3
    words = ["--latency", str(first), "--accuracy", str(second), "--answers", str(third), "--out", str(tmp_path / "o")]
    run = [sys.executable, "-m", "tierwise", "study", "import", *words]
    bad = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "answers.csv" in bad.stderr
    assert not (tmp_path / "o").exists()
    good = subprocess.run([*run, "--columns", "item=no,label=truth"], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0, good.stderr
    assert "note" not in good.stdout
    assert len(load_evidence(tmp_path / "o").judged) == 3
