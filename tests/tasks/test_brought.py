from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tierwise._errors import InputError, SpecError
from tierwise.artifact import ImageInput, TensorInput, TensorSpec, TextInput
from tierwise.measure import Silent
from tierwise.tasks import ModuleTask, OnnxTask, Task, load_task

GOOD = """
import numpy as np
import torch
from tierwise.artifact import ImageInput
from tierwise.tasks import Split, Task

SHIFTS = dict(train=0, calibration=1, validation=2, test=3)

def split(name, count=6, pixels=4):
    labels = np.arange(count) % 2
    pictures = [np.full((pixels, pixels, 1), 10 * i + SHIFTS[name], np.uint8) for i in range(count)]
    return Split(pictures, labels)

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()

def fields():
    return dict(
        name="mine",
        encoding=ImageInput(encoding="uint8", height=4, width=4, channels=1, mean=(0.5,), std=(0.5,)),
        labels=("no", "yes"),
        splits={name: split(name) for name in SHIFTS},
        model=lambda progress: net(),
    )

def good():
    return Task(**fields())
"""


@pytest.fixture
def write(tmp_path: Path) -> Iterator[object]:
    """Writes the user's module and gives the spec of one of its functions."""
    before = set(sys.modules), list(sys.path)

    def spec(function: str, more: str = "", module: str = "mine_for_test") -> ModuleTask:
        (tmp_path / f"{module}.py").write_text(GOOD + more)
        sys.modules.pop(module, None)
        return ModuleTask(function=f"{module}:{function}", folder=str(tmp_path))

    yield spec
    for name in set(sys.modules) - before[0]:
        if name.startswith("mine_for_test"):
            del sys.modules[name]
    sys.path[:] = before[1]


def changed(field: str, value: str) -> str:
    return f"\ndef bad():\n    return Task(**(fields() | dict({field}={value})))\n"


def test_a_function_gives_a_task(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    task = load_task(write("good"), tmp_path / "cache")
    assert task.name == "mine"
    assert len(task.fingerprint) == 64
    assert task.example()["input"].shape == (2, 1, 4, 4)
    assert task.model is not None
    assert task.model(Silent())(*task.example().values()).shape == (2, 2)
    assert load_task(write("good"), tmp_path / "cache").fingerprint == task.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "'other'"),
        ("labels", "('nein', 'ja')"),
        ("fingerprint", "'second trial'"),
        ("metric", "'f1'"),
        ("splits", "{n: split(n, 8) for n in SHIFTS}"),
    ],
)
def test_fingerprint_of_a_users_task(write, tmp_path: Path, field: str, value: str) -> None:  # type: ignore[no-untyped-def]
    more = changed(field, value) + "\ndef bad_too():\n    return good()\n"
    assert (
        load_task(write("bad", more), tmp_path).fingerprint != load_task(write("bad_too", more), tmp_path).fingerprint
    )


def test_fingerprint_holds_the_weights(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    more = """
import pathlib
def net():
    torch.manual_seed(int((pathlib.Path(__file__).parent / "seed").read_text()))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
"""
    found = set()
    for seed in "12":
        (tmp_path / "seed").write_text(seed)
        found.add(load_task(write("good", more), tmp_path).fingerprint)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "''", "its name must be a non-empty text, but got ''"),
        ("encoding", "'jpeg'", "its encoding must be an ImageInput, TextInput or TensorInput"),
        ("labels", "['a', 'b']", "its labels must be a tuple of at least two class names"),
        ("metric", "'bleu'", "its metric must be 'accuracy' or 'f1', but got 'bleu'"),
        ("model", "None", "its model must be a function"),
        ("model", "net()", "gives the module, but got the module itself. Write model=lambda"),
        ("model", "lambda progress: 1 / 0", r"its model must not fail \(ZeroDivisionError: division by zero\)"),
        ("model", "lambda progress: 3", "its model must give a torch module, but got int"),
        ("model", "lambda progress: net().train()", "must be in eval mode. Call .eval"),
        ("model", "lambda progress: net()[:1].eval()", r"must answer logits \[n, 2\], but got \[2, 16\] for n = 2"),
        ("onnx", "'model.onnx'", "its onnx must be None or a path to a file"),
        ("outputs", "()", "its outputs must be a tuple of names"),
        ("files", "{'a.json': 'text'}", "its files must be a mapping from file name to bytes"),
        ("fingerprint", "None", "its fingerprint must be a text"),
        ("splits", "[]", "its splits must be a mapping with the keys train, calibration, validation, test"),
        ("splits", "{'train': split('train')}", "its splits must hold 'calibration', but got \\['train'\\]"),
        ("splits", "dict.fromkeys(SHIFTS, 1)", "must be a tierwise.tasks.Split, but got int"),
        ("splits", "dict.fromkeys(SHIFTS, split('train'))", "no item may be in two splits, but got the same content"),
        ("splits", "{n: split(n, 0) for n in SHIFTS}", "at least one item, but got 0 items, 0 labels"),
        ("splits", "{n: Split([b'x'], np.array([7])) for n in SHIFTS}", r"must lie in 0..1, but got 7..7"),
        (
            "splits",
            "{n: Split([b'x'], np.array([0.5])) for n in SHIFTS}",
            r"must be an int64 array \[n\], but got float64",
        ),
        ("splits", "{n: split(n, pixels=5) for n in SHIFTS}", "|"),
    ],
)
def test_each_field_is_checked(write, tmp_path: Path, field: str, value: str, message: str) -> None:  # type: ignore[no-untyped-def]
    if message == "|":  # pixels of another size are resized by the node: allowed
        assert load_task(write("bad", changed(field, value)), tmp_path).example()["input"].shape == (2, 1, 4, 4)
        return
    with pytest.raises(InputError, match=message) as caught:
        load_task(write("bad", changed(field, value)), tmp_path)
    assert str(caught.value).startswith("what mine_for_test:bad returned: ")


def test_a_model_that_cannot_run(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    more = changed("model", "lambda progress: torch.nn.Linear(3, 2).eval()")
    with pytest.raises(InputError, match=r"must run on two calibration items \(RuntimeError: .*forward must take"):
        load_task(write("bad", more), tmp_path)


def test_not_a_task(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"must be a tierwise.tasks.Task, but got dict. Return Task\(name="):
        load_task(write("fields"), tmp_path)


def test_a_function_that_fails_is_shown_with_its_line(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    more = "\ndef bad():\n    return {}['weights']\n"
    line = (GOOD + more).splitlines().index("    return {}['weights']") + 1
    with pytest.raises(InputError, match=rf"mine_for_test.py:{line}: mine_for_test:bad must not fail \(KeyError: 'wei"):
        load_task(write("bad", more), tmp_path)


def test_imports_are_explained(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=r"must be given as module:function, but got 'mine.py'"):
        load_task(ModuleTask(function="mine.py"), tmp_path)
    with pytest.raises(
        SpecError, match=r"the module nowhere_to_be_found must be importable, but got no such module. Give"
    ):
        load_task(ModuleTask(function="nowhere_to_be_found:make"), tmp_path)
    with pytest.raises(SpecError, match=r"Put nowhere_to_be_found.py into "):
        load_task(ModuleTask(function="nowhere_to_be_found:make", folder=str(tmp_path)), tmp_path)
    with pytest.raises(SpecError, match="the folder of the module must exist, but got '/nowhere'"):
        load_task(ModuleTask(function="mine:make", folder="/nowhere"), tmp_path)
    with pytest.raises(SpecError, match=r"must have a function make, but got only .*fields, good, net, split"):
        load_task(write("make"), tmp_path)
    with pytest.raises(SpecError, match=r"it imports timmm, which is not installed. Install timmm"):
        load_task(write("good", "\nimport timmm.models\n"), tmp_path)
    with pytest.raises(SpecError, match=r"mine_for_test.py:\d+: .*\(ZeroDivisionError: division by zero\)"):
        load_task(write("good", "\n1 / 0\n"), tmp_path)


def an_onnx(path: Path, *names: str, kind: int = TensorProto.FLOAT) -> Path:
    """The sum of its inputs [n, 3], as logits."""
    inputs = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in names]
    output = helper.make_tensor_value_info("answer", kind, ["n", 3])
    node = helper.make_node("Sum", list(names), ["answer"])
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [output]), opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.save(model, path)
    return path


def arrays(*inputs: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {}
    for split in ("train", "calibration", "validation", "test"):
        for name in inputs:
            found[f"{split}_items{name}"] = generator.standard_normal((5, 3)).astype(np.float32)
        found[f"{split}_labels"] = np.arange(5) % 3
    return found


def test_an_onnx_file_alone(tmp_path: Path) -> None:
    path = an_onnx(tmp_path / "net.onnx", "x", "y")
    task = load_task(OnnxTask(file=str(path)), tmp_path)
    assert (task.name, task.model, task.onnx, task.outputs) == ("net", None, path, ("answer",))
    assert task.labels == ("0", "1", "2")
    rows = tuple(TensorSpec(name=name, dtype="FP32", shape=(-1, 3)) for name in ("x", "y"))
    assert task.encoding == TensorInput(tensors=rows)
    assert {name: tuple(tensor.shape) for name, tensor in task.example().items()} == {"x": (2, 3), "y": (2, 3)}
    with pytest.raises(InputError, match=r"this task has no data: .* Give `data`"):
        task.splits["calibration"]
    assert task.fingerprint == load_task(OnnxTask(file=str(path)), tmp_path).fingerprint


@pytest.mark.parametrize("names", [("x",), ("x", "y")])
def test_an_onnx_file_with_arrays(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = an_onnx(tmp_path / "net.onnx", *names)
    np.savez(tmp_path / "data.npz", **arrays(*(f"_{name}" for name in names) if len(names) > 1 else [""]))
    task = load_task(OnnxTask(file=str(path), data=str(tmp_path / "data.npz")), tmp_path)
    tensors, labels = next(task.batches("test", 4))
    assert {name: array.shape for name, array in tensors.items()} == dict.fromkeys(names, (4, 3))
    assert labels.tolist() == [0, 1, 2, 0]
    assert task.fingerprint != load_task(OnnxTask(file=str(path)), tmp_path).fingerprint


def test_an_onnx_file_with_a_users_splits(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 4, 4])]
    output = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 16])
    graph = helper.make_graph([helper.make_node("Flatten", ["input"], ["answer"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    module = write("splits", "\ndef splits():\n    return fields()['splits']\n")
    spec = OnnxTask(
        file=str(tmp_path / "net.onnx"),
        encoding=ImageInput(encoding="uint8", height=4, width=4, channels=1, mean=(0.5,), std=(0.5,)),
        splits=module.function,
        folder=module.folder,
    )
    task = load_task(spec, tmp_path)
    assert task.example()["input"].shape == (2, 1, 4, 4)
    assert len(task.labels) == 16


def test_errors_of_onnx_tasks(tmp_path: Path) -> None:
    path = str(an_onnx(tmp_path / "net.onnx", "x"))
    image = ImageInput(encoding="uint8", height=4, width=4, channels=1, mean=(0.5,), std=(0.5,))
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.npz").write_text("not an archive")
    np.savez(tmp_path / "objects.npz", train_items=np.array([{}], dtype=object))
    np.savez(tmp_path / "few.npz", train_items=np.zeros((2, 3), np.float32))
    strings = an_onnx(tmp_path / "strings.onnx", "x", kind=TensorProto.STRING)
    for spec, message in (
        (OnnxTask(file="nowhere.onnx"), "task.file: the ONNX file must exist, but got 'nowhere.onnx'"),
        (OnnxTask(file=str(tmp_path / "text.onnx")), "the file must be an ONNX model"),
        (OnnxTask(file=str(strings)), "an input must be of a numeric type, but got STRING"),
        (
            OnnxTask(file=path, encoding=image),
            r"the encoding must make the model's inputs \['x'\], but got \['input'\]",
        ),
        (OnnxTask(file=path, encoding=TextInput(max_length=8)), "a text encoding needs the tokenizer's file"),
        (OnnxTask(file=path, data="a", splits="b:c"), "data and splits exclude each other"),
        (OnnxTask(file=path, data=str(tmp_path / "empty.npz")), "must be a readable .npz file without objects"),
        (OnnxTask(file=path, data=str(tmp_path / "objects.npz")), "must be a readable .npz file without objects"),
        (OnnxTask(file=path, data=str(tmp_path / "few.npz")), "the data must hold the array train_labels"),
    ):
        with pytest.raises(SpecError, match=message):
            load_task(spec, tmp_path)
    assert isinstance(load_task(OnnxTask(file=path), tmp_path), Task)
