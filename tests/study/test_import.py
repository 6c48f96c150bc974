"""Studies of others: what is read, what is refused, and that a refusal writes nothing."""

import contextlib
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierwise._errors import InputError, StoreError
from tierwise.study import ImportSpec, import_evidence, load_evidence, write_evidence
from tierwise.topology import load

LATENCY = """latency_ms,strategy,tier,subject
12.5,identity,edge,bert
13.5,identity,edge,bert
6.5,sptq,edge,bert
7.5,sptq,edge,bert
"""
ACCURACY = """strategy,subject,metric,value
identity,bert,f1,0.91
sptq,bert,f1,0.90
"""


def files(folder: Path, latency: str | bytes = LATENCY, accuracy: str | bytes = ACCURACY) -> tuple[Path, Path]:
    paths = folder / "latency.csv", folder / "accuracy.csv"
    for path, text in zip(paths, (latency, accuracy), strict=True):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


def test_what_was_imported_is_read_back(tmp_path: Path) -> None:
    evidence = import_evidence(*files(tmp_path), ImportSpec(name="theirs", kinds={"bert": "text"}))
    assert [one.id for one in evidence.deployments] == ["identity@edge", "sptq@edge"]
    assert evidence.subjects[0].baseline == "identity"
    assert evidence.accuracy_lost(evidence.deployments[1]) == pytest.approx(0.01)
    assert "accuracies cannot be compared item by item" in evidence.notes[-1]
    again = load_evidence(write_evidence(tmp_path / "out", evidence))
    assert (again.deployments, again.subjects, again.notes) == (
        evidence.deployments,
        evidence.subjects,
        evidence.notes,
    )
    np.testing.assert_allclose(again.samples["bert", "sptq@edge"].latency_s, [0.0065, 0.0075])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evidence.json", "samples.npz"]
    assert not list(tmp_path.glob(".out*"))
    with pytest.raises(StoreError, match="does not exist yet"):
        write_evidence(tmp_path / "out", evidence)


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    plain = files(tmp_path)
    packed = [path.with_name(f"{path.name}.gz") for path in plain]
    for path, target in zip(plain, packed, strict=True):
        target.write_bytes(gzip.compress(path.read_bytes()))
    assert import_evidence(*packed).deployments == import_evidence(*plain).deployments
    for damaged in (packed[0].read_bytes()[:-9], plain[0].read_bytes(), b"\x1f\x8b\x08" + bytes(20)):
        packed[0].write_bytes(damaged)
        with pytest.raises(InputError, match=r"latency\.csv\.gz: .*packed with gzip .*Pack it again"):
            import_evidence(*packed)


def test_quotes_line_breaks_and_blanks_inside_fields_survive(tmp_path: Path) -> None:
    latency = (
        '\ufeff"Latency (ms)","Operator","Tier","Model"\r\n'
        '" 12.5\n","distilled\n sptq"," Mobile-Edge ","bert"\r\n'
        "\r\n"
        '"1.35e1","distilled   sptq","mobile | edge",bert\r\n'
    )
    accuracy = 'Strategy,Subject,Metric,"Value (%)"\n"distilled sptq",bert,F1,"90.5"\n'
    evidence = import_evidence(*files(tmp_path, latency, accuracy))
    assert [one.id for one in evidence.deployments] == ["distilled sptq@mobile|edge"]
    assert evidence.deployments[0].tiers == ("mobile", "edge")
    assert evidence.deployments[0].accuracies == {"f1": pytest.approx(0.905)}
    np.testing.assert_allclose(evidence.samples["bert", "distilled sptq@mobile|edge"].latency_s, [0.0125, 0.0135])


def test_columns_by_name_units_by_option_blocks_costs_and_kinds(tmp_path: Path) -> None:
    latency = "t,s,where,what,kind,block,bytes_up,bytes_down\n" + "".join(
        f"{0.1 + i / 100},{name},cloud,vit,image,{i},2000,100\n" for i in range(3) for name in ("identity", "qat")
    )
    accuracy = "s,what,metric,value,items,training_h,artifact_bytes,tier\n"
    accuracy += "identity,vit,top-1,0.8,1000,0,400,cloud\nidentity,vit,top-5,0.9,1000,0,400,cloud\n"
    accuracy += "qat,vit,top-1,0.7,1000,2.5,100,cloud\nqat,vit,top-5,0.85,1000,2.5,100,cloud\n"
    names = {"latency": "t", "strategy": "s", "tier": "where", "subject": "what"}
    spec = ImportSpec(columns=names, unit="s", metric="top-5", topology=load("paper"))
    with pytest.raises(InputError, match="column for tier"):
        import_evidence(*files(tmp_path, latency, accuracy), ImportSpec(columns={**names, "tier": "nowhere"}))
    evidence = import_evidence(*files(tmp_path, latency, accuracy), spec)
    subject, qat = evidence.subjects[0], evidence.deployments[1]
    assert (subject.kind, subject.paired, subject.metric) == ("image", True, "top-5")
    assert (qat.training_s, qat.artifact_bytes, qat.accuracy_items) == (9000.0, 100, 1000)
    assert [(hop.lower, hop.up_bytes, hop.carries) for hop in qat.hops] == [
        ("mobile", 1000, "input"),
        ("edge", 1000, "input"),
    ]
    assert evidence.accuracy_lost(qat) == pytest.approx(0.05)
    blocks = [evidence.samples["vit", f"{name}@cloud"].block for name in ("identity", "qat")]
    np.testing.assert_array_equal(*blocks)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


L, A = LATENCY, ACCURACY
ROW = "13.5,identity,edge,bert"
BAD: dict[str, tuple[str | bytes, str | bytes, str]] = {
    "empty latency file": ("", A, "latency.csv: .*it is empty"),
    "empty accuracy file": (L, " \n\n", "accuracy.csv: .*it is empty"),
    "header only": (L.splitlines()[0], A, "latency.csv: .*rows below its header"),
    "utf-16": (L.encode("utf-16"), A, "latency.csv, line 1: .*NUL.*UTF-16"),
    "latin-1": (L, A.replace("sptq", "réduit").encode("latin-1"), "accuracy.csv, line 3: .*UTF-8"),
    "nul bytes": (changed(L, ROW, "13.5,iden\0tity,edge,bert"), A, "latency.csv, line 3: .*NUL"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", A, "latency.csv, line 1: .*UTF-8"),
    "unbalanced quotes": (changed(L, "sptq", '"sptq'), A, "line 5: .*balanced quotes"),
    "text after a quote": (changed(L, "sptq", '"sp"tq'), A, "line 4: .*balanced quotes"),
    "ragged short": (changed(L, ROW, "13.5,identity,edge"), A, "latency.csv, line 3: .*4 fields.*got 3"),
    "ragged long": (changed(L, ROW, "13,5,identity,edge,bert"), A, "latency.csv, line 3: .*4 fields.*got 5"),
    "semicolons": (L.replace(",", ";"), A, "latency.csv, line 1: .*separated by commas"),
    "title twice": (changed(L, "subject", "tier"), A, "line 1: .*title of its own.*number 4"),
    "title empty": (changed(L, "subject", ""), A, "line 1: .*title of its own"),
    "no strategy column": (changed(L, "strategy", "colour"), A, "latency.csv: .*column strategy.*--columns strategy"),
    "no tier column": (changed(L, "tier", "colour"), A, "latency.csv: .*column tier"),
    "no subject column": (L, changed(A, "subject", "colour"), "accuracy.csv: .*column subject"),
    "no latency column": (changed(L, "latency_ms", "speed"), A, "one column of latencies.*--columns latency"),
    "no metric column": (L, changed(A, "metric", "colour"), "accuracy.csv: .*column metric"),
    "no value column": (L, changed(A, "value", "colour"), "accuracy.csv: .*column value"),
    "files swapped": (A, L, "latency.csv: .*column tier"),
    "unknown unit": (changed(L, "latency_ms", "latency_fortnights"), A, "must have a unit.*fortnights"),
    "no unit": (changed(L, "latency_ms", "latency"), A, "must have a unit"),
    "mixed units by column": (
        "latency_ms,latency_s,strategy,tier,subject\n1,,identity,edge,bert\n,1,sptq,edge,bert\n",
        A,
        "one column of latencies.*latency_ms, latency_s",
    ),
    "mixed units in cells": (changed(L, "13.5", "0.0135s"), A, "line 3: .*no unit.*0.0135s"),
    "nan": (changed(L, "13.5", "NaN"), A, "line 3: .*finite number.*NaN"),
    "infinite": (changed(L, "13.5", "1e999"), A, "line 3: .*finite number"),
    "negative latency": (changed(L, "13.5", "-13.5"), A, "line 3: .*not be negative.*-13.5"),
    "zero latency": (changed(L, "13.5", "0"), A, "line 3: .*positive"),
    "empty latency": (changed(L, "13.5", ""), A, "line 3: .*finite number"),
    "words for a number": (changed(L, "13.5", "fast"), A, "line 3: .*finite number.*fast"),
    "decimal comma": (changed(L, "13.5", '"13,5"'), A, "line 3: .*point as decimal mark"),
    "blank inside a number": (changed(L, "13.5", '"13\n5"'), A, "line 4: .*finite number"),
    "empty strategy": (changed(L, ROW, "13.5,  ,edge,bert"), A, "line 3: .*column strategy must hold a name"),
    "control character": (changed(L, ROW, "13.5,iden\x07tity,edge,bert"), A, "line 3: .*must hold a name"),
    "wrong tier pair": (changed(L, ROW, "13.5,identity,edge|edge,bert"), A, "line 3: .*mobile|edge"),
    "empty tier in a pair": (changed(L, ROW, "13.5,identity,mobile|,bert"), A, "line 3: .*tier must be"),
    "accuracy twice": (L, A + "sptq,bert,F1,0.7\n", "accuracy.csv, line 4: .*given once.*f1 of sptq"),
    "accuracy in percent": (L, changed(A, "0.91", "91"), "accuracy.csv, line 2: .*between 0 and 1.*value_percent"),
    "accuracy negative": (L, changed(A, "0.91", "-0.91"), "accuracy.csv, line 2: .*negative"),
    "accuracy nan": (L, changed(A, "0.91", "nan"), "accuracy.csv, line 2: .*finite"),
    "strategy without accuracy": (L + "1,qat,edge,bert\n", A, "accuracy.csv: .*none for qat on edge"),
    "strategy without latencies": (L, A + "qat,bert,f1,0.8\n", "latency.csv: .*none for qat, subject bert"),
    "subject without accuracy": (L + "1,sptq,edge,vit\n", A, "accuracy.csv: .*subject vit"),
    "costs that contradict": (
        L,
        "strategy,subject,metric,value,training_h\nidentity,bert,f1,0.9,\nsptq,bert,f1,0.8,2\nsptq,bert,auc,0.8,3\n",
        "accuracy.csv, line 4: .*the same in all rows.*3 after 2",
    ),
    "half an item": (L, "strategy,subject,metric,value,items\nidentity,bert,f1,0.9,10.5\n", "line 2: .*whole number"),
    "metric of some strategies only": (L, changed(A, "sptq,bert,f1", "sptq,bert,auc"), "must have the metric f1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_file_is_one_clear_error_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    latency, accuracy, said = BAD[kind]
    paths = files(tmp_path, latency, accuracy)
    with pytest.raises(InputError, match=f"(?s){said}") as caught:
        write_evidence(tmp_path / "out", import_evidence(*paths))
    assert str(tmp_path) in str(caught.value) or "bert" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "latency.csv"]


def test_there_are_more_than_thirty_kinds() -> None:
    assert len(BAD) >= 30


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ImportSpec(columns={"speed": "latency_ms"}), "role must be one of latency"),
        (ImportSpec(columns={"latency": "nope"}), "column for latency must be in a file"),
        (ImportSpec(unit="s"), "contradict"),
        (ImportSpec(metric="auc"), "must have the metric auc"),
        (ImportSpec(kinds={"vit": "image"}), "a kind must be of a subject"),
    ],
)
def test_options_that_do_not_fit_the_files(spec: ImportSpec, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        import_evidence(*files(tmp_path), spec)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.csv: the file must be readable"):
        import_evidence(tmp_path / "no.csv", tmp_path / "no2.csv")


@pytest.mark.parametrize("damage", ["evidence.json", "samples.npz"])
def test_a_damaged_import_is_said(damage: str, tmp_path: Path) -> None:
    directory = write_evidence(tmp_path / "out", import_evidence(*files(tmp_path)))
    content = (directory / damage).read_bytes()
    (directory / damage).write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="an import must be readable"):
        load_evidence(directory)
    with pytest.raises(StoreError, match="must hold a study"):
        load_evidence(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5), st.binary(max_size=4)), min_size=1, max_size=4),
    which=st.booleans(),
)
def test_any_damage_is_read_or_refused_and_never_a_defect(
    cuts: list[tuple[int, int, bytes]], which: bool, tmp_path: Path
) -> None:
    texts = [LATENCY.encode(), ACCURACY.encode()]
    for at, length, put in cuts:
        texts[which] = texts[which][:at] + put + texts[which][at + length :]
    with contextlib.suppress(InputError):
        evidence = import_evidence(*files(tmp_path, *texts))
        assert evidence.deployments
        assert all((own.latency_s > 0).all() for own in evidence.samples.values())


def test_the_format_on_disk_is_frozen(tmp_path: Path) -> None:
    directory = write_evidence(tmp_path / "out", import_evidence(*files(tmp_path)))
    stored = json.loads((directory / "evidence.json").read_text())
    assert stored["format"] == 1
    assert stored["subjects"] == [
        {"name": "bert", "kind": "unknown", "metric": "f1", "baseline": "identity", "paired": False}
    ]
    assert stored["deployments"][1] == {
        "subject": "bert", "id": "sptq@edge", "name": "sptq", "placement": "edge", "tiers": ["edge"],
        "accuracies": {"f1": 0.9}, "accuracy_items": None, "hops": None, "artifact_bytes": None, "training_s": None,
        "energy": None, "requests": 2, "errors": 0,
    }  # fmt: skip
    with np.load(directory / "samples.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["block_0", "block_1", "latency_0", "latency_1"]
        assert {arrays[name].dtype.str for name in arrays} == {"<f8", "<i8"}


def test_the_command_writes_all_or_nothing(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tierwise", "study", "import", *words], capture_output=True, text=True, timeout=60
        )

    latency, accuracy = map(str, files(tmp_path))
    good = run("--latency", latency, "--accuracy", accuracy, "--out", str(tmp_path / "a"), "--kind", "bert=text")
    assert good.returncode == 0, good.stderr
    assert "2 strategies of 1 subject" in good.stdout
    files(tmp_path, changed(L, "13.5", "nan"))
    bad = run("--latency", latency, "--accuracy", accuracy, "--out", str(tmp_path / "b"))
    assert bad.returncode == 2
    assert "latency.csv, line 3" in bad.stderr
    assert bad.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()
